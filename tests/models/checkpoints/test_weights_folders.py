"""Which weights a folder means: one set, or a refusal that names two."""

from pathlib import Path

import pytest
import torch
from layouts import exported, small_state
from safetensors.torch import save_file

from evalsuite.errors import DataError
from evalsuite.models.checkpoints.reading import open_checkpoint

BESIDE = [
    ("transformer/diffusion_pytorch_model", "transformer_ema/diffusion_pytorch_model"),
    ("transformer/diffusion_pytorch_model", "ema/model"),
    ("transformer/diffusion_pytorch_model", "transformer/ema_0.9999"),
    ("model", "model_ema"),
    ("model", "nano_ema"),
    ("diffusion_pytorch_model", "model"),
]


@pytest.mark.parametrize(("main", "beside"), BESIDE)
def test_another_set_in_a_folder_is_never_passed_over(
    tmp_path: Path, main: str, beside: str
) -> None:
    """As training scripts save averages; each can be given as the refusal names it."""
    other = tmp_path / f"{beside}.safetensors"
    for number, path in enumerate((tmp_path / f"{main}.safetensors", other)):
        path.parent.mkdir(exist_ok=True)
        save_file({"w": torch.full((2,), float(number))}, path)
    with pytest.raises(DataError, match="which one is meant is not guessed") as caught:
        open_checkpoint(tmp_path)
    first, second = str(caught.value).rpartition("give ")[2].split(" or ")
    assert open_checkpoint(Path(first)).tensors("")["w"].tolist() == [0, 0]
    assert open_checkpoint(Path(second)).tensors("")["w"].tolist() == [1, 1]


def test_what_stands_beside_weights_in_folders_is_no_other_set(tmp_path: Path) -> None:
    """Another format of the same, raw weights beside a published average, settings of one."""
    folder = exported(small_state(), tmp_path / "export", {"ema_decay": 0.9999})
    inner = folder / "transformer"
    names = ("diffusion_pytorch_model.bin", "diffusion_pytorch_model.non_ema.safetensors")
    for name in (*names, "epoch=319-step=1600000_emainit.ckpt"):  # as PixNerd is published
        (inner / name).write_bytes(b"")
    (folder / "ema").mkdir()
    for path in (inner / "ema_config.json", folder / "ema" / "config.json"):
        path.write_text("{}")
    (inner / "model.safetensors").symlink_to(inner / "diffusion_pytorch_model.safetensors")
    assert open_checkpoint(folder).tensors("").keys() == small_state().keys()
