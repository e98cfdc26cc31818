"""In what a score of GenEval departs from the published protocol; none that does is its equal.

The detector's kind, whose training it is, is no departure: it stands in the score's name.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from evalsuite.config import BenchmarkSpec, load_spec
from evalsuite.pipeline.row_file import TESTED_BY
from evalsuite.t2i import shapes
from evalsuite.t2i.geneval import RULES_VERSION, GenevalOptions

VIT_L_14 = {"width": 1024, "layers": 24, "patch": 14, "side": 224}
"""The side of CLIP that sees; published colours are its answers."""
SWIN_S = {"backbone": "swin", "embed_dim": 96, "depths": [2, 2, 18, 2], "num_queries": 100}
"""The official detector's network."""
UNTESTED = "not tested on a photograph"
"""Of a detector: random weights give scores that look like scores, too."""


def departures_of(header: Mapping[str, Any], num_prompts: int, num_images: int) -> tuple[str, ...]:
    """What a file of verdicts was made by, as far as it is not what published scores are made by.

    The shapes are a benchmark of their own, with thresholds of their own.

    Args:
        header: of the file.
        num_prompts: that are asked for, each counted once.
        num_images: of all prompts.
    """
    if header["detector"]["kind"] == shapes.ShapeDetector.protocol["kind"]:
        return (*_of_rules(header), *_of_options(header, shapes.OPTIONS))
    spec = load_spec(BenchmarkSpec, "geneval")
    found = [] if header.get(TESTED_BY) else [UNTESTED]
    found += [
        *_of_rules(header),
        *_of_options(header, GenevalOptions()),
        *_of_networks(header, spec),
    ]
    if "rules_version" not in header:  # a file of an earlier version
        found.append(f"prompts that were not checked to be its {spec.num_prompts}")
    elif header["prompts_sha256"] != spec.prompts_sha256:
        found.append(f"other prompts than its {spec.num_prompts}")
    if num_images != num_prompts * spec.images_per_prompt:
        each = f"{num_images / num_prompts:g}, not {spec.images_per_prompt}"
        found.append(f"images of each prompt {each}")
    return tuple(found)


def display_of(header: Mapping[str, Any], departures: tuple[str, ...]) -> str:
    """What a score is called wherever it stands."""
    return f"GenEval ({'; '.join((header['detector']['kind'], *departures))})"


def _of_rules(header: Mapping[str, Any]) -> Iterator[str]:
    version = header.get("rules_version", RULES_VERSION)
    if version != RULES_VERSION:
        yield f"verdicts by rules {version}, not {RULES_VERSION}, which were not checked"


def _of_options(header: Mapping[str, Any], usual: GenevalOptions) -> Iterator[str]:
    for name, value in usual.model_dump(mode="json").items():
        if header["options"][name] != value:
            yield f"{name.replace('_', ' ')} {header['options'][name]:g}, not {value:g}"


def _of_networks(header: Mapping[str, Any], spec: BenchmarkSpec) -> Iterator[str]:
    names = next(file.place for file in spec.files if file.role == "object-names")
    if names is not None and header["detector"].get("names_sha256") != names.sha256:
        yield "other object names, or in another order"
    if header["detector"].get("network") != SWIN_S:
        yield "a detector that is not Mask2Former Swin-S"
    if header["colors"] is not None and header["colors"].get("network") != VIT_L_14:
        yield "a CLIP that is not ViT-L/14"
