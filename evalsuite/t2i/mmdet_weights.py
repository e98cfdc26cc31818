"""mmdet's Mask2Former weights under the names that transformers reads: the official detector.

Source: the parameter names of mmdet 2.27 (SwinTransformer, Mask2FormerHead) and of transformers'
Mask2Former as its hub files have them. What differs besides names: mmdet keeps query, key and value
of Swin in one matrix, and its patch merging unfolds channels in another order.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from evalsuite.errors import DataError

SWIN_S = {"embed_dim": 96, "depths": [2, 2, 18, 2], "num_heads": [3, 6, 12, 24], "window_size": 7}
_SWIN = "model.pixel_level_module.encoder"
_PIXEL = "model.pixel_level_module.decoder"
_QUERY = "model.transformer_module"
_BLOCK = f"{_SWIN}.encoder.layers.\\1.blocks.\\2"
_ENCODER, _DECODER = f"{_PIXEL}.encoder.layers.\\1", f"{_QUERY}.decoder.layers.\\1"
_NAMES: tuple[tuple[str, str], ...] = (
    (
        r"backbone\.patch_embed\.projection\.(weight|bias)",
        f"{_SWIN}.embeddings.patch_embeddings.projection.\\1",
    ),
    (r"backbone\.patch_embed\.norm\.(weight|bias)", f"{_SWIN}.embeddings.norm.\\1"),
    (
        r"backbone\.stages\.(\d+)\.blocks\.(\d+)\.norm1\.(weight|bias)",
        f"{_BLOCK}.layernorm_before.\\3",
    ),
    (
        r"backbone\.stages\.(\d+)\.blocks\.(\d+)\.norm2\.(weight|bias)",
        f"{_BLOCK}.layernorm_after.\\3",
    ),
    (
        r"backbone\.stages\.(\d+)\.blocks\.(\d+)\.attn\.w_msa\.relative_position_bias_table",
        f"{_BLOCK}.attention.self.relative_position_bias_table",
    ),
    (
        r"backbone\.stages\.(\d+)\.blocks\.(\d+)\.attn\.w_msa\.proj\.(weight|bias)",
        f"{_BLOCK}.attention.output.dense.\\3",
    ),
    (
        r"backbone\.stages\.(\d+)\.blocks\.(\d+)\.ffn\.layers\.0\.0\.(weight|bias)",
        f"{_BLOCK}.intermediate.dense.\\3",
    ),
    (
        r"backbone\.stages\.(\d+)\.blocks\.(\d+)\.ffn\.layers\.1\.(weight|bias)",
        f"{_BLOCK}.output.dense.\\3",
    ),
    (
        r"backbone\.stages\.(\d+)\.downsample\.(norm|reduction)\.(weight|bias)",
        f"{_SWIN}.encoder.layers.\\1.downsample.\\2.\\3",
    ),
    (
        r"panoptic_head\.pixel_decoder\.input_convs\.(\d+)\.conv\.(weight|bias)",
        f"{_PIXEL}.input_projections.\\1.0.\\2",
    ),
    (
        r"panoptic_head\.pixel_decoder\.input_convs\.(\d+)\.gn\.(weight|bias)",
        f"{_PIXEL}.input_projections.\\1.1.\\2",
    ),
    (
        r"panoptic_head\.pixel_decoder\.encoder\.layers\.(\d+)\.attentions\.0\.(\w+)\.(weight|bias)",
        f"{_ENCODER}.self_attn.\\2.\\3",
    ),
    (
        r"panoptic_head\.pixel_decoder\.encoder\.layers\.(\d+)\.ffns\.0\.layers\.0\.0\.(weight|bias)",
        f"{_ENCODER}.fc1.\\2",
    ),
    (
        r"panoptic_head\.pixel_decoder\.encoder\.layers\.(\d+)\.ffns\.0\.layers\.1\.(weight|bias)",
        f"{_ENCODER}.fc2.\\2",
    ),
    (
        r"panoptic_head\.pixel_decoder\.encoder\.layers\.(\d+)\.norms\.0\.(weight|bias)",
        f"{_ENCODER}.self_attn_layer_norm.\\2",
    ),
    (
        r"panoptic_head\.pixel_decoder\.encoder\.layers\.(\d+)\.norms\.1\.(weight|bias)",
        f"{_ENCODER}.final_layer_norm.\\2",
    ),
    (r"panoptic_head\.pixel_decoder\.level_encoding\.weight", f"{_PIXEL}.level_embed"),
    (
        r"panoptic_head\.pixel_decoder\.lateral_convs\.0\.conv\.weight",
        f"{_PIXEL}.adapter_1.0.weight",
    ),
    (
        r"panoptic_head\.pixel_decoder\.lateral_convs\.0\.gn\.(weight|bias)",
        f"{_PIXEL}.adapter_1.1.\\1",
    ),
    (r"panoptic_head\.pixel_decoder\.output_convs\.0\.conv\.weight", f"{_PIXEL}.layer_1.0.weight"),
    (
        r"panoptic_head\.pixel_decoder\.output_convs\.0\.gn\.(weight|bias)",
        f"{_PIXEL}.layer_1.1.\\1",
    ),
    (r"panoptic_head\.pixel_decoder\.mask_feature\.(weight|bias)", f"{_PIXEL}.mask_projection.\\1"),
    (
        r"panoptic_head\.transformer_decoder\.layers\.(\d+)\.attentions\.0\.attn\.(in_proj_weight|in_proj_bias|out_proj\.weight|out_proj\.bias)",
        f"{_DECODER}.cross_attn.\\2",
    ),
    (
        r"panoptic_head\.transformer_decoder\.layers\.(\d+)\.attentions\.1\.attn\.out_proj\.(weight|bias)",
        f"{_DECODER}.self_attn.out_proj.\\2",
    ),
    (
        r"panoptic_head\.transformer_decoder\.layers\.(\d+)\.ffns\.0\.layers\.0\.0\.(weight|bias)",
        f"{_DECODER}.fc1.\\2",
    ),
    (
        r"panoptic_head\.transformer_decoder\.layers\.(\d+)\.ffns\.0\.layers\.1\.(weight|bias)",
        f"{_DECODER}.fc2.\\2",
    ),
    (
        r"panoptic_head\.transformer_decoder\.layers\.(\d+)\.norms\.0\.(weight|bias)",
        f"{_DECODER}.cross_attn_layer_norm.\\2",
    ),
    (
        r"panoptic_head\.transformer_decoder\.layers\.(\d+)\.norms\.1\.(weight|bias)",
        f"{_DECODER}.self_attn_layer_norm.\\2",
    ),
    (
        r"panoptic_head\.transformer_decoder\.layers\.(\d+)\.norms\.2\.(weight|bias)",
        f"{_DECODER}.final_layer_norm.\\2",
    ),
    (
        r"panoptic_head\.transformer_decoder\.post_norm\.(weight|bias)",
        f"{_QUERY}.decoder.layernorm.\\1",
    ),
    (r"panoptic_head\.query_embed\.weight", f"{_QUERY}.queries_embedder.weight"),
    (r"panoptic_head\.query_feat\.weight", f"{_QUERY}.queries_features.weight"),
    (r"panoptic_head\.level_embed\.weight", f"{_QUERY}.level_embed.weight"),
    (r"panoptic_head\.cls_embed\.(weight|bias)", "class_predictor.\\1"),
)
_COMPUTED = re.compile(r".*\.relative_position_index|panoptic_head\.loss_cls\..*")
"""Follows from the window's size, or belongs to the training."""
_SWIN_NORM = re.compile(r"backbone\.norm(\d)\.(weight|bias)")
_SWIN_QKV = re.compile(r"backbone\.stages\.(\d+)\.blocks\.(\d+)\.attn\.w_msa\.qkv\.(weight|bias)")
_SELF_QKV = re.compile(
    r"panoptic_head\.transformer_decoder\.layers\.(\d+)\.attentions\.1\.attn\.in_proj_(weight|bias)"
)
_MASK_MLP = re.compile(r"panoptic_head\.mask_embed\.([024])\.(weight|bias)")
_MERGED = re.compile(
    r"backbone\.stages\.\d+\.downsample\.(norm\.weight|norm\.bias|reduction\.weight)"
)


def convert_mmdet(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All tensors under transformers' names, in the order of transformers' patch merging.

    Args:
        state: of mmdet 2's Mask2Former with a Swin backbone, as its `.pth` file holds it.

    Raises:
        DataError: a name is not of that network.
    """
    converted: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if _COMPUTED.fullmatch(name):
            continue
        value = merged_as_swin(tensor) if _MERGED.fullmatch(name) else tensor
        for target, part in _renamed(name, value):
            converted[target] = part.contiguous()
    return converted


def _renamed(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    if found := _SWIN_QKV.fullmatch(name):
        stage, block, kind = found.groups()
        for part, value in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
            layer = f"{_SWIN}.encoder.layers.{stage}.blocks.{block}"
            yield f"{layer}.attention.self.{part}.{kind}", value
    elif found := _SELF_QKV.fullmatch(name):
        layer, kind = found.groups()
        for part, value in zip("qkv", tensor.chunk(3), strict=True):
            yield f"{_QUERY}.decoder.layers.{layer}.self_attn.{part}_proj.{kind}", value
    elif found := _SWIN_NORM.fullmatch(name):
        yield f"{_SWIN}.hidden_states_norms.stage{int(found[1]) + 1}.{found[2]}", tensor
    elif found := _MASK_MLP.fullmatch(name):
        place = int(found[1]) // 2
        yield f"{_QUERY}.decoder.mask_predictor.mask_embedder.{place}.0.{found[2]}", tensor
    else:
        yield _plain(name), tensor


def _plain(name: str) -> str:
    for pattern, target in _NAMES:
        found = re.fullmatch(pattern, name)
        if found:
            return found.expand(target)
    raise DataError(
        f"{name!r} is no weight of mmdet 2's Mask2Former with Swin: give"
        " mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco_20220504_001756-743b7d99.pth"
    )


def merged_as_swin(tensor: Tensor) -> Tensor:
    """A tensor [..., 4C] of patch merging from mmdet's order to Swin's.

    mmdet unfolds: channel, row, column. Swin puts whole channels side by side, of the pixels at
    (row, column) = (0,0), (1,0), (0,1), (1,1).
    """
    *above, last = tensor.shape
    parts = tensor.reshape(*above, last // 4, 2, 2)
    return parts.movedim((-1, -2, -3), (-3, -2, -1)).reshape(*above, last)


def swin_s_config(num_classes: int = 80) -> dict[str, Any]:
    """The configuration of the official detector's network, for transformers."""
    backbone = {
        **SWIN_S,
        "model_type": "swin",
        "image_size": 224,
        "drop_path_rate": 0.3,
        "out_features": ["stage1", "stage2", "stage3", "stage4"],
    }
    return {
        "architectures": ["Mask2FormerForUniversalSegmentation"],
        "model_type": "mask2former",
        "backbone_config": backbone,
        "id2label": {str(i): str(i) for i in range(num_classes)},
        "label2id": {str(i): i for i in range(num_classes)},
        "decoder_layers": 10,
        "encoder_layers": 6,
        "num_queries": 100,
    }


def with_unused(state: Mapping[str, Tensor], num_classes: int) -> dict[str, Tensor]:
    """The weights and what transformers' class holds besides, which no output depends on."""
    return {**state, "criterion.empty_weight": torch.ones(num_classes + 1)}
