"""Networks of the text-to-image scorers from local folders, with what names them in a protocol."""

import hashlib
import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file

from evalsuite.artifacts.digests import known_sha256
from evalsuite.config import parse_json
from evalsuite.errors import DataError, EnvironmentProblem, StorageError, UsageError
from evalsuite.features.foundation.files import load_network, network_sha256, read_config
from evalsuite.models.checkpoints.reading import open_checkpoint
from evalsuite.t2i.clip_colors import ClipColors
from evalsuite.t2i.clip_network import ClipEmbedding
from evalsuite.t2i.colors import CropOptions
from evalsuite.t2i.mask2former import Mask2FormerDetector
from evalsuite.t2i.mmdet_weights import SWIN_S, convert_mmdet, swin_s_config, with_unused

ORIGIN = "evalsuite-origin.json"
_CONVERTED = "network_sha256"
"""Key in it: of the weights and the configuration as they were written."""
OFFICIAL = "743b7d99"
"""How the SHA-256 of the official detector's file begins, by mmdet's naming."""
_UNUSED = ("model.pixel_level_module.encoder.swin.layernorm.", "criterion.")
"""Of Mask2Former in transformers; no output depends on them, and older files lack them."""
_SIZES = {
    "width": ("hidden_size", 768),
    "layers": ("num_hidden_layers", 12),
    "patch": ("patch_size", 32),
    "side": ("image_size", 224),
}
"""Of CLIP's pictures: how its configuration calls them, and what it means where it is silent."""
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError)


class Named(NamedTuple):
    """A network ready for use, and its part of the protocol."""

    network: Any
    protocol: dict[str, Any]


def read_object_names(path: Path) -> tuple[str, ...]:
    """Names of the detector's classes, one a line, in the order of its indices.

    Raises:
        StorageError: the file cannot be read.
        UsageError: a line is empty, or a name is there twice.
    """
    try:
        names = tuple(path.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"cannot read {path}: {error}") from error
    if not names or "" in names or len(set(names)) != len(names):
        raise UsageError(f"{path} must name each class once, one a line")
    return names


def load_detector(folder: Path, names: tuple[str, ...], device: torch.device) -> Named:
    """Mask2Former with an instance head in float32.

    Raises:
        DataError: another network, other weights, or other classes.
        EnvironmentProblem: transformers is not installed.
    """
    protocol = detector_protocol(folder, names)
    network: Any = load_network(folder, "Mask2FormerForUniversalSegmentation", ignored=_UNUSED)
    return Named(Mask2FormerDetector(network.to(device), names, device), protocol)


def detector_protocol(folder: Path, names: tuple[str, ...]) -> dict[str, Any]:
    """What names the detector of a folder, which is not loaded.

    Raises:
        DataError: another network, or files are missing.
    """
    config, digest = read_config(folder, ("mask2former",)), network_sha256(folder)
    return {
        "kind": _kind_of(folder, digest),
        "weights_sha256": digest,
        "network": _sizes_of(config),
        "names_sha256": hashlib.sha256("".join(f"{one}\n" for one in names).encode()).hexdigest(),
        "input": [Mask2FormerDetector.long_edge, Mask2FormerDetector.short_edge],
        "min_score": Mask2FormerDetector.min_score,
        "precision": "float32",
    }


def _sizes_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Of Mask2Former: its backbone and its queries; what is not said is what transformers takes."""
    backbone = config.get("backbone_config")
    if not isinstance(backbone, dict):  # or named, which loads as another network
        backbone = {} if config.get("backbone") else {**SWIN_S, "model_type": "swin"}
    return {
        "backbone": backbone.get("model_type"),
        "embed_dim": backbone.get("embed_dim", 96),
        "depths": backbone.get("depths", [2, 2, 6, 2]),
        "num_queries": config.get("num_queries", 100),
    }


def _kind_of(folder: Path, digest: str) -> str:
    """Whose training a detector is, by what its conversion noted; of its very weights alone.

    Raises:
        DataError: the note cannot be read, or is of other weights.
    """
    origin = _origin(folder)
    if not origin:
        return "HF detector"
    if origin.get(_CONVERTED) != digest:
        raise DataError(
            f"{folder} holds other weights or another configuration than its {ORIGIN} was written"
            " for: convert the detector again, or remove that file where the network is another"
        )
    official = str(origin.get("sha256", "")).startswith(OFFICIAL)
    return "official detector" if official else "mmdet detector (other weights)"


def load_colors(folder: Path, device: torch.device) -> Named:
    """CLIP as the classifier of colours.

    Raises:
        DataError: another network, other weights, another activation, or no tokenizer.
        EnvironmentProblem: transformers is not installed.
    """
    protocol, clip = colors_protocol(folder), load_clip(folder, device)
    return Named(ClipColors(clip.network, clip.tokenize, device), protocol)


def load_clip(folder: Path, device: torch.device) -> ClipEmbedding:
    """CLIP with both sides and its tokenizer, in float32.

    Raises:
        DataError: another network, other weights, or no tokenizer.
        EnvironmentProblem: transformers is not installed.
    """
    read_config(folder, ("clip",))
    ignored = ("vision_model.embeddings.position_ids", "text_model.embeddings.position_ids")
    network: Any = load_network(folder, "CLIPModel", ignored=ignored)
    tokenizer = tokenizer_of(folder)

    def tokenize(texts: Any) -> Any:  # noqa: ANN401 - transformers' own
        length = network.config.text_config.max_position_embeddings
        return tokenizer(
            list(texts),
            padding="max_length",
            max_length=length,
            truncation=True,
            return_tensors="pt",
        )

    return ClipEmbedding(network.to(device), tokenize, device)


def colors_protocol(folder: Path) -> dict[str, Any]:
    """What names the CLIP of a folder, which is not loaded.

    Raises:
        DataError: another network, or files are missing.
    """
    sees = read_config(folder, ("clip",)).get("vision_config") or {}
    network = {name: sees.get(key, usual) for name, (key, usual) in _SIZES.items()}
    crop = CropOptions().model_dump(mode="json")
    return {"weights_sha256": network_sha256(folder), "network": network, "crop": crop}


def convert_detector(checkpoint: Path, folder: Path) -> str:
    """Write mmdet's weights as a folder of transformers; gives the SHA-256 of what was read.

    Raises:
        DataError: it is not the official detector's file, or cannot be read without running code.
        UsageError: the folder exists.
    """
    if folder.exists():
        raise UsageError(f"{folder} exists already: give another --output")
    opened = open_checkpoint(checkpoint, restricted=True)
    for group in opened.groups:
        tensors = opened.tensors(group)
        if any(name.startswith("panoptic_head.") for name in tensors):
            break
    else:
        raise DataError(f"{checkpoint} holds no weights of mmdet's Mask2Former")
    converted = convert_mmdet(tensors)
    num_classes = len(converted["class_predictor.bias"]) - 1
    digest = known_sha256(checkpoint)
    try:
        folder.mkdir(parents=True)
        save_file(with_unused(converted, num_classes), folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(swin_s_config(num_classes), indent=1))
        origin = {"file": checkpoint.name, "sha256": digest, "converted_by": "evalsuite"}
        origin[_CONVERTED] = network_sha256(folder)
        (folder / ORIGIN).write_text(json.dumps(origin, indent=1))
    except OSError as error:
        raise StorageError(f"cannot write {folder}: {error.strerror}") from error
    return digest


def _origin(folder: Path) -> dict[str, Any]:
    path = folder / ORIGIN
    if not path.is_file():
        return {}
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    if not isinstance(content, dict) or not content:
        raise DataError(f"{path} is no JSON object of what the detector was converted from")
    return content


def tokenizer_of(folder: Path) -> Any:  # noqa: ANN401 - transformers' own
    """The tokenizer of a folder.

    Raises:
        DataError: there is none that can be read.
        EnvironmentProblem: transformers is not installed.
    """
    try:
        library = importlib.import_module("transformers")
    except ImportError as error:
        raise EnvironmentProblem(
            f"transformers is needed ({error}): install the extra t2i"
        ) from error
    try:
        return library.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except _UNREADABLE as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"{folder} holds no tokenizer that can be read: {reason}") from error
