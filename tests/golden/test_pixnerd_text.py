"""PixNerd's text-to-image goldens: forwards, intermediates, rotary tables and pixel positions.

Tolerances are those of the goldens' README: an independent float32 implementation reaches 4e-6 in a
forward, and every deliberate mistake is at least ten times above the tolerance.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from golden.pixnerd_runs import check_run, comparison_of, in_dtype_of
from golden.pixnerd_runs import close_in_float32 as close
from torch import Tensor

from evalsuite.models.layers import rotary_table
from evalsuite.models.pixnerd.text_conditional import (
    PixNerdTextConditional,
    PixNerdTextConfig,
    pixel_position_code,
)

FORWARD = 3e-5
TABLE = 2e-6
CPU = torch.device("cpu")


def network_of(meta: dict[str, Any], fill: ModuleType, **changes: Any) -> PixNerdTextConditional:
    """The network of a case, every tensor filled by its upstream name."""
    if meta["kind"] == "t2i_plain":
        changes["pixel_range"] = meta["config"]["patch_size"]
    network = PixNerdTextConditional(PixNerdTextConfig(**meta["config"], **changes))
    fill.fill_module(network, meta["salt"])
    network.eval().requires_grad_(False)
    for parameter in network.final_layer.linear.parameters():
        parameter.mul_(meta["final_scale"])
    return network


def record_taps(network: PixNerdTextConditional) -> dict[str, Tensor]:
    """The README's intermediates of the next forward."""
    seen: dict[str, Tensor] = {}
    first_nerf = network.config.num_encoder_blocks

    def keep(name: str, rows: int | None = None) -> Callable[..., None]:
        return lambda _module, _inputs, out: seen.update({name: out[:rows]})

    network.t_embedder.register_forward_hook(keep("t_emb"))
    network.y_embedder.register_forward_hook(keep("y_embed"))
    network.s_embedder.register_forward_hook(keep("s_embed"))
    network.text_refine_blocks[-1].register_forward_hook(keep("text_out"))
    network.blocks[0].register_forward_hook(keep("block0"))
    network.blocks[first_nerf - 1].register_forward_hook(keep("encoder_out"))
    network.blocks[first_nerf].register_forward_hook(keep("nerf0_out_patch0", 1))
    network.blocks[first_nerf].register_forward_pre_hook(
        lambda _module, inputs: seen.update(
            nerf0_in_patch0=inputs[0][:1], nerf_cond_patch0=inputs[1][:1]
        )
    )
    return seen


def check_forwards(case: Any, fill: ModuleType) -> None:
    """The velocity at every size and scaling of the case, and what hooks see on the way."""
    meta, z = case.meta, case.arrays()
    network, near = network_of(meta, fill), comparison_of(meta)
    seen = record_taps(network) if any(key.startswith("tap_") for key in z) else {}
    forward = in_dtype_of(network, meta)
    own = meta["decoder_patch_scaling"]
    x = fill.noise_for(meta["x_label"], z["x"].shape)
    assert torch.equal(x, torch.from_numpy(z["x"]))
    t, y = (torch.from_numpy(z[part]) for part in "ty")
    near(forward(x, t, y, own and tuple(own)), z["out"], FORWARD)
    for name in (key.removeprefix("tap_") for key in z if key.startswith("tap_")):
        near(seen[name], z[f"tap_{name}"], FORWARD)
    for j, extra in enumerate(meta.get("extra", ())):
        x, t, y = (torch.from_numpy(z[f"extra{j}_{part}"]) for part in "xty")
        scaling = extra["scaling"] or own
        near(forward(x, t, y, scaling and tuple(scaling)), z[f"extra{j}_out"], FORWARD)


def test_forward_of_the_released_network(pixnerd_t2i_heavy_case: Any, fill: ModuleType) -> None:
    """Any decoder patch, square or not."""
    check_forwards(pixnerd_t2i_heavy_case, fill)


def test_forward_of_the_pretraining_variant(pixnerd_t2i_plain_case: Any, fill: ModuleType) -> None:
    """The same keys; pixel positions span the patch."""
    check_forwards(pixnerd_t2i_plain_case, fill)


def test_runs(pixnerd_t2i_heavy_case: Any, fill: ModuleType) -> None:
    """Every run of the released network, at the case's decoder scaling."""
    check_runs(pixnerd_t2i_heavy_case, fill)


def test_runs_of_the_pretraining_variant(pixnerd_t2i_plain_case: Any, fill: ModuleType) -> None:
    """Every run of a network whose pixel positions span the patch."""
    check_runs(pixnerd_t2i_plain_case, fill)


def check_runs(case: Any, fill: ModuleType) -> None:
    """Every run of a case."""
    meta, z = case.meta, case.arrays()
    network, scaling = in_dtype_of(network_of(meta, fill), meta), meta["decoder_patch_scaling"]

    def scaled(x_BCHW: Tensor, t_B: Tensor, text_BMF: Tensor) -> Tensor:
        return network(x_BCHW, t_B, text_BMF, scaling and tuple(scaling))

    for k, run in enumerate(meta["runs"]):
        noise = fill.noise_for(run["x0_label"], (run["batch"], 3, *meta["size"]))
        text = torch.from_numpy(z[f"run{k}_cond"])
        null = torch.from_numpy(z[f"run{k}_uncond"]).expand_as(text)
        check_run(scaled, text, null, noise, case, k)


def test_a_base_size_is_that_scaling(pixnerd_t2i_heavy_case: Any, fill: ModuleType) -> None:
    """`base_size` alone gives the output of every forward whose encoder sees such a square."""
    meta, z = pixnerd_t2i_heavy_case.meta, pixnerd_t2i_heavy_case.arrays()
    own = meta["decoder_patch_scaling"] or (1.0, 1.0)
    forwards = [("", meta["size"], own)]
    forwards += [
        (f"extra{j}_", e["size"], e["scaling"] or own) for j, e in enumerate(meta.get("extra", ()))
    ]
    for prefix, size, scaling in forwards:
        base = {side / scale for side, scale in zip(size, scaling, strict=True)}
        if len(base) == 1:
            network = in_dtype_of(network_of(meta, fill, base_size=int(base.pop())), meta)
            x, t, y = (torch.from_numpy(z[prefix + part]) for part in "xty")
            comparison_of(meta)(network(x, t, y), z[f"{prefix}out"], FORWARD)


def test_rotary_tables(pixnerd_components_case: Any) -> None:
    """Unlike the class network's, positions grow with the grid, and x spans the number of rows."""
    meta, z = pixnerd_components_case.meta, pixnerd_components_case.arrays()
    for k, table in enumerate(meta["rope_t2i"]):
        height, width = table["height"], table["width"]
        ends = (float(height), float(width))
        cos, sin = rotary_table(table["head_dim"], height, width, ends, CPU)
        rows = torch.from_numpy(z[f"rope_t2i_{k}_rows"])
        assert len(cos) == height * width
        close(cos[rows], z[f"rope_t2i_{k}_cos"], TABLE)
        close(sin[rows], z[f"rope_t2i_{k}_sin"], TABLE)


def test_pixel_position_codes(pixnerd_components_case: Any) -> None:
    """Square and oblong decoder patches span the same positions."""
    meta, z = pixnerd_components_case.meta, pixnerd_components_case.arrays()
    for k, table in enumerate(meta["pos_t2i"]):
        code = pixel_position_code((table["patch_h"], table["patch_w"]), 16, CPU)
        close(code, z[f"pos_t2i_{k}"], TABLE)
