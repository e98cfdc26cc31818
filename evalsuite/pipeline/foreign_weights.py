"""Weights of models that bring their own sampler: a pipeline's folder, a class's file, or none."""

import hashlib
from pathlib import Path

from evalsuite.artifacts.digests import combined_sha256, known_sha256
from evalsuite.config import RANDOM_WEIGHTS, ModelPreset, Scalar
from evalsuite.errors import DataError, UsageError
from evalsuite.models.diffusers_folder import INDEX, pipeline_sha256
from evalsuite.models.foreign import ForeignModel
from evalsuite.pipeline.weights import (
    HUB,
    FoundWeights,
    WeightsRequest,
    from_hub,
    parse_hub_name,
    weights_sha256,
)

AS_SAVED = "as saved"
"""The EMA of weights that hold one set, or whose class chooses by itself."""
NO_WEIGHTS_SHA256 = hashlib.sha256(b"none").hexdigest()
"""In the plan of a model that has no weights."""


def find_foreign_weights(foreign: ForeignModel, request: WeightsRequest) -> FoundWeights:
    """What a model with its own sampler loads.

    A pipeline's weights are its folder. A class gets `--weights`, or what its preset names; `--ema`
    is passed on to it as it was given.

    Raises:
        UsageError: weights that are needed and not given, or given to a model that cannot use them.
        DataError: they do not exist, or are not the ones that the preset states.
        EnvironmentProblem: a hub that cannot be reached.
    """
    if foreign.pipeline is not None:
        return _of_pipeline(foreign, foreign.pipeline, request)
    given, preset = request.given, foreign.preset
    ema = AS_SAVED if request.ema in {None, "auto"} else str(request.ema)
    if given is not None and given.startswith(RANDOM_WEIGHTS):
        raise UsageError(f"{preset.name} loads its weights itself: random ones are not made for it")
    if given is not None:
        return _given(given, request, ema)
    if preset.weights.file is not None:
        path = preset.path.parent / preset.weights.file
        return _checked(path, preset.weights.sha256, _ema_of(preset, ema), {})
    if preset.weights.places:
        return _of_place(preset, request, ema)
    if foreign.needs_weights:
        raise UsageError(
            f"{preset.name} needs weights: give --weights PATH, or set needs_weights = False"
        )
    if request.ema not in {None, "auto"}:
        raise UsageError(f"{preset.name} has no weights that --ema could choose from")
    return FoundWeights(None, NO_WEIGHTS_SHA256, AS_SAVED, {"weights": "none"})


def foreign_weights_sha256(path: Path) -> str:
    """SHA-256 of a file; of a folder that of all its files by name, but hidden ones.

    Of an index its shards count, see `weights_sha256`; of a pipeline's folder what decides pixels,
    see `pipeline_sha256`.
    """
    if path.is_file():
        return weights_sha256(path)
    if (path / INDEX).is_file():
        return pipeline_sha256(path)
    files = {file.relative_to(path): file for file in sorted(path.rglob("*")) if file.is_file()}
    shown = {
        name.as_posix(): known_sha256(file)
        for name, file in files.items()
        if not any(part.startswith(".") for part in name.parts)
    }
    if not shown:
        raise DataError(f"weights {path}: the folder is empty")
    return combined_sha256(shown)


def check_foreign_weights(path: Path | None, sha256: str) -> None:
    """Raise DataError unless the weights are the plan's; None stands for having none."""
    if path is None:
        if sha256 != NO_WEIGHTS_SHA256:
            raise DataError("the plan's weights are not here: give --weights PATH")
        return
    if not path.exists():
        raise DataError(f"weights {path} do not exist on this machine")
    if foreign_weights_sha256(path) != sha256:
        raise DataError(f"weights {path} are not the plan's: their SHA-256 is not {sha256[:12]}...")


def _of_pipeline(foreign: ForeignModel, folder: Path, request: WeightsRequest) -> FoundWeights:
    if request.given is not None:
        raise UsageError(f"{foreign.preset.name} is a pipeline with its weights: no --weights")
    if request.ema not in {None, "auto"}:
        raise UsageError(f"{foreign.preset.name} holds one set of weights: --ema does not apply")
    origin: dict[str, Scalar] = {"weights": foreign.preset.title, **foreign.origin}
    return FoundWeights(folder, foreign_weights_sha256(folder), AS_SAVED, origin)


def _given(given: str, request: WeightsRequest, ema: str) -> FoundWeights:
    if given.startswith(HUB):
        repo, revision, filename = parse_hub_name(given)
        found = from_hub(request, repo, revision, filename, None)
        return _checked(found.path, None, ema, found.origin)
    path = Path(given)
    if not path.exists():
        raise DataError(f"--weights {given} does not exist")
    return _checked(path.absolute(), None, ema, {})


def _of_place(preset: ModelPreset, request: WeightsRequest, ema: str) -> FoundWeights:
    place = preset.weights.places[0]
    found = from_hub(request, place.repo, place.revision, place.filename, place.sha256, place.note)
    return _checked(found.path, place.sha256, _ema_of(preset, ema), found.origin)


def _ema_of(preset: ModelPreset, asked: str) -> str:
    """The EMA that was asked, else the one that the preset says."""
    said = asked == AS_SAVED and "ema" in preset.weights.model_fields_set
    return preset.weights.ema if said else asked


def _checked(path: Path, stated: str | None, ema: str, origin: dict[str, Scalar]) -> FoundWeights:
    if not path.exists():
        raise DataError(f"weights {path} do not exist")
    sha256 = foreign_weights_sha256(path)
    if stated is not None and sha256 != stated:
        raise DataError(f"weights {path} are not the preset's: their SHA-256 is not the stated one")
    return FoundWeights(path, sha256, ema, {"weights": path.name, **origin})
