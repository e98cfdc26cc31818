"""PixNerd's goldens: forwards, intermediates, trajectories, schedules and tables of upstream.

Tolerances are those of the goldens' README: an independent float32 implementation reaches a few
1e-6 in a forward and 1e-5 over a trajectory, and the smallest single mistake is 3 times above them.
"""

import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from golden.coefficients import check_coefficients
from golden.pixnerd_runs import (
    BFLOAT16_RUN,
    FINAL,
    TIMES,
    check_run,
    comparison_of,
    grid_of,
    guidance_for,
    in_dtype_of,
    integrate,
)
from golden.pixnerd_runs import close_in_float32 as close
from torch import Tensor

from evalsuite.models.layers import rotary_table, time_sinusoid
from evalsuite.models.pixnerd.class_conditional import (
    PixNerdClassConditional,
    PixNerdClassConfig,
    pixel_position_code,
)
from evalsuite.sampling.guidance import GuidedVelocity
from evalsuite.sampling.noise import draw_noise, sample_generators
from evalsuite.sampling.pixels import to_uint8_half_up

FORWARD = 3e-5
TABLE = 2e-6
CPU = torch.device("cpu")
NO_EFFECT = {"learn_sigma", "deep_supervision", "weight_path", "load_ema"}
"""Arguments of the original constructor that do not act in a forward."""


def network_of(meta: dict[str, Any], fill: ModuleType) -> PixNerdClassConditional:
    """The network of a case, every tensor filled by its upstream name."""
    config = {key: value for key, value in meta["config"].items() if key not in NO_EFFECT}
    network = PixNerdClassConditional(PixNerdClassConfig(**config))
    state = {
        k: fill.tensor_for(k, tuple(v.shape), meta["salt"]) for k, v in network.state_dict().items()
    }
    for part in ("weight", "bias"):
        state[f"final_layer.linear.{part}"] *= meta["final_scale"]
    network.load_state_dict(state)
    return network.eval().requires_grad_(False)


def test_the_folder_of_pixnerd_has_cases(
    goldens: Path, are_own_cases: bool, cases_of: Callable[[str], list[Any]]
) -> None:
    """A missing or empty family is a failure, not a silence."""
    assert (goldens / "pixnerd").is_dir(), f"{goldens}/pixnerd does not exist"
    kinds = [case.kind for case in cases_of("pixnerd")]
    assert kinds, f"{goldens}/pixnerd holds no case"
    assert set(kinds) <= {"c2i", "components", "t2i_heavy", "t2i_plain"}, "a kind without a test"
    assert not are_own_cases or {"c2i", "components", "t2i_heavy"} <= set(kinds)


def test_forward_and_its_intermediates(pixnerd_c2i_case: Any, fill: ModuleType) -> None:
    """The velocity, at every size that the case has, and what hooks see on the way."""
    meta, z = pixnerd_c2i_case.meta, pixnerd_c2i_case.arrays()
    network, near = network_of(meta, fill), comparison_of(meta)
    seen = record_taps(network) if any(key.startswith("tap_") for key in z) else {}
    forward = in_dtype_of(network, meta)
    noise = fill.noise_for(meta["x_label"], z["x"].shape)
    assert torch.equal(noise, torch.from_numpy(z["x"]))
    near(forward(noise, torch.from_numpy(z["t"]), torch.from_numpy(z["y"])), z["out"], FORWARD)
    for name in (key.removeprefix("tap_") for key in z if key.startswith("tap_")):
        near(seen[name], z[f"tap_{name}"], FORWARD)
    for j in range(len(meta.get("extra", ()))):
        x, t, y = (torch.from_numpy(z[f"extra{j}_{part}"]) for part in "xty")
        near(forward(x, t, y), z[f"extra{j}_out"], FORWARD)


def record_taps(network: PixNerdClassConditional) -> dict[str, Tensor]:
    """The README's intermediates of the next forward."""
    first_nerf = network.config.num_cond_blocks
    seen: dict[str, Tensor] = {}

    def keep(name: str, rows: int | None = None) -> Callable[..., None]:
        return lambda _module, _inputs, out: seen.update({name: out[:rows]})

    network.t_embedder.register_forward_hook(keep("t_emb"))
    network.s_embedder.register_forward_hook(keep("s_embed"))
    network.blocks[0].register_forward_hook(keep("block0"))
    network.blocks[first_nerf - 1].register_forward_hook(keep("encoder_out"))
    network.blocks[first_nerf].register_forward_hook(keep("nerf0_out_patch0", 1))
    network.blocks[first_nerf].register_forward_pre_hook(
        lambda _module, inputs: seen.update(
            nerf0_in_patch0=inputs[0][:1], nerf_cond_patch0=inputs[1][:1]
        )
    )
    return seen


def test_runs(pixnerd_c2i_case: Any, fill: ModuleType) -> None:
    """Every run of a class-conditional network."""
    meta = pixnerd_c2i_case.meta
    network = in_dtype_of(network_of(meta, fill), meta)
    for k, run in enumerate(meta["runs"]):
        noise = fill.noise_for(run["x0_label"], (run["batch"], 3, *meta["size"]))
        labels = torch.tensor(run["labels"])
        null = torch.full_like(labels, run["null_label"])
        check_run(network, labels, null, noise, pixnerd_c2i_case, k)


def test_one_mistake_is_seen_in_bfloat16(pixnerd_c2i_case: Any, fill: ModuleType) -> None:
    """A weight that is 5 % too large, and halves that are swapped, pass the bound of a forward."""
    meta, z = pixnerd_c2i_case.meta, pixnerd_c2i_case.arrays()
    narrow = {"cpu_autocast_bf16": True}
    x = fill.noise_for(meta["x_label"], z["x"].shape)
    t, y = torch.from_numpy(z["t"]), torch.from_numpy(z["y"])
    network, near = network_of(meta, fill), comparison_of(narrow)
    forward = in_dtype_of(network, narrow)
    right = forward(x, t, y).float().numpy()
    near(forward(x, t, y), right, FORWARD)
    last, first = network.final_layer.linear.weight, network.blocks[0].attn.qkv.weight
    last.mul_(1.05)
    with pytest.raises(AssertionError):
        near(forward(x, t, y), right, FORWARD)
    last.div_(1.05)
    first.copy_(first.roll(len(first) // 2, 0))
    with pytest.raises(AssertionError):
        near(forward(x, t, y), right, FORWARD)


def test_leaving_out_unguided_passes_changes_nothing_beyond_rounding(
    pixnerd_c2i_case: Any, fill: ModuleType
) -> None:
    """`skip_unguided` costs fewer evaluations and stays within the same tolerance."""
    meta, z = pixnerd_c2i_case.meta, pixnerd_c2i_case.arrays()
    network = in_dtype_of(network_of(meta, fill), meta)
    for run in meta["runs"][:1]:  # the others say the same
        noise = fill.noise_for(run["x0_label"], (run["batch"], 3, *meta["size"]))
        labels = torch.tensor(run["labels"])
        null, guidance = torch.full_like(labels, run["null_label"]), guidance_for(run, skip=True)
        velocity = GuidedVelocity(network, labels, null, guidance)
        near = comparison_of(meta, BFLOAT16_RUN)
        near(integrate(run, velocity, noise), z["run0_x_final"], FINAL)
        guided = [guidance.acts_at(t) and run["guidance"] != 1 for t in grid_of(run)[:-1]]
        if "interval" in run:
            assert velocity.nfe == len(guided) + sum(guided)
        else:
            assert velocity.nfe == (1 if run["guidance"] == 1 else 2) * run["nfe"]


def test_rotary_tables(pixnerd_components_case: Any) -> None:
    """Cosines and sines of the rotary embedding on square, oblong and one-row grids."""
    meta, z = pixnerd_components_case.meta, pixnerd_components_case.arrays()
    for k, table in enumerate(meta["rope_c2i"]):
        rows = torch.from_numpy(z[f"rope_c2i_{k}_rows"])
        cos, sin = rotary_table(
            table["head_dim"], table["height"], table["width"], (16.0, 16.0), CPU
        )
        assert len(cos) == table["height"] * table["width"]
        close(cos[rows], z[f"rope_c2i_{k}_cos"], TABLE)
        close(sin[rows], z[f"rope_c2i_{k}_sin"], TABLE)


def test_pixel_position_codes_and_time_sinusoids(pixnerd_components_case: Any) -> None:
    """The other two tables of the network."""
    meta, z = pixnerd_components_case.meta, pixnerd_components_case.arrays()
    for k, table in enumerate(meta["dct_c2i"]):
        close(pixel_position_code(table["patch"], CPU), z[f"dct_c2i_{k}"], TABLE)
    close(time_sinusoid(torch.from_numpy(z["time_t"]), 10.0), z["time_embedding"], TABLE)


def test_schedules(pixnerd_components_case: Any) -> None:
    """Grids, steps, coefficients, and where guidance really acts."""
    meta, z = pixnerd_components_case.meta, pixnerd_components_case.arrays()
    for k, run in enumerate(meta["schedules"]):
        times_S = grid_of(run)
        close(times_S, z[f"sched{k}_timesteps"], TIMES)
        close(times_S[:-1], z[f"sched{k}_net_t"], TIMES)
        guidance = guidance_for(run, skip=True)
        scales = [run["guidance"] if guidance.acts_at(t) else 1.0 for t in times_S[:-1]]
        np.testing.assert_allclose(scales, z[f"sched{k}_scale"], rtol=1e-6)
        if f"sched{k}_timedeltas" in z:
            close(times_S[1:] - times_S[:-1], z[f"sched{k}_timedeltas"], TIMES)
        if f"sched{k}_coeffs" in z:
            check_coefficients(times_S, run["order"], z[f"sched{k}_coeffs"])


def test_uint8_rule_and_seeds(pixnerd_components_case: Any) -> None:
    """The pixel rule exactly, and the noise of a seed exactly; its sum is a float64 one."""
    meta, z = pixnerd_components_case.meta, pixnerd_components_case.arrays()
    values = torch.from_numpy(z["u8_in"]).reshape(1, 1, 1, -1)
    np.testing.assert_array_equal(to_uint8_half_up(values).flatten().numpy(), z["u8_out"])
    for k, entry in enumerate(meta["seeds"]):
        noise = draw_noise(sample_generators([entry["seed"]]), tuple(entry["shape"])).flatten()
        np.testing.assert_array_equal(noise[:8].numpy(), z[f"seed{k}_first8"])
        np.testing.assert_array_equal(noise[-4:].numpy(), z[f"seed{k}_last4"])
        assert math.isclose(noise.double().sum(), z[f"seed{k}_sum"], rel_tol=0, abs_tol=1e-9)


@pytest.mark.parametrize("name", ["xl_256", "xl_512", "large_256"])
def test_our_copy_of_the_keys_is_there(name: str) -> None:
    """`tests/models/` compares the full-size networks with them."""
    assert (Path(__file__).parent / "cases" / "pixnerd" / f"keys_c2i_{name}.json").is_file()
