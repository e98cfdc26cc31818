"""Finding a model's weights: a file, a folder, a hub, or random numbers; with digest and EMA."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from evalsuite.artifacts.digests import combined_sha256, known_sha256
from evalsuite.artifacts.hub import hub_file
from evalsuite.config import RANDOM_WEIGHTS, ModelPreset, Scalar
from evalsuite.errors import DataError, UsageError
from evalsuite.models.checkpoints.choosing import choose_group
from evalsuite.models.checkpoints.reading import open_checkpoint
from evalsuite.pipeline.lock import Lock
from evalsuite.seeding import SEED_LIMIT

HUB = "hub:"
UNSTATED = "unstated"
"""The EMA of a file that holds one set of weights and does not say which."""


@dataclass(frozen=True)
class WeightsRequest:
    """What an invocation says about weights.

    Attributes:
        given: a path, `hub:OWNER/NAME[@REVISION]:FILE`, `random:SEED`; None for the preset's own.
        ema: `auto`, `raw`, or the name of one set of weights in the checkpoint.
        offline: look nothing up; what is needed must be here.
        lock: what `fetch` brought, which pins revisions and hashes.
    """

    given: str | None = None
    ema: str | None = None
    offline: bool = False
    lock: Lock | None = None


@dataclass(frozen=True)
class FoundWeights:
    """Weights that are here: None as path stands for random ones."""

    path: Path | None
    sha256: str
    ema: str
    origin: dict[str, Scalar]
    """Where they came from, for the record."""


def find_weights(preset: ModelPreset, request: WeightsRequest) -> FoundWeights:
    """The weights that an invocation asks for, fetched if they have to be.

    Raises:
        UsageError: a name that is none, or an EMA that cannot be chosen.
        DataError: weights that are missing or unreadable.
        EnvironmentProblem: a hub that cannot be reached.
    """
    given = request.given
    if given is not None and given.startswith(RANDOM_WEIGHTS):
        return _random(given, request.ema)
    if given is None and preset.weights.file is not None:
        return _of_file(preset.path.parent / preset.weights.file, preset, request.ema, {})
    if given is None:
        return _of_places(preset, request)
    if given.startswith(HUB):
        repo, revision, filename = parse_hub_name(given)
        return _of_hub(preset, request, repo, revision, filename, None)
    path = Path(given)
    if not path.exists():
        raise DataError(f"--weights {given} does not exist")
    return _of_file(path.resolve(), preset, request.ema, {})


def check_weights(path: Path, sha256: str) -> None:
    """Raise DataError unless the weights exist and have that SHA-256."""
    if not path.exists():
        raise DataError(f"weights {path} do not exist on this machine")
    if weights_sha256(path) != sha256:
        raise DataError(f"weights {path} are not the plan's: their SHA-256 is not {sha256[:12]}...")


def weights_sha256(path: Path) -> str:
    """SHA-256 of a file; of a folder that of its one weights file, or of all of them by name."""
    if path.is_file():
        return known_sha256(path)
    files = open_checkpoint(path).files
    return combined_sha256({file.name: known_sha256(file) for file in files})


def parse_hub_name(text: str) -> tuple[str, str | None, str]:
    """(repository, revision, file) of `hub:OWNER/NAME[@REVISION]:FILE`."""
    repo, colon, filename = text.removeprefix(HUB).partition(":")
    name, _, revision = repo.partition("@")
    if not colon or not filename or name.count("/") != 1:
        raise UsageError(f"--weights {text!r} is not hub:OWNER/NAME[@REVISION]:FILE")
    return name, revision or None, filename


def _random(given: str, ema: str | None) -> FoundWeights:
    seed = given.removeprefix(RANDOM_WEIGHTS)
    if not seed.isdecimal() or int(seed) >= SEED_LIMIT:
        raise UsageError(f"--weights {given!r} is not random:SEED with a seed below 2^32")
    if ema not in {None, "auto"}:
        raise UsageError("--ema is for checkpoints: random weights have none")
    name = f"{RANDOM_WEIGHTS}{int(seed)}"
    return FoundWeights(None, hashlib.sha256(name.encode()).hexdigest(), name, {"weights": name})


def _of_file(
    path: Path, preset: ModelPreset, ema: str | None, origin: dict[str, Scalar]
) -> FoundWeights:
    if not path.exists():
        raise DataError(f"weights {path} do not exist")
    sha256 = weights_sha256(path)
    origin = {"weights": path.name, **origin}
    own = preset.weights
    if sha256 == own.sha256 and ema in {None, "auto", own.ema}:
        return FoundWeights(path, sha256, own.ema, origin)
    if path == preset.path.parent / (own.file or "") and own.sha256 not in {None, sha256}:
        stated = f"{own.sha256}"[:12]
        raise DataError(f"weights {path} are not the preset's: their SHA-256 is not {stated}...")
    group = choose_group(open_checkpoint(path), ema or "auto", own.ema)
    return FoundWeights(path, sha256, group or UNSTATED, origin)


def _of_places(preset: ModelPreset, request: WeightsRequest) -> FoundWeights:
    places = preset.weights.places
    if not places:
        why = f" ({preset.weights.note})" if preset.weights.note else ""
        raise DataError(f"{preset.name}: no hub has its weights{why}: give --weights PATH")
    place = places[0]
    return _of_hub(preset, request, place.repo, place.revision, place.filename, place.sha256)


def _of_hub(
    preset: ModelPreset,
    request: WeightsRequest,
    repo: str,
    revision: str | None,
    filename: str,
    sha256: str | None,
) -> FoundWeights:
    pin = request.lock.pin(repo, filename) if request.lock else None
    if pin is not None:
        revision, sha256 = revision or pin.revision, sha256 or pin.sha256
    found = hub_file(repo, revision, filename, sha256=sha256, offline=request.offline)
    origin: dict[str, Scalar] = {
        "repo": found.repo,
        "revision": found.revision,
        "filename": found.filename,
        "verified": found.verified,
    }
    return _of_file(found.path, preset, request.ema, origin)
