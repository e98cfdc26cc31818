"""Checkpoints as a training leaves them: steps in names, half-written files, replaced ones."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from evalsuite.errors import DataError, UsageError
from evalsuite.sweep.checkpoints import (
    Lookout,
    Seen,
    Signature,
    read_about,
    signature_of,
    step_in_name,
    step_of,
)

NOW = 2_000_000_000.0


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("step_100.pt", 100),
        ("epoch=3-step=1200.ckpt", 1200),
        ("steps-7.safetensors", 7),
        ("step100/ema_0.9999.pt", 100),
        ("ema_0.9999_step_100.pt", 100),
        ("0100000.pt", 100_000),
        ("checkpoint-500/model.safetensors", 500),
        ("v2-last-7.pt", 7),
        ("1-last-7.pt", None),
        ("last-v1.ckpt", None),
        ("ema_v2.pt", None),
        ("pixnerd-xl2-last.pt", None),
        ("step_1e5.pt", None),
        ("step_last-7.pt", None),
        ("step_10k.pt", None),
        ("last.pt", None),
        ("step_1/step_2.pt", None),
    ],
)
def test_the_step_in_a_name(name: str, step: int | None) -> None:
    assert step_in_name(name) == step


def seen(path: Path, name: str | None = None) -> Seen:
    return Seen(path, name or path.name, Signature(1, 1), 1e9)


def test_else_the_checkpoint_says_its_step(tmp_path: Path) -> None:
    lightning = tmp_path / "last.ckpt"
    torch.save({"state_dict": {"w": torch.ones(2)}, "epoch": 3, "global_step": 4000}, lightning)
    assert step_of(seen(lightning), read_about(seen(lightning))) == 4000
    assert step_of(seen(lightning, "last-v1.ckpt"), read_about(seen(lightning))) == 4000
    tensors = tmp_path / "last.safetensors"
    save_file({"w": torch.ones(2)}, tensors, {"step": "70"})
    assert step_of(seen(tensors), read_about(seen(tensors))) == 70
    assert step_of(seen(tensors, "step_9.safetensors"), {"step": "70"}) == 9
    with pytest.raises(DataError, match=r"last\.pt: neither its name nor the checkpoint says"):
        step_of(seen(tmp_path / "last.pt"), {"step": True})


def test_every_half_of_a_file_is_told_from_the_whole(tmp_path: Path) -> None:
    """Whatever byte the writer has come to, the reader sees that the rest is missing."""
    state = {"w": torch.arange(5000.0)}
    whole = tmp_path / "whole.pt"
    torch.save(state, whole)
    tensors = tmp_path / "whole.safetensors"
    save_file(state, tensors)
    for path in (whole, tensors):
        assert read_about(seen(path)) is not None
        content = path.read_bytes()
        half = tmp_path / f"step_1{path.suffix}"
        for end in (0, 7, 100, len(content) // 2, len(content) - 1):
            half.write_bytes(content[:end])
            with pytest.raises(DataError):
                read_about(seen(half))


def test_a_file_must_have_settled(tmp_path: Path) -> None:
    clock = [NOW]
    lookout = Lookout(str(tmp_path / "step_*.pt"), 10.0, lambda: clock[0])
    path = tmp_path / "step_1.pt"
    path.write_bytes(b"12")
    os.utime(path, (NOW, NOW))
    (first,) = lookout.look()
    assert first.name == "step_1.pt"
    assert not lookout.settled(first)
    clock[0] += 11
    assert lookout.settled(lookout.look()[0])
    path.write_bytes(b"123")
    os.utime(path, (NOW + 11, NOW + 11))
    (grown,) = lookout.look()
    assert grown.signature != first.signature
    assert not lookout.settled(grown)


def test_a_clock_that_is_ahead_cannot_hold_a_file_up(tmp_path: Path) -> None:
    """A file server an hour ahead of us; and an old file is settled at the first look."""
    clock = [NOW]
    lookout = Lookout(str(tmp_path / "*.pt"), 10.0, lambda: clock[0])
    for name, at in (("step_1.pt", NOW + 3600), ("step_2.pt", NOW - 60)):
        (tmp_path / name).write_bytes(b"1")
        os.utime(tmp_path / name, (at, at))
    ahead, old = lookout.look()
    assert (lookout.settled(ahead), lookout.settled(old)) == (False, True)
    clock[0] += 11
    assert all(map(lookout.settled, lookout.look()))


def test_names_are_below_the_fixed_folder_and_folders_are_one_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "run 1" / "step_20" / "transformer"
    folder.mkdir(parents=True)
    (folder / "a.safetensors").write_bytes(b"123")
    (folder / "b.safetensors").write_bytes(b"45")
    (one,) = Lookout(str(tmp_path / "run 1" / "step_*")).look()
    assert (one.name, one.signature.num_bytes) == ("step_20", 5)
    (deep,) = Lookout(str(tmp_path / "*" / "step_*" / "transformer")).look()
    assert deep.name == "run 1/step_20/transformer"
    assert step_in_name(deep.name) == 20
    empty = tmp_path / "run 1" / "step_30"
    empty.mkdir()
    assert signature_of(empty) is None


@pytest.mark.parametrize(
    ("pattern", "said"), [("ckpts/last.pt", "has no wildcard"), ("s3://b/*.pt", "local or mounted")]
)
def test_patterns_that_cannot_be_watched(pattern: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Lookout(pattern)
