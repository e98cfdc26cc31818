"""What the state dicts of the published families look like: names and shapes, no tensors.

Source of names and sizes: the public repositories of PixNerd, PixelGen (JiT) and PixelDiT and
their diffusers exports, as far as their full-size key lists (tests/golden/cases/) show them.
"""

import contextlib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from evalsuite.config import Scalar

Shapes = Mapping[str, tuple[int, ...]]
Network = Mapping[str, Scalar]
Size = Callable[[Shapes], int]
Sizes = Mapping[str, Callable[[Shapes], Scalar]]
"""How each argument of a constructor follows from shapes; what a shape does not show raises."""
Presets = Mapping[str, tuple[str, Network]]
"""For each preset its family and its `network` mapping."""

_LABELS = "y_embedder.embedding_table.weight"
_TEXT = "y_embedder.proj.weight"
_PIXELDIT_QKV = "patch_blocks.0.attn.qkv.weight"
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
        marks: keys, or parts of them, that this family has; public networks that share layers
            with it lack at least two, and another family lacks more than its own.
        sizes: the constructor's arguments from the shapes, each by itself.
        to_upstream: the authors' spelling of a key that another export spells otherwise.
    """

    name: str
    marks: tuple[str, ...]
    sizes: Sizes
    to_upstream: Callable[[str], str] = str


def recognise(shapes: Shapes) -> Recognised | None:
    """The family and the sizes that a state dict belongs to; None when no family has these keys.

    One mark may be missing, and a size that its tensor does not show is left out: what a damaged
    file really is helps to mend it.
    """
    if all(_has_part(shapes, part) for part in _FORK):
        return Recognised("pixnerd-class", {}, "with the other decoder of a fork")
    matches = []
    for place, layout in enumerate(FAMILIES.values()):
        renamed = {layout.to_upstream(key): shape for key, shape in shapes.items()}
        parts = {part for key in renamed for part in key.split(".")}
        found = sum(mark in renamed or mark in parts for mark in layout.marks)
        if len(layout.marks) - found <= 1:
            matches.append((len(layout.marks) - found, -found, place, layout, renamed))
    if not matches:
        return None
    *_, layout, renamed = min(matches)
    return Recognised(layout.name, _inferred(layout, renamed), _note(layout.name, renamed))


def _inferred(layout: "FamilyLayout", shapes: Shapes) -> dict[str, Scalar]:
    """Each size that the shapes show."""
    network: dict[str, Scalar] = {}
    for name, size in layout.sizes.items():
        with contextlib.suppress(KeyError, IndexError, ValueError, ZeroDivisionError):
            network[name] = size(shapes)
    return network


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


def _axis(key: str, axis: int, rank: int = 2) -> Size:
    """The size of one axis of a tensor of that rank."""

    def size(shapes: Shapes) -> int:
        if len(shapes[key]) != rank:
            raise ValueError(f"{key} has {len(shapes[key])} axes, not {rank}")
        return shapes[key][axis]

    return size


def _over(whole: Size, part: Size) -> Size:
    """How often one size is in another."""
    return lambda shapes: whole(shapes) // part(shapes)


def _less_one(size: Size) -> Size:
    return lambda shapes: size(shapes) - 1


def _always(number: int) -> Size:
    return lambda _: number


def _patch_side(values: Size, channels: Size) -> Size:
    """The side of a square patch from the number of its values."""
    return lambda shapes: math.isqrt(values(shapes) // channels(shapes))


def _image_side(patch: Size) -> Size:
    """The side of the image, whose patches each have a position."""
    positions = _axis("pos_embed", 1, 3)
    return lambda shapes: math.isqrt(positions(shapes)) * patch(shapes)


_DIM, _TEXT_DIM = _axis(_LABELS, 1), _axis(_TEXT, 0)
_NUM_CLASSES = _less_one(_axis(_LABELS, 0))
_PATCH_VALUES = _axis("s_embedder.proj.weight", 1)
_COLOURS = _axis("final_layer.linear.weight", 0)


def _num_blocks(shapes: Shapes) -> int:
    return _num_layers(shapes, r"blocks\.N\..*")


def _num_attention_blocks(shapes: Shapes) -> int:
    return _num_layers(shapes, r"blocks\.N\.attn\..*")


def _nerf_mlpratio(shapes: Shapes) -> int:
    generated = shapes[f"blocks.{_num_attention_blocks(shapes)}.param_generator1.0.weight"][0]
    return generated // (2 * _axis("x_embedder.embedder.0.weight", 0)(shapes) ** 2)


_PIXNERD_CLASS: Sizes = {
    "in_channels": _COLOURS,
    "patch_size": _patch_side(_PATCH_VALUES, _COLOURS),
    "num_groups": _over(_DIM, _axis("blocks.0.attn.k_norm.weight", 0, 1)),
    "hidden_size": _DIM,
    "hidden_size_x": _axis("x_embedder.embedder.0.weight", 0),
    "num_blocks": _num_blocks,
    "num_cond_blocks": _num_attention_blocks,
    "nerf_mlpratio": _nerf_mlpratio,
    "num_classes": _NUM_CLASSES,
}
_REFINED_TEXT: Sizes = {
    "hidden_size": _TEXT_DIM,
    "num_groups": _over(_TEXT_DIM, _axis("blocks.0.attn.k_norm.weight", 0, 1)),
    "num_text_blocks": lambda s: _num_layers(s, r"text_refine_blocks\.N\..*"),
    "txt_embed_dim": _axis(_TEXT, 1),
    "txt_max_length": _axis("y_pos_embedding", 1, 3),
}
"""Sizes that PixNerd's and PixelGen's text networks share."""
_PIXNERD_TEXT: Sizes = {
    "in_channels": _COLOURS,
    "patch_size": _patch_side(_PATCH_VALUES, _COLOURS),
    "decoder_hidden_size": _axis("x_embedder.embedder.0.weight", 0),
    "num_encoder_blocks": _num_attention_blocks,
    "num_decoder_blocks": lambda s: _num_blocks(s) - _num_attention_blocks(s),
    **_REFINED_TEXT,
}

_JIT_PATCH = _axis("x_embedder.proj1.weight", 2, 4)


def _uses_bottleneck(shapes: Shapes) -> bool:
    return "x_embedder.proj2.weight" in shapes


def _bottleneck_dim(shapes: Shapes) -> int:
    if not _uses_bottleneck(shapes):
        raise KeyError("x_embedder.proj2.weight")
    return _axis("x_embedder.proj1.weight", 0, 4)(shapes)


def _in_context_len(shapes: Shapes) -> int:
    return _axis("in_context_posemb", 1, 3)(shapes) if "in_context_posemb" in shapes else 0


def _mlp_ratio(shapes: Shapes) -> float:
    dim, ffn = _DIM(shapes), _axis("blocks.0.mlp.w12.weight", 0)(shapes) // 2
    if int(4 * dim * 2 / 3) != ffn:
        raise ValueError("not the ratio of the released networks: several may give this width")
    return 4.0


_PIXELGEN_CLASS: Sizes = {
    "in_channels": _axis("x_embedder.proj1.weight", 1, 4),
    "input_size": _image_side(_JIT_PATCH),
    "patch_size": _JIT_PATCH,
    "hidden_size": _DIM,
    "depth": _num_attention_blocks,
    "num_heads": _over(_DIM, _axis("blocks.0.attn.q_norm.weight", 0, 1)),
    "num_classes": _NUM_CLASSES,
    "in_context_len": _in_context_len,
    "mlp_ratio": _mlp_ratio,
    "use_bottleneck": _uses_bottleneck,
    "bottleneck_dim": _bottleneck_dim,
}
_RGB = _always(3)
"""The only number of colours; the patch's side then follows from its values."""
_PIXELGEN_TEXT_PATCH = _patch_side(_axis("x_embedder.proj1.weight", 1), _RGB)
_PIXELGEN_TEXT: Sizes = {
    "in_channels": _RGB,
    "input_size": _image_side(_PIXELGEN_TEXT_PATCH),
    "patch_size": _PIXELGEN_TEXT_PATCH,
    "bottleneck_dim": _axis("x_embedder.proj1.weight", 0),
    "num_blocks": _num_attention_blocks,
    **_REFINED_TEXT,
}

_PIXEL_COLOURS = _axis("pixel_embedder.proj.weight", 1)
_PIXEL_LEVEL: Sizes = {
    "in_channels": _PIXEL_COLOURS,
    "patch_size": _patch_side(_PATCH_VALUES, _PIXEL_COLOURS),
    "pixel_hidden_size": _axis("pixel_embedder.proj.weight", 0),
    "patch_depth": lambda s: _num_layers(s, r"patch_blocks\.N\..*"),
    "pixel_depth": lambda s: _num_layers(s, r"pixel_blocks\.N\..*"),
}
"""Sizes that both PixelDiT networks have."""
_PIXELDIT_CLASS: Sizes = {
    **_PIXEL_LEVEL,
    "num_groups": _over(_DIM, _axis("patch_blocks.0.attn.k_norm.weight", 0, 1)),
    "hidden_size": _DIM,
    "num_classes": _NUM_CLASSES,
}
_PIXEL_DIM = _axis("pixel_blocks.0.attn.proj.weight", 0)
_PIXELDIT_TEXT: Sizes = {
    **_PIXEL_LEVEL,
    "num_groups": _over(_TEXT_DIM, _axis("patch_blocks.0.attn.k_norm_x.weight", 0, 1)),
    "hidden_size": _TEXT_DIM,
    "pixel_attn_hidden_size": _PIXEL_DIM,
    "pixel_num_groups": _over(_PIXEL_DIM, _axis("pixel_blocks.0.attn.k_norm.weight", 0, 1)),
    "txt_embed_dim": _axis(_TEXT, 1),
    "txt_max_length": _axis("y_pos_embedding", 1, 3),
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
        try:
            width, colours = shapes["pixel_embedder.proj.weight"]
            values = shapes["s_embedder.proj.weight"][1] // colours
        except (KeyError, IndexError, ValueError, ZeroDivisionError):
            return ""
        if modulation[:1] == (4 * width * values,):
            return "with post-modulation in its pixel blocks, which no released network has"
    return ""


def _num_layers(shapes: Shapes, pattern: str) -> int:
    """Of layers that are numbered from 0, by the highest: the file may lack a tensor of another."""
    expression = re.compile(pattern.replace("N", r"(\d{1,6})"))  # int() refuses very many digits
    found = (expression.fullmatch(key) for key in shapes)
    return max((int(match[1]) + 1 for match in found if match), default=0)


def _has_part(shapes: Shapes, part: str) -> bool:
    return any(part in key.split(".") for key in shapes)


FAMILIES = {
    layout.name: layout
    for layout in (
        FamilyLayout(
            "pixnerd-class",
            (_LABELS, "param_generator1", "embedder", "blocks.0.attn.qkv.weight"),
            _PIXNERD_CLASS,
        ),
        FamilyLayout(
            "pixnerd-text",
            (_TEXT, "param_generator1", "embedder", "text_refine_blocks", "qkv_x"),
            _PIXNERD_TEXT,
        ),
        FamilyLayout(
            "pixelgen-class",
            (_LABELS, "pos_embed", "w12", "x_embedder.proj1.weight", "in_context_posemb"),
            _PIXELGEN_CLASS,
            _jit_to_upstream,
        ),
        FamilyLayout(
            "pixelgen-text",
            (_TEXT, "pos_embed", "text_refine_blocks", "qkv_x", "x_embedder.proj1.weight"),
            _PIXELGEN_TEXT,
        ),
        FamilyLayout(
            "pixeldit-class",
            (_LABELS, _PIXELDIT_QKV, "pixel_blocks", "compress_to_attn"),
            _PIXELDIT_CLASS,
        ),
        FamilyLayout(
            "pixeldit-text",
            (_TEXT, "patch_blocks", "pixel_blocks", "compress_to_attn", "qkv_x"),
            _PIXELDIT_TEXT,
        ),
    )
}
"""The families whose checkpoints are known, by name."""
