"""Self-tests: find the published files, compare the numbers, remember that they agreed here."""

import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from evalsuite import __version__
from evalsuite.artifacts.digests import cache_root, known_sha256
from evalsuite.artifacts.storage import LocalStorage
from evalsuite.config import (
    ExtractorSpec,
    FilePlace,
    ProtocolSpec,
    SelftestSpec,
    canonical_json,
    load_spec,
    names_of,
)
from evalsuite.errors import CorruptionError, DataError

if TYPE_CHECKING:
    import torch

Score = Callable[[Path, Path, Path], Mapping[str, float]]
"""(samples, reference, graph) => values by metric."""
_FOLDER = "selftests"


class Row(NamedTuple):
    """A metric: what was published, what came out, and whether the two are near enough."""

    metric: str
    expected: float
    got: float
    tolerance: float
    passed: bool


class FoundFiles(NamedTuple):
    """The files of a self-test on this machine, checked as far as their digests are known."""

    graph: Path
    reference: Path
    samples: Path


def find_files(
    spec: SelftestSpec, folder: Path | None, *, allow_unverified: bool = False
) -> FoundFiles:
    """The files in `folder`, or else in this machine's cache, downloaded where they are missing.

    Args:
        spec: the self-test.
        folder: where the user has brought them, under their published names; None downloads.
        allow_unverified: download a file whose SHA-256 is not known. One in `folder` is taken.

    Raises:
        DataError: a file is not in the folder, or has another size.
        CorruptionError: it has other bytes than were published.
        UsageError, EnvironmentProblem, StorageError: as `downloads.fetch_file`.
    """
    if folder is None:
        found = _fetched(spec, allow_unverified=allow_unverified)
    else:
        missing = [p for p in spec.files.places if not (folder / p.filename).is_file()]
        if missing:
            names = " and ".join(place.filename for place in missing)
            raise DataError(
                f"self-test {spec.name} needs {names} in {folder}: bring them from"
                f" {missing[0].url.rpartition('/')[0]}/, or leave --files out to download them"
            )
        found = {place: folder / place.filename for place in spec.files.places}
        for place, path in found.items():
            _check(place, path)
    return FoundFiles(*(found[place] for place in spec.files.places))


def _fetched(spec: SelftestSpec, *, allow_unverified: bool) -> dict[FilePlace, Path]:
    """Files without a known digest come first: they are refused before gigabytes have come."""
    from evalsuite.artifacts.downloads import fetch_file

    order = sorted(spec.files.places, key=lambda place: place.sha256 is not None)
    return {place: fetch_file(place, allow_unverified=allow_unverified) for place in order}


def _check(place: FilePlace, path: Path) -> None:
    num_bytes = path.stat().st_size
    if place.num_bytes not in {None, num_bytes}:
        raise DataError(
            f"{path} has {num_bytes} bytes, not {place.num_bytes}: it is not {place.url}, or it was"
            " cut off; bring it again"
        )
    if place.sha256 is not None and known_sha256(path) != place.sha256:
        raise CorruptionError(
            f"{path} has another SHA-256 than {place.url} ({place.sha256[:12]}...): bring it again"
        )


def run_selftest(spec: SelftestSpec, files: FoundFiles, score: Score) -> list[Row]:
    """Evaluate the samples and compare every value that the self-test expects.

    Raises:
        DataError: `score` does not give one of the metrics.
    """
    values = score(files.samples, files.reference, files.graph)
    rows = []
    for metric, known in spec.expected.by_metric.items():
        if metric not in values:
            raise DataError(f"self-test {spec.name}: no value of {metric} came out")
        got = float(values[metric])
        passed = abs(got - known.value) <= known.tolerance  # never so for NaN
        rows.append(Row(metric, known.value, got, known.tolerance, passed))
    return rows


def installation(
    extractor_id: str, device: "torch.device | str" = "cpu", protocol: str = "adm"
) -> dict[str, str]:
    """What a confirmation holds for: this code to the last byte, and all that decides numbers.

    Args:
        extractor_id: of the extractor whose numbers are confirmed.
        device: where it computes.
        protocol: name or path of the one whose numbers are compared.

    Raises:
        UsageError: there is no such protocol.
    """
    import torch

    from evalsuite.pipeline.numerics import numerics_id, numerics_of

    numerics = numerics_of(torch.device(device))
    numerics.pop("threads", None)  # metrics use as many as there are
    return {
        "evalsuite": __version__,
        "source_sha256": _source_sha256(),
        "torch": torch.__version__,
        "extractor_id": extractor_id,
        "extractor_sha256": _extractor_sha256(extractor_id),
        "protocol_sha256": _content_sha256(load_spec(ProtocolSpec, protocol)),
        "device": f"{numerics['device']}: {numerics['model']}",
        "numerics_id": numerics_id(numerics),
    }


def record(
    spec: SelftestSpec, identity: Mapping[str, str], rows: list[Row], files: FoundFiles
) -> bool:
    """Remember on this machine that all rows passed, or forget it where one has not.

    Raises:
        StorageError: the cache cannot be written.
    """
    storage, name = LocalStorage(cache_root()), _name(spec, identity)
    if not all(row.passed for row in rows):
        storage.delete(name)
        return False
    content = {
        "selftest": spec.name,
        "confirmed": datetime.now(UTC).isoformat(timespec="seconds"),
        "installation": dict(identity),
        "rows": [row._asdict() for row in rows],
        "files": {path.name: known_sha256(path) for path in files},
    }
    storage.replace(name, (json.dumps(content, indent=1) + "\n").encode())
    return True


def confirmed(name: str, identity: Mapping[str, str]) -> datetime | None:
    """When the self-test `name` last passed on this installation; None when it has not.

    Args:
        name: of a self-test, or the path of its YAML.
        identity: of `installation`.

    Raises:
        StorageError: the record cannot be read.
    """
    storage, path = LocalStorage(cache_root()), _name(load_spec(SelftestSpec, name), identity)
    if not storage.exists(path):
        return None
    try:
        return datetime.fromisoformat(json.loads(storage.read(path))["confirmed"])
    except (ValueError, KeyError, TypeError):  # half a record confirms nothing
        return None


def _name(spec: SelftestSpec, identity: Mapping[str, str]) -> str:
    """A file for each self-test, as it is written, and each installation."""
    about = {"selftest": spec.model_dump(mode="json"), "installation": dict(identity)}
    digest = hashlib.sha256(canonical_json(about)).hexdigest()
    return f"{_FOLDER}/{spec.name}-{digest[:16]}.json"


def _extractor_sha256(extractor_id: str) -> str:
    """Of the settings of a registered extractor; another one is told by its id alone."""
    name = extractor_id.rpartition("-")[0]
    if name not in names_of(ExtractorSpec):
        return "not registered"
    return _content_sha256(load_spec(ExtractorSpec, name))


def _content_sha256(spec: ExtractorSpec | ProtocolSpec) -> str:
    """Of everything that its YAML says, wherever that lies."""
    return hashlib.sha256(canonical_json(spec.model_dump(mode="json"))).hexdigest()


@functools.cache
def _source_sha256() -> str:
    """Digest of every Python file of this package, so that an edit withdraws a confirmation."""
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()
