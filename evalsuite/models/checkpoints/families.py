"""What the state dicts of the published families look like: names and shapes, no tensors.

Source of names and sizes: the public repositories of PixNerd, PixelGen (JiT) and PixelDiT and
their diffusers exports, as far as their full-size key lists (tests/golden/cases/) show them.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from evalsuite.config import Scalar

Shapes = Mapping[str, tuple[int, ...]]
Network = Mapping[str, Scalar]
Presets = Mapping[str, tuple[str, Network]]
"""For each preset its family and its `network` mapping."""

_LABELS = "y_embedder.embedding_table.weight"
_TEXT = "y_embedder.proj.weight"
_FORK = ("patch_condition_head", "decoder_blocks")
"""Parts of a fork of PixNerd whose files have the released ones' names."""
_TOLD = (
    "hidden_size",
    *("depth", "num_blocks", "num_encoder_blocks", "patch_depth"),
    *("patch_size", "num_classes"),
)
"""Sizes that a line about a network names."""


class Recognised(NamedTuple):
    """What the names and shapes of a state dict show.

    Attributes:
        family: a name of `FAMILIES`.
        network: the constructor's arguments as far as shapes decide them.
        note: how it differs from every released network of the family; "" when it does not.
    """

    family: str
    network: dict[str, Scalar]
    note: str = ""


class NearestPresets(NamedTuple):
    """Presets that a network agrees with: in all sizes that both know, or the one in most sizes."""

    names: tuple[str, ...]
    exact: bool


@dataclass(frozen=True)
class FamilyLayout:
    """The names of a family's tensors.

    Attributes:
        name: the family's name in the registry of models.
        marks: keys that this family has, and no other has all of.
        infer: the constructor's arguments from the shapes.
        to_upstream: the authors' spelling of a key that another export spells otherwise.
    """

    name: str
    marks: tuple[str, ...]
    infer: Callable[[Shapes], dict[str, Scalar]]
    to_upstream: Callable[[str], str] = str


def recognise(shapes: Shapes) -> Recognised | None:
    """The family and the sizes that a state dict belongs to; None when no family has these keys."""
    if all(_has_part(shapes, part) for part in _FORK):
        return Recognised("pixnerd-class", {}, "with the other decoder of a fork")
    for layout in FAMILIES.values():
        renamed = {layout.to_upstream(key): shape for key, shape in shapes.items()}
        if all(mark in renamed or _has_part(renamed, mark) for mark in layout.marks):
            try:
                network = layout.infer(renamed)
            except (KeyError, IndexError, ZeroDivisionError):
                continue
            return Recognised(layout.name, network, _note(layout.name, renamed))
    return None


def nearest_presets(found: Recognised, presets: Presets) -> NearestPresets:
    """The presets of the same family that a network agrees with; none when there is no such one."""
    agreed = {
        name: sum(network.get(key) == value for key, value in found.network.items())
        for name, (family, network) in presets.items()
        if family == found.family and found.network
    }
    exact = tuple(name for name in agreed if _agrees(found, presets[name][1]))
    if exact or not agreed:
        return NearestPresets(exact, exact=bool(exact))
    return NearestPresets((max(agreed, key=lambda name: agreed[name]),), exact=False)


def describe(found: Recognised, presets: Presets) -> str:
    """A clause such as `pixelgen-class, hidden_size 1152, depth 28 (pixelgen-xl-256)`."""
    sizes = [f"{key} {found.network[key]}" for key in _TOLD if key in found.network]
    text = ", ".join([found.family, *sizes])
    nearest = nearest_presets(found, presets)
    if nearest.names:
        text += f" ({'' if nearest.exact else 'nearest preset: '}{' or '.join(nearest.names)})"
    return f"{text}, {found.note}" if found.note else text


def _agrees(found: Recognised, network: Network) -> bool:
    return not found.note and all(network.get(k, v) == v for k, v in found.network.items())


def _infer_pixnerd_class(shapes: Shapes) -> dict[str, Scalar]:
    rows, dim = shapes[_LABELS]
    width = shapes["x_embedder.embedder.0.weight"][0]
    channels = shapes["final_layer.linear.weight"][0]
    num_nerf = _count(shapes, r"blocks\.\d+\.param_generator1\.0\.weight")
    num_encoder = _num_layers(shapes, r"blocks\.N\.attn\.qkv\.weight")
    generated = shapes[f"blocks.{num_encoder}.param_generator1.0.weight"][0]
    return {
        "in_channels": channels,
        "patch_size": math.isqrt(shapes["s_embedder.proj.weight"][1] // channels),
        "num_groups": dim // shapes["blocks.0.attn.k_norm.weight"][0],
        "hidden_size": dim,
        "hidden_size_x": width,
        "num_blocks": num_encoder + num_nerf,
        "num_cond_blocks": num_encoder,
        "nerf_mlpratio": generated // (2 * width**2),
        "num_classes": rows - 1,
    }


def _infer_pixnerd_text(shapes: Shapes) -> dict[str, Scalar]:
    channels = shapes["final_layer.linear.weight"][0]
    return {
        "in_channels": channels,
        "patch_size": math.isqrt(shapes["s_embedder.proj.weight"][1] // channels),
        "decoder_hidden_size": shapes["x_embedder.embedder.0.weight"][0],
        "num_encoder_blocks": _num_layers(shapes, r"blocks\.N\.attn\.qkv_x\.weight"),
        "num_decoder_blocks": _count(shapes, r"blocks\.\d+\.param_generator1\.0\.weight"),
        **_refined_text(shapes),
    }


def _infer_pixelgen_class(shapes: Shapes) -> dict[str, Scalar]:
    rows, dim = shapes[_LABELS]
    first = shapes["x_embedder.proj1.weight"]
    ffn = shapes["blocks.0.mlp.w12.weight"][0] // 2
    bottleneck: dict[str, Scalar] = (
        {"use_bottleneck": True, "bottleneck_dim": first[0]}
        if "x_embedder.proj2.weight" in shapes
        else {"use_bottleneck": False}
    )
    context = shapes.get("in_context_posemb", (1, 0, dim))
    return {
        "in_channels": first[1],
        "input_size": math.isqrt(shapes["pos_embed"][1]) * first[2],
        "patch_size": first[2],
        "hidden_size": dim,
        "depth": _num_layers(shapes, r"blocks\.N\.attn\.qkv\.weight"),
        "num_heads": dim // shapes["blocks.0.attn.q_norm.weight"][0],
        "num_classes": rows - 1,
        "in_context_len": context[1],
        **({"mlp_ratio": 4.0} if int(4 * dim * 2 / 3) == ffn else {}),
        **bottleneck,
    }


def _infer_pixelgen_text(shapes: Shapes) -> dict[str, Scalar]:
    bottleneck, patch_values = shapes["x_embedder.proj1.weight"]
    channels = 3  # the only number of colours; the patch's side then follows from its values
    patch = math.isqrt(patch_values // channels)
    return {
        "in_channels": channels,
        "input_size": math.isqrt(shapes["pos_embed"][1]) * patch,
        "patch_size": patch,
        "bottleneck_dim": bottleneck,
        "num_blocks": _num_layers(shapes, r"blocks\.N\.attn\.qkv_x\.weight"),
        **_refined_text(shapes),
    }


def _refined_text(shapes: Shapes) -> dict[str, Scalar]:
    """Sizes that PixNerd's and PixelGen's text networks share."""
    dim, text_dim = shapes[_TEXT]
    return {
        "hidden_size": dim,
        "num_groups": dim // shapes["blocks.0.attn.k_norm.weight"][0],
        "num_text_blocks": _num_layers(shapes, r"text_refine_blocks\.N\.attn\.qkv\.weight"),
        "txt_embed_dim": text_dim,
        "txt_max_length": shapes["y_pos_embedding"][1],
    }


def _infer_pixeldit_class(shapes: Shapes) -> dict[str, Scalar]:
    rows, dim = shapes[_LABELS]
    heads = dim // shapes["patch_blocks.0.attn.k_norm.weight"][0]
    return {**_pixel_level(shapes, dim, heads), "num_classes": rows - 1}


def _infer_pixeldit_text(shapes: Shapes) -> dict[str, Scalar]:
    dim, text_dim = shapes[_TEXT]
    pixel_dim = shapes["pixel_blocks.0.attn.proj.weight"][0]
    heads = dim // shapes["patch_blocks.0.attn.k_norm_x.weight"][0]
    return {
        **_pixel_level(shapes, dim, heads),
        "pixel_attn_hidden_size": pixel_dim,
        "pixel_num_groups": pixel_dim // shapes["pixel_blocks.0.attn.k_norm.weight"][0],
        "txt_embed_dim": text_dim,
        "txt_max_length": shapes["y_pos_embedding"][1],
    }


def _pixel_level(shapes: Shapes, dim: int, heads: int) -> dict[str, Scalar]:
    """Sizes that both PixelDiT networks have."""
    width, channels = shapes["pixel_embedder.proj.weight"]
    return {
        "in_channels": channels,
        "patch_size": math.isqrt(shapes["s_embedder.proj.weight"][1] // channels),
        "num_groups": heads,
        "hidden_size": dim,
        "pixel_hidden_size": width,
        "patch_depth": _num_layers(shapes, r"patch_blocks\.N\.(?:norm1|norm_x1)\.weight"),
        "pixel_depth": _num_layers(shapes, r"pixel_blocks\.N\.norm1\.weight"),
    }


def _jit_to_upstream(key: str) -> str:
    """PixelGen's spelling of a key of the diffusers export of JiT-type networks."""
    key = re.sub(r"^(blocks\.\d+\.adaLN_modulation)\.(weight|bias)$", r"\1.1.\2", key)
    for other, upstream in _JIT_ENDS.items():
        if key.startswith(f"{other}."):
            return f"{upstream}.{key.rpartition('.')[2]}"
    return key


_JIT_ENDS = {
    "norm_final": "final_layer.norm_final",
    "linear_final": "final_layer.linear",
    "adaLN_modulation_final": "final_layer.adaLN_modulation.1",
}


def _note(family: str, shapes: Shapes) -> str:
    """A variant that shares a family's names and cannot be loaded as it."""
    modulation = shapes.get("pixel_blocks.0.adaLN_modulation.0.weight")
    if family.startswith("pixeldit") and modulation is not None:
        values = shapes["s_embedder.proj.weight"][1] // shapes["pixel_embedder.proj.weight"][1]
        if modulation[0] == 4 * shapes["pixel_embedder.proj.weight"][0] * values:
            return "with post-modulation in its pixel blocks, which no released network has"
    return ""


def _count(shapes: Shapes, pattern: str) -> int:
    expression = re.compile(pattern)
    return sum(expression.fullmatch(key) is not None for key in shapes)


def _num_layers(shapes: Shapes, pattern: str) -> int:
    """Of layers that are numbered from 0, by the highest: the file may lack a tensor of another."""
    expression = re.compile(pattern.replace("N", r"(\d+)"))
    found = (expression.fullmatch(key) for key in shapes)
    return max((int(match[1]) + 1 for match in found if match), default=0)


def _has_part(shapes: Shapes, part: str) -> bool:
    return any(part in key.split(".") for key in shapes)


FAMILIES = {
    layout.name: layout
    for layout in (
        FamilyLayout("pixnerd-class", (_LABELS, "param_generator1"), _infer_pixnerd_class),
        FamilyLayout("pixnerd-text", (_TEXT, "param_generator1"), _infer_pixnerd_text),
        FamilyLayout(
            "pixelgen-class",
            (_LABELS, "pos_embed", "final_layer.adaLN_modulation.1.weight"),
            _infer_pixelgen_class,
            _jit_to_upstream,
        ),
        FamilyLayout(
            "pixelgen-text",
            (_TEXT, "pos_embed", "text_refine_blocks", "x_embedder.proj1.weight"),
            _infer_pixelgen_text,
        ),
        FamilyLayout("pixeldit-class", (_LABELS, "compress_to_attn"), _infer_pixeldit_class),
        FamilyLayout("pixeldit-text", (_TEXT, "compress_to_attn"), _infer_pixeldit_text),
    )
}
"""The families whose checkpoints are known, by name."""
