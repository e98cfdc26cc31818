"""Which weights `--ema` takes: chosen by name, or refused with the names that there are."""

from pathlib import Path

import pytest
import torch
from layouts import saved

from evalsuite.errors import UsageError
from evalsuite.models.checkpoints.choosing import choose_group
from evalsuite.models.checkpoints.grouping import decay_of, is_ema, place_of
from evalsuite.models.checkpoints.reading import Checkpoint, open_checkpoint


def holding(tmp_path: Path, *groups: str) -> Checkpoint:
    """A checkpoint with these groups."""
    state = {f"{group}.w" if group else "w": torch.ones(1) for group in groups}
    return open_checkpoint(saved({"state_dict": state}, tmp_path / "model.ckpt"))


CHOICES = [
    (("denoiser", "ema_denoiser"), "auto", "ema_denoiser", "ema_denoiser"),
    (("denoiser", "ema_denoiser"), "auto", None, "ema_denoiser"),
    (("denoiser", "ema_denoiser"), "raw", "ema_denoiser", "denoiser"),
    (("denoiser", "ema_denoiser"), "denoiser", None, "denoiser"),
    (("denoiser", "ema_denoiser"), "auto", "averaged", "ema_denoiser"),
    (("model", "model_ema2"), "model_ema2", "model_ema1", "model_ema2"),
    (("core",), "auto", "core", "core"),
    (("",), "auto", "ema_denoiser", ""),
    (("",), "raw", None, ""),
    (("model", "model_ema1", "model_ema2"), "auto", "model_ema1", "model_ema1"),
    (("model", "model_ema1", "model_ema2"), "model_ema2", "model_ema1", "model_ema2"),
    (("ema_0.9999", "ema_0.999"), "0.999", None, "ema_0.999"),
    (("ema_0.9999", "ema_0.999"), "0.99990", None, "ema_0.9999"),
    (("", "denoiser", "ema_denoiser"), "raw", None, "denoiser"),
]


@pytest.mark.parametrize(("groups", "ema", "default", "chosen"), CHOICES)
def test_choices(
    tmp_path: Path, groups: tuple[str, ...], ema: str, default: str | None, chosen: str
) -> None:
    assert choose_group(holding(tmp_path, *groups), ema, default) == chosen


REFUSALS = [
    (("model", "model_ema1", "model_ema2"), "auto", "ema", "several.*model_ema1, model_ema2"),
    (("model", "model_ema2"), "auto", "model_ema1", "holds model_ema2, not model_ema1 that"),
    (("model_ema2",), "auto", "model_ema1", "say --ema model_ema2$"),
    (("denoiser", "ema_denoiser"), "auto", "core", "holds ema_denoiser, not core that"),
    (("denoiser",), "auto", "ema_denoiser", "no EMA weights; --ema raw takes the raw ones"),
    (("ema_denoiser",), "raw", None, "averaged weights only"),
    (("core", "denoiser"), "raw", None, "several sets of raw weights.*core, denoiser"),
    (("denoiser", "ema_denoiser"), "nope", None, "known: ema_denoiser, denoiser$"),
    (("",), "nope", None, "one set of weights, without a name: leave --ema out$"),
    (("ema_0.9999", "ema_0.999"), "0.99", None, "holds no such weights"),
    (("ema_0.999", "net_ema_0.999"), "0.999", None, "fits ema_0.999, net_ema_0.999"),
]


@pytest.mark.parametrize(("groups", "ema", "default", "told"), REFUSALS)
def test_refusals(
    tmp_path: Path, groups: tuple[str, ...], ema: str, default: str | None, told: str
) -> None:
    with pytest.raises(UsageError, match=told) as caught:
        choose_group(holding(tmp_path, *groups), ema, default)
    assert "model.ckpt" in str(caught.value)


def test_names_of_tensors_are_no_groups() -> None:
    """Names of networks that look a little like a prefix."""
    for key in ("t_embedder.mlp.0.weight", "schema.weight", "pos_embed", "core_net.weight"):
        assert place_of(key) == ("", key, "")


def test_numbers_of_layers_are_no_decays() -> None:
    assert place_of("ema_denoiser.0.weight") == ("ema_denoiser", "0.weight", "")
    assert place_of("model_ema0.5.weight") == ("model_ema0", "5.weight", "")
    assert place_of("ema_0.9999.0.weight") == ("ema_0.9999", "0.weight", "")


def test_what_counts_as_an_average() -> None:
    assert all(map(is_ema, ("ema_denoiser", "model_ema1", "ema", "EMA_0.99", "state.ema")))
    assert not any(map(is_ema, ("denoiser", "", "schema", "core", "cinema")))
    assert decay_of("ema_0.9999") == 0.9999
    assert decay_of("ema_denoiser") is None
    assert decay_of("raw_0.9999") is None
