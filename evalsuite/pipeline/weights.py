"""Finding a model's weights: a file, a folder, a hub, or random numbers; with digest and EMA."""

import functools
import hashlib
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import torch

from evalsuite.artifacts.digests import combined_sha256, known_sha256
from evalsuite.artifacts.hub import HubFile, hub_file
from evalsuite.artifacts.shard_index import read_json
from evalsuite.config import RANDOM_WEIGHTS, ModelPreset, Scalar, load_spec, names_of
from evalsuite.errors import CorruptionError, DataError, UsageError
from evalsuite.models.checkpoints.choosing import choose_group
from evalsuite.models.checkpoints.containers import INDEX_SUFFIX
from evalsuite.models.checkpoints.families import Presets
from evalsuite.models.checkpoints.grouping import is_average, place_of
from evalsuite.models.checkpoints.reading import Checkpoint, open_checkpoint
from evalsuite.models.checkpoints.state import check_fit
from evalsuite.models.registry import family_named
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
        option: where `given` was given, for error lines.
    """

    given: str | None = None
    ema: str | None = None
    offline: bool = False
    lock: Lock | None = None
    option: str = "--weights"

    @property
    def are_random(self) -> bool:
        """Whether random numbers were asked for."""
        return self.given is not None and self.given.startswith(RANDOM_WEIGHTS)


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
        UsageError: a name that is none, an EMA that cannot be chosen, or what the lock lacks.
        DataError: weights that are missing, unreadable, or of another model.
        EnvironmentProblem: a hub that cannot be reached.
    """
    given = request.given
    if given is not None and request.are_random:
        return _random(given, request)
    if given is None and preset.weights.file is not None:
        return _of_file(preset.path.parent / preset.weights.file, preset, request.ema, {})
    if given is None:
        return _of_places(preset, request)
    if given.startswith(HUB):
        repo, revision, filename = parse_hub_name(given, request.option)
        found = from_hub(request, repo, revision, filename, None)
        return _of_file(found.path, preset, request.ema, found.origin)
    path = Path(given)
    if not path.exists():
        raise DataError(f"{request.option} {given} does not exist")
    # absolute, but for links: a hub's cache links an index to a file away from its shards
    return _of_file(path.absolute(), preset, request.ema, {})


def check_weights(path: Path, sha256: str) -> None:
    """Raise DataError unless the weights exist and have that SHA-256."""
    if not path.exists():
        raise DataError(f"weights {path} do not exist on this machine")
    if weights_sha256(path) != sha256:
        raise DataError(f"weights {path} are not the plan's: their SHA-256 is not {sha256[:12]}...")


def weights_sha256(path: Path) -> str:
    """SHA-256 of a file; of a folder or an index that of its weights files by name."""
    if path.is_file() and not path.name.endswith(INDEX_SUFFIX):
        return known_sha256(path)
    files = open_checkpoint(path).files
    return combined_sha256({file.name: known_sha256(file) for file in files})


@functools.cache
def preset_networks() -> Presets:
    """Family and sizes of every preset that travels with the package."""
    presets = (load_spec(ModelPreset, name) for name in names_of(ModelPreset))
    return {preset.name: (preset.family, preset.network) for preset in presets}


def weights_from_hub(
    repo: str, revision: str | None, filename: str, sha256: str | None, *, offline: bool
) -> HubFile:
    """A file of a hub, with the shards that it names when it is the index of several.

    Arguments and errors are those of `hub_file`; of an index `sha256` is not looked at, for it
    stands for the shards (see `weights_sha256`).
    """
    if not filename.endswith(INDEX_SUFFIX):
        return hub_file(repo, revision, filename, sha256=sha256, offline=offline)
    found = hub_file(repo, revision, filename, offline=offline)
    named = read_json(found.path).get("weight_map")
    for name in sorted({str(n) for n in named.values()} if isinstance(named, dict) else ()):
        beside = PurePosixPath(filename).with_name(Path(name).name)
        hub_file(repo, found.revision, str(beside), offline=offline)
    return found


class OnHub(NamedTuple):
    """A file of a hub that is here now, and what a record and a lock file say of its place."""

    path: Path
    origin: dict[str, Scalar]


def from_hub(
    request: WeightsRequest,
    repo: str,
    revision: str | None,
    filename: str,
    sha256: str | None,
    note: str | None = None,
) -> OnHub:
    """A file of a hub, as the lock file of the request has it, where there is one.

    Arguments and errors are those of `weights_from_hub`; `note` is what a preset says of the place,
    for the line of a file that is not there.
    """
    asked = revision
    if request.lock is not None:
        pin = request.lock.pin(repo, revision, filename)
        revision, sha256 = pin.revision, pin.sha256
    try:
        found = weights_from_hub(repo, revision, filename, sha256, offline=request.offline)
    except CorruptionError:
        raise
    except DataError as error:
        raise DataError(f"{error} ({note})" if note else str(error)) from error
    return OnHub(found.path, _hub_origin(found, asked))


def parse_hub_name(text: str, option: str = "--weights") -> tuple[str, str | None, str]:
    """(repository, revision, file) of `hub:OWNER/NAME[@REVISION]:FILE`, as `option` gave it."""
    repo, colon, filename = text.removeprefix(HUB).partition(":")
    name, _, revision = repo.partition("@")
    if not colon or not filename or name.count("/") != 1:
        raise UsageError(f"{option} {text!r} is not hub:OWNER/NAME[@REVISION]:FILE")
    return name, revision or None, filename


def _random(given: str, request: WeightsRequest) -> FoundWeights:
    seed = given.removeprefix(RANDOM_WEIGHTS)
    if not seed.isdecimal() or int(seed) >= SEED_LIMIT:
        raise UsageError(f"{request.option} {given!r} is not random:SEED with a seed below 2^32")
    if request.ema not in {None, "auto"}:
        raise UsageError("--ema is for checkpoints: random weights have none")
    name = f"{RANDOM_WEIGHTS}{int(seed)}"
    return FoundWeights(None, hashlib.sha256(name.encode()).hexdigest(), name, {"weights": name})


def _of_file(
    path: Path, preset: ModelPreset, ema: str | None, origin: dict[str, Scalar]
) -> FoundWeights:
    """A file's or folder's weights: which of them, whether they fit, and then their digest."""
    if not path.exists():
        raise DataError(f"weights {path} do not exist")
    origin = {"weights": path.name, **origin}
    own = preset.weights
    if own.sha256 is not None:
        sha256 = weights_sha256(path)
        if sha256 == own.sha256 and ema in {None, "auto", own.ema}:
            return FoundWeights(path, sha256, own.ema, origin)
        if path == preset.path.parent / (own.file or "") and sha256 != own.sha256:
            stated = own.sha256[:12]
            raise DataError(
                f"weights {path} are not the preset's: their SHA-256 is not {stated}..."
            )
    checkpoint = open_checkpoint(path)
    group, name = _chosen(checkpoint, ema or "auto", own.ema)
    with torch.device("meta"):
        network = family_named(preset.family).build(preset.network)
    check_fit(network, checkpoint, group, preset.family, str(path), preset_networks())
    return FoundWeights(path, weights_sha256(path), name, origin)


def _chosen(checkpoint: Checkpoint, ema: str, default: str) -> tuple[str, str]:
    """The group of a checkpoint that `ema` means, and its name in the plan.

    A file of one group may say in its header which one it was (`evalsuite convert` writes that).
    """
    stated = str(checkpoint.about.get("group", ""))
    # any text may stand in a header: only what could be a prefix, or a name of averages, is one
    is_averages = is_average(stated) and not stated.startswith(RANDOM_WEIGHTS)
    is_group = is_averages or place_of(f"{stated}.x").group == stated
    if set(checkpoint.groups) == {""} and stated and is_group:
        named = replace(checkpoint, groups={stated: checkpoint.groups[""]})
        return "", choose_group(named, ema, default)
    group = choose_group(checkpoint, ema, default)
    return group, group or UNSTATED


def _of_places(preset: ModelPreset, request: WeightsRequest) -> FoundWeights:
    places = preset.weights.places
    if not places:
        why = f" ({preset.weights.note})" if preset.weights.note else ""
        raise DataError(f"{preset.name}: no hub has its weights{why}: give --weights PATH")
    place = places[0]
    found = from_hub(request, place.repo, place.revision, place.filename, place.sha256, place.note)
    return _of_file(found.path, preset, request.ema, found.origin)


def _hub_origin(found: HubFile, asked: str | None) -> dict[str, Scalar]:
    origin: dict[str, Scalar] = {
        "repo": found.repo,
        "revision": found.revision,
        "filename": found.filename,
        "verified": found.verified,
    }
    return {**origin, "asked": asked} if asked else origin
