"""Judges of DPG-Bench from local folders: which network a folder holds, and what names it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from evalsuite.config import parse_json
from evalsuite.errors import DataError
from evalsuite.features.foundation.files import load_network, network_sha256, read_config
from evalsuite.pipeline.t2i_networks import tokenizer_of
from evalsuite.t2i.judges import BlipJudge, Judge
from evalsuite.t2i.qwen_judge import DIALOGUE, PICTURE, PatchOptions, QwenJudge

QWEN = {
    "qwen2_vl": "Qwen2VLForConditionalGeneration",
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
    "qwen3_vl": "Qwen3VLForConditionalGeneration",
}
"""Kinds of network that take Qwen2-VL's dialogue and patches, and their classes."""
KINDS = ("blip", *QWEN)
_PREPROCESSOR = "preprocessor_config.json"
_END = ("<|im_end|>", "<|endoftext|>")
_POSITIONS = "embeddings.position_ids"


@dataclass(frozen=True)
class JudgeSource:
    """A folder that every node sees, and what names the judge in it."""

    folder: Path
    protocol: Mapping[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        """Hash the weights once, here.

        Raises:
            DataError: another network, or files are missing.
        """
        object.__setattr__(self, "protocol", _protocol(self.folder))

    def load(self, device: torch.device) -> Judge:
        """The judge.

        Raises:
            DataError: other weights on this machine, or weights that do not fit.
            EnvironmentProblem: transformers is not installed.
        """
        if _protocol(self.folder) != self.protocol:
            raise DataError(f"{self.folder} holds other weights on this machine")
        if read_config(self.folder, KINDS)["model_type"] == "blip":
            return _blip(self.folder, device)
        return _qwen(self.folder, device)


def _protocol(folder: Path) -> dict[str, Any]:
    kind = read_config(folder, KINDS)["model_type"]
    about = {"weights_sha256": network_sha256(folder), "precision": "float32"}
    if kind == "blip":
        return {"name": "blip-vqa", **about}
    options = _patch_options(folder).model_dump(mode="json")
    return {"name": kind.replace("_", "-"), **about, "dialogue": DIALOGUE, "input": options}


def _blip(folder: Path, device: torch.device) -> BlipJudge:
    ignored = (f"text_encoder.{_POSITIONS}", f"text_decoder.bert.{_POSITIONS}")
    network: Any = load_network(folder, "BlipForQuestionAnswering", ignored=ignored)
    tokenizer = tokenizer_of(folder)

    def decode(ids: Any) -> str:  # noqa: ANN401
        return str(tokenizer.decode(ids, skip_special_tokens=True))

    return BlipJudge(network.to(device), tokenizer.encode, decode, device)


def _qwen(folder: Path, device: torch.device) -> QwenJudge:
    kind = read_config(folder, tuple(QWEN))["model_type"]
    network: Any = load_network(folder, QWEN[kind])
    tokenizer = tokenizer_of(folder)
    known = tokenizer.get_vocab()
    ends = tuple(known[word] for word in _END if word in known)
    if known.get(PICTURE) != network.config.image_token_id or not ends:
        raise DataError(
            f"{folder} holds a tokenizer without {PICTURE} and {_END[0]}: not Qwen-VL's"
        )

    def encode(text: str) -> Any:  # noqa: ANN401
        return tokenizer.encode(text, add_special_tokens=False)

    def decode(ids: Any) -> str:  # noqa: ANN401
        return str(tokenizer.decode(ids, skip_special_tokens=True))

    return QwenJudge(network.to(device), encode, decode, _patch_options(folder), device, ends)


def _patch_options(folder: Path) -> PatchOptions:
    """How the folder's own processor cuts pictures.

    Raises:
        DataError: it does not say so.
    """
    path = folder / _PREPROCESSOR
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
        size = content.get("size") or {}
        return PatchOptions(
            patch_size=content["patch_size"],
            merge_size=content["merge_size"],
            temporal_patch_size=content["temporal_patch_size"],
            min_pixels=content.get("min_pixels") or size["shortest_edge"],
            max_pixels=content.get("max_pixels") or size["longest_edge"],
            mean=tuple(content["image_mean"]),
            std=tuple(content["image_std"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} does not say how pictures are cut: {error}") from error
