"""Which weights `--ema` takes: chosen by name, or refused with the names that there are."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from layouts import lightning, optimizer_state, prefixed, saved, small_state
from safetensors.torch import save_file

from evalsuite.errors import UsageError
from evalsuite.models.checkpoints.choosing import choose_group
from evalsuite.models.checkpoints.grouping import decay_of, is_average, place_of
from evalsuite.models.checkpoints.inspect import inspect
from evalsuite.models.checkpoints.reading import Checkpoint, open_checkpoint

S = {"blocks.0.w": torch.ones(2), "blocks.1.w": torch.ones(2)}


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


def test_groups_that_are_called_as_words_of_the_option(tmp_path: Path) -> None:
    """The raw weights are those that are called so; `auto` is never offered as a name."""
    opened = open_checkpoint(saved({"auto": S, "raw": S, "mine": S}, tmp_path / "model.ckpt"))
    assert choose_group(opened, "raw", None) == "raw"
    for said in ("auto", "nope"):
        with pytest.raises(UsageError, match=r"mine.* \(one is called auto, which no --ema names"):
            choose_group(opened, said, None)


def test_names_of_tensors_are_no_groups() -> None:
    """Names of networks that look a little like a prefix."""
    for key in ("t_embedder.mlp.0.weight", "schema.weight", "pos_embed", "core_net.weight"):
        assert place_of(key) == ("", key, "")


def test_numbers_of_layers_are_no_decays() -> None:
    assert place_of("ema_denoiser.0.weight") == ("ema_denoiser", "0.weight", "")
    assert place_of("model_ema0.5.weight") == ("model_ema0", "5.weight", "")
    assert place_of("EMA_denoiser.0.weight") == ("EMA_denoiser", "0.weight", "")
    assert place_of("ema_0.9999.0.weight") == ("ema_0.9999", "0.weight", "")


def test_what_counts_as_an_average() -> None:
    assert all(map(is_average, ("ema_denoiser", "model_ema1", "ema", "EMA_0.99", "state.ema")))
    assert not any(map(is_average, ("denoiser", "", "schema", "core", "cinema")))
    moments = (
        "exp_avg",
        "max_exp_avg_sq",
        "exp_avg_sq_row",
        "square_avg",
        "grad_avg",
        "exp_avg_diff",
    )
    assert not any(map(is_average, moments))
    assert decay_of("ema_0.9999") == 0.9999
    assert decay_of("ema_denoiser") is None
    assert decay_of("raw_0.9999") is None


UNREAD = {
    "shadow": prefixed("shadow.", S),
    "without dots": {key.replace(".", ""): tensor for key, tensor in S.items()},
    "lists": {"decay": 0.999, "shadow_params": list(S.values())},
    "deeper": {"decay": 0.999, "shadow": S},
}


CALLED = ["ModelEMA", "shadow", "shadow_params", "swa_model", "averaged", "average_model"]
CALLED += ["averaged_model", "avg_model", "model_avg", "avg"]


@pytest.mark.parametrize("called", CALLED)
def test_an_average_with_the_names_of_the_weights_is_never_the_raw_ones(
    tmp_path: Path, called: str
) -> None:
    """Whatever a program calls it; `auto` takes it, as `inspect` says."""
    path = saved({"state_dict": S, called: S}, tmp_path / "model.ckpt")
    opened = open_checkpoint(path)
    assert (choose_group(opened, "raw", None), choose_group(opened, "auto", None)) == ("", called)
    assert {group.name: group.is_ema for group in inspect(path).groups} == {"": False, called: True}
    two = open_checkpoint(
        saved({"state_dict": S, "model_ema": S, called: S}, tmp_path / "two.ckpt")
    )
    assert choose_group(two, "raw", None) == ""
    with pytest.raises(UsageError, match=f"several averages.* model_ema, {called}$"):
        choose_group(two, "auto", None)


@pytest.mark.parametrize("prefix", ["", "denoiser."])
def test_the_main_state_dict_of_weight_averaging_is_the_average(
    tmp_path: Path, prefix: str
) -> None:
    """As Lightning's callback saves it: the raw weights stand beside it."""
    tree = {
        "state_dict": prefixed(prefix, {"w": torch.full((2,), 2.0)}),
        "current_model_state": prefixed(prefix, {"w": torch.full((2,), 1.0)}),
        "averaging_state": {"n_averaged": torch.tensor(5)},
        **{"epoch": 1, "global_step": 2},
    }
    opened = open_checkpoint(saved(tree, tmp_path / "model.ckpt"))
    groups = {ema: choose_group(opened, ema, None) for ema in ("raw", "auto")}
    assert [opened.tensor(groups[ema], "w")[0] for ema in ("raw", "auto")] == [1, 2]
    after = prefix and f".{prefix}".rstrip(".")
    assert groups == {"raw": f"current_model_state{after}", "auto": f"state_dict_averaged{after}"}
    assert opened.layout == "lightning"


def test_the_main_state_dict_stands_before_its_copies(tmp_path: Path) -> None:
    opened = open_checkpoint(saved({"state_dict": S, "best": S}, tmp_path / "model.ckpt"))
    assert choose_group(opened, "raw", None) == ""
    assert choose_group(opened, "best", None) == "best"


@pytest.mark.parametrize("main", ["state_dict", "model"])
@pytest.mark.parametrize("form", UNREAD)
def test_an_average_in_a_form_of_its_own_is_never_passed_over(
    tmp_path: Path, main: str, form: str
) -> None:
    """`auto` takes or refuses it, with the file's name; the raw weights can be asked for."""
    opened = open_checkpoint(saved({main: S, "ema": UNREAD[form]}, tmp_path / "model.ckpt"))
    raw = "" if main == "state_dict" else main
    assert choose_group(opened, "raw", None) == raw
    if "ema" in opened.groups:
        assert choose_group(opened, "auto", None) == "ema"
    else:
        told = r"model\.ckpt holds averaged weights \(ema\) in a form that is not read: --ema raw"
        with pytest.raises(UsageError, match=told):
            choose_group(opened, "auto", None)


LISTED = list(S.values())
ELSEWHERE: list[tuple[dict[str, Any], str]] = [
    ({"shadow_params": LISTED, "decay": 0.999}, "shadow_params"),
    ({"shadow": [{"x0": torch.ones(2)}]}, "shadow"),
    ({"callbacks": {"EMA": {"ema_state": S}}}, "EMA in callbacks"),
    ({"callbacks": {"StochasticWeightAveraging": {"average_model_state": S}}}, "StochasticWei"),
    ({"optimizer_states": [{"state": {0: {"exp_avg": LISTED}}, "ema": LISTED}]}, "ema in optim"),
    ({"module": {"ema": S, "step": 3}}, "ema in module"),
    ({"trainer": {"ModelEMA": [S]}}, "ModelEMA in trainer"),
]


@pytest.mark.parametrize(("beside", "where"), ELSEWHERE)
def test_an_average_at_any_depth_is_never_passed_over(
    tmp_path: Path, beside: dict[str, Any], where: str
) -> None:
    opened = open_checkpoint(saved({"state_dict": S, **beside}, tmp_path / "model.ckpt"))
    assert choose_group(opened, "raw", None) == ""
    with pytest.raises(UsageError, match=rf"averaged weights \({where}.*--ema raw takes the raw"):
        choose_group(opened, "auto", None)


@pytest.mark.parametrize("form", ["torch", "safetensors"])
def test_an_average_among_the_parts_of_a_training_is_never_passed_over(
    tmp_path: Path, form: str
) -> None:
    """The parts are left aside by name; few values there are none."""
    for name, is_average_aside in (("ema_denoiser", True), ("proj", False)):
        state = {**prefixed("net.", S), **prefixed(f"diffusion_trainer.{name}.", S)}
        state |= {"diffusion_trainer.ema_loss": torch.ones(1)}
        state = {key: tensor.clone() for key, tensor in state.items()}
        path = tmp_path / f"{name}.{form}"
        save_file(state, path) if form == "safetensors" else torch.save(state, path)
        opened = open_checkpoint(path)
        assert choose_group(opened, "raw", None) == ""
        if is_average_aside:
            with pytest.raises(UsageError, match=r"\(ema_denoiser in diffusion_trainer\) in a"):
                choose_group(opened, "auto", None)
        else:
            assert choose_group(opened, "auto", None) == ""


def test_moments_and_counters_of_a_training_are_no_average(tmp_path: Path) -> None:
    """What Lightning saves of Adam and of callbacks beside plain weights."""
    tree = lightning(S, S, state_dict=S, optimizer_states=[optimizer_state(S)])
    tree["callbacks"] = {"EMA": {"decay": torch.tensor(0.999)}, "ModelCheckpoint": {"best": LISTED}}
    tree["optimizer_states"].append({"state": {0: dict.fromkeys(("exp_avg_sq", "square_avg"), S)}})
    opened = open_checkpoint(saved(tree, tmp_path / "model.ckpt"))
    assert choose_group(opened, "auto", None) == ""


COUNTS = {"decay": torch.tensor(0.999), "num_updates": torch.ones(1, dtype=torch.int64)}
COUNTED: list[tuple[dict[str, Any], str]] = [
    ({"model": S, "ema": S, "ema_state": COUNTS}, "ema"),
    ({"mine": S, "ema": S, "ema_state": COUNTS}, "ema"),
    ({"state_dict": S, "ema_decay": torch.tensor(0.999)}, ""),
    ({"state_dict": S, "ema_state": COUNTS}, ""),
    ({"state_dict": S, "ema_state": {"of": [COUNTS]}}, ""),
]


@pytest.mark.parametrize(("tree", "chosen"), COUNTED)
def test_counters_of_an_average_are_none(tmp_path: Path, tree: dict[str, Any], chosen: str) -> None:
    opened = open_checkpoint(saved(tree, tmp_path / "model.ckpt"))
    assert choose_group(opened, "auto", None) == chosen
    assert set(opened.other) == {name for name in tree if name.startswith("ema_")}


def test_counters_never_stand_for_the_weights(tmp_path: Path) -> None:
    """Beside weights of any name; what has the names of weights is no counter, however small."""
    opened = open_checkpoint(saved({"mine": S, "ema_state": COUNTS}, tmp_path / "model.ckpt"))
    assert set(opened.groups) == {"mine"}
    small = {"state_dict": {"w": torch.ones(1)}, "ema": {"w": torch.ones(1)}}
    opened = open_checkpoint(saved(small, tmp_path / "small.ckpt"))
    assert choose_group(opened, "auto", None) == "ema"


MANY = {"blocks.0.w": torch.ones(999)}
FEW = [
    {"ema_loss": {"train": torch.ones(9)}},
    {"meters": {"loss_average": torch.ones(5)}, "ema_loss": [torch.ones(4)]},
    {
        "optimizer_states": [
            {"state": {"ema.w": {"step": torch.ones(()), "exp_avg": MANY["blocks.0.w"]}}}
        ]
    },
]


@pytest.mark.parametrize("beside", FEW)
def test_means_of_losses_and_moments_are_no_average(tmp_path: Path, beside: dict[str, Any]) -> None:
    """However they are called."""
    opened = open_checkpoint(saved({"state_dict": MANY, **beside}, tmp_path / "model.ckpt"))
    assert set(opened.other) == beside.keys()
    assert choose_group(opened, "auto", None) == choose_group(opened, "raw", None) == ""
    named = open_checkpoint(saved({"model": MANY, **beside}, tmp_path / "named.ckpt"))
    assert set(named.groups) == {"model"}


HISTORY = {"loss_avg": {"history": torch.ones(1000, 10)}}


@pytest.mark.parametrize("main", ["state_dict", "model"])
def test_long_statistics_are_no_weights(tmp_path: Path, main: str) -> None:
    """They are refused, for what is called so might be an average in a form of its own."""
    opened = open_checkpoint(saved({main: S, **HISTORY}, tmp_path / "model.ckpt"))
    assert "loss_avg" not in opened.groups
    with pytest.raises(UsageError, match=r"averaged weights \(loss_avg\) in a form that is not"):
        choose_group(opened, "auto", None)
    both = {**prefixed("ema_denoiser.", S), **prefixed("denoiser.", S)}
    opened = open_checkpoint(saved({main: both, **HISTORY}, tmp_path / "both.ckpt"))
    assert choose_group(opened, "auto", None).endswith("ema_denoiser")


def test_an_average_of_a_part_of_the_network_is_one(tmp_path: Path) -> None:
    """Of a Lightning module that calls its network as it likes."""
    tree = {"state_dict": prefixed("unet.", S), "ema": prefixed("module.", S)}
    opened = open_checkpoint(saved(tree, tmp_path / "model.ckpt"))
    assert choose_group(opened, "auto", None) == "ema"


PARTS = {f"ema.blocks.{i}": torch.ones(5) for i in range(2)}
LARGE = {"encoder.w": torch.ones(1_200_000)}
MUCH = [({"state_dict": MANY}, PARTS), ({"state_dict": LARGE}, {"shadow": [torch.ones(10_000)]})]


@pytest.mark.parametrize(("main", "beside"), MUCH)
def test_an_average_in_parts_or_beside_an_encoder_is_not_taken_for_counters(
    tmp_path: Path, main: dict[str, Any], beside: dict[str, Any]
) -> None:
    opened = open_checkpoint(saved({**main, **beside}, tmp_path / "model.ckpt"))
    with pytest.raises(UsageError, match="in a form that is not read"):
        choose_group(opened, "auto", None)


def test_a_small_average_beside_a_large_encoder_stays(tmp_path: Path) -> None:
    """The encoder is no network that the average could be of."""
    tree = {"text_encoder": {"t.w": torch.ones(300_000)}, "ema": {"a.w": torch.ones(4, 4)}}
    opened = open_checkpoint(saved(tree, tmp_path / "model.ckpt"))
    assert choose_group(opened, "auto", None) == choose_group(opened, "ema", None) == "ema"
    small = {"hidden_size": 8, "hidden_size_x": 4, "num_blocks": 2, "num_cond_blocks": 1}
    known = {"model": LARGE, "ema": prefixed("module.", small_state(**small))}
    assert "ema" in open_checkpoint(saved(known, tmp_path / "known.ckpt")).groups


class Tracker:
    """An object that holds weights where no reader looks."""

    def __init__(self) -> None:
        self.weights = S


OF_OBJECTS = [
    ({"EMA": Tracker()}, "EMA in callbacks"),
    ({"EMA": {"decay": 0.999, "ema": Tracker()}}, "EMA in callbacks"),
    ({"averager": [Tracker()]}, "averager in callbacks"),
]


@pytest.mark.parametrize(("callbacks", "where"), OF_OBJECTS)
def test_an_average_inside_an_object_is_never_passed_over(
    tmp_path: Path, callbacks: dict[str, Any], where: str
) -> None:
    """Which the restricted reading, that of `convert`, leaves out."""
    path = saved({"state_dict": S, "callbacks": callbacks}, tmp_path / "model.ckpt")
    opened = open_checkpoint(path, restricted=True)
    assert choose_group(opened, "raw", None) == ""
    with pytest.raises(UsageError, match=rf"averaged weights \({where}\).*--ema raw takes the raw"):
        choose_group(opened, "auto", None)
    plain = {"EMA": {"decay": np.float64(0.999), "device": torch.device("cpu")}, "saver": Tracker()}
    plain["ModelCheckpoint{'monitor': 'fid_ema'}"] = {
        "dirpath": Path("/a"),
        "ema_start": timedelta(1),
    }
    saved({"state_dict": S, "callbacks": plain}, path)
    assert choose_group(open_checkpoint(path, restricted=True), "auto", None) == ""


LOSSES = {name: {"loss": torch.ones(())} for name in ("train", "val")}
BESIDE = [
    ({"state_dict": S, **LOSSES}, {""}),
    ({"net": S, **LOSSES}, {"net"}),
    ({"model_state_dict": S, **LOSSES}, {"model_state_dict"}),
    ({"net": S, "copy": S, **LOSSES}, {"net", "copy"}),
    ({"weights": S, "ema": S, **LOSSES}, {"weights", "ema"}),
    ({"mine": S, "ema": prefixed("shadow.", S), **LOSSES}, {"mine", "ema", "train", "val"}),
    ({"mine": S, **LOSSES}, {"mine", "train", "val"}),
]


@pytest.mark.parametrize(("tree", "groups"), BESIDE)
def test_what_shares_names_with_no_network_is_aside(
    tmp_path: Path, tree: dict[str, Any], groups: set[str]
) -> None:
    """Two means of losses share names with each other, and are no network for that."""
    opened = open_checkpoint(saved(tree, tmp_path / "model.ckpt"))
    assert set(opened.groups) == groups
    assert set(opened.other) == tree.keys() - groups - {"state_dict"}
