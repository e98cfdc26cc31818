"""References: stored moments of real data in ADM's NPZ layout, and its images where needed.

Legend: D pooled width, P spatial width.
"""

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evalsuite.artifacts.digests import cache_root, known_sha256
from evalsuite.artifacts.downloads import cached_file, cached_path
from evalsuite.artifacts.features import FeatureTable, decode_features
from evalsuite.artifacts.samples import SampleSet, open_npz, open_samples
from evalsuite.artifacts.statistics_files import (
    StoredMoments,
    named_arrays,
    read_moments_npz,
    read_moments_pickle,
    read_names,
)
from evalsuite.artifacts.storage import LocalStorage, explained
from evalsuite.config import ReferenceSpec, load_spec, names_of
from evalsuite.errors import CorruptionError, DataError, StorageError, UsageError

__all__ = [
    "Reference",
    "StoredMoments",
    "local_path",
    "open_reference",
    "read_features",
    "recognised",
    "registered_references",
]


@dataclass(frozen=True)
class Reference:
    """Real data to compare with.

    Attributes:
        name: as it is shown; `file:NAME` when the file has the name of a registered reference and
            is not known to be it.
        pool: moments of pooled features, if stored.
        spatial: moments of spatial features, if stored.
        images: the real images, if stored.
        spec: what the registry or a sidecar says of it, if anything does.
        path: the file or folder that it was read from.
    """

    name: str
    pool: StoredMoments | None
    spatial: StoredMoments | None
    images: SampleSet | None
    spec: ReferenceSpec | None
    path: Path | None = None

    @property
    def has_features(self) -> bool:
        """Whether the features of its images were stored beside it, see `read_features`."""
        return self.spec is not None and self.spec.features is not None

    @property
    def coarse(self) -> str | None:
        """What to say beside a number that is made from the images."""
        return self.spec.coarse if self.spec else None

    @property
    def warnings(self) -> tuple[str, ...]:
        """Its traps, and what numbers against it must not be compared with."""
        if self.spec is None:
            return ()
        apart = f"not comparable with {self.spec.not_comparable_with}"
        return (*self.spec.traps, apart)


def registered_references() -> list[ReferenceSpec]:
    """All references that travel with the package, by name."""
    return [load_spec(ReferenceSpec, name) for name in names_of(ReferenceSpec)]


def open_reference(name_or_path: str) -> Reference:
    """A registered reference by name; or a sidecar, a file or a folder of images by path.

    A file with the bytes of a registered reference is that reference, wherever it lies and
    whatever it is called. `FILE.pkl#PART` names one of the statistics of a pickle.

    Raises:
        UsageError: unknown name.
        DataError: the file is not on this machine, or cannot be used as a reference.
        CorruptionError: the file is not the one that its sidecar names.
    """
    path = Path(name_or_path)
    if path.is_symlink() and not path.exists():
        raise DataError(f"reference {path} is a link to nothing, or a loop of links")
    if path.is_dir():
        return Reference(_own_name(path.name), None, None, open_samples(path), None, path)
    if path.suffix == ".npz":
        return _npz_by_path(path)
    bare, _, part = name_or_path.partition("#")
    if bare.endswith((".pkl", ".pickle")):
        return _pickle_by_path(Path(bare), part or None)
    if path.exists() and path.suffix not in {".yaml", ".yml"}:
        raise UsageError(
            f"reference {name_or_path!r} must be a name, a .yaml sidecar, an .npz, a .pkl or a"
            " folder"
        )
    spec = load_spec(ReferenceSpec, name_or_path)
    return _open(_verified_path(spec), spec)


def recognised(path: Path, part: str | None = None) -> ReferenceSpec | None:
    """The registered reference that a file is, by its bytes; None when it is none of them."""
    with explained(path, "read"):
        num_bytes = path.stat().st_size
    same_size = [
        spec
        for spec in registered_references()
        if spec.sha256 is not None and part in {None, spec.part} and num_bytes in _sizes_of(spec)
    ]
    if not same_size:
        return None
    digest = known_sha256(path)
    found = [spec for spec in same_size if spec.sha256 == digest]
    return found[0] if len(found) == 1 else None


def local_path(spec: ReferenceSpec) -> Path | None:
    """Where the file of a reference lies on this machine, its bytes not checked."""
    if spec.file is not None:
        paths = [spec.path.parent / spec.file]
    else:
        paths = [cached_path(place) for place in spec.pinned_places]
    return next((path for path in paths if path.is_file()), None)


def read_features(reference: Reference) -> FeatureTable | None:
    """The features that were stored with a reference's images; None when there are none.

    Raises:
        DataError: the file is not there.
        CorruptionError: it is not the one that the sidecar names.
    """
    spec = reference.spec
    if spec is None or spec.features is None:
        return None
    path = spec.path.parent / spec.features.file
    if not path.is_file():
        raise DataError(f"reference {spec.name}: {path} does not exist")
    if known_sha256(path) != spec.features.sha256:
        raise _changed(path, spec)
    return decode_features(path.read_bytes(), str(path))


def _npz_by_path(path: Path) -> Reference:
    if not path.is_file():
        raise DataError(f"reference {path} does not exist")
    sidecar = path.with_suffix(".yaml")
    if sidecar.is_file():
        spec = load_spec(ReferenceSpec, str(sidecar))
        if spec.file not in {None, path.name}:
            raise DataError(f"{sidecar} describes {spec.file}, not {path.name}: rename one of them")
        if spec.file is not None:
            return _open(_verified_path(spec), spec)
    return _open(path, recognised(path))


def _pickle_by_path(path: Path, part: str | None) -> Reference:
    if not path.is_file():
        raise DataError(f"reference {path} does not exist")
    spec = recognised(path, part)
    if spec is not None:
        return _open(path, spec)
    moments = _moments_of_pickle(path, part, None)
    return Reference(_own_name(path.stem), moments, None, None, None, path)


def _verified_path(spec: ReferenceSpec) -> Path:
    """The file that a spec names, its bytes checked."""
    if spec.file is not None:
        path = spec.path.parent / spec.file
        if not path.is_file():
            raise DataError(f"reference {spec.name}: {path} does not exist")
        if known_sha256(path) != spec.sha256:
            raise _changed(path, spec)
        return path
    for place in spec.pinned_places:
        found = cached_file(place)
        if found is not None:
            return found
    raise DataError(
        f"reference {spec.name} is not on this machine: fetch it with `evalsuite references fetch"
        f" {spec.name}`, or give the path of {spec.places[0].filename} with --reference PATH"
    )


def _changed(path: Path, spec: ReferenceSpec) -> CorruptionError:
    return CorruptionError(f"{path} is not the file that {spec.path.name} names (SHA-256 differs)")


def _open(path: Path, spec: ReferenceSpec | None) -> Reference:
    name = _own_name(path.stem) if spec is None else _name_of(spec)
    count = spec.statistics_count if spec else None
    if spec is not None and spec.layout == "pickle":
        moments = _moments_of_pickle(path, spec.part, count)
        return Reference(name, moments, None, None, spec, path)
    pool = read_moments_npz(path, "mu", "sigma", count)
    spatial = read_moments_npz(path, "mu_s", "sigma_s", count)
    images = open_npz(path) if "arr_0" in read_names(path) else None
    if pool is None and images is None:
        raise DataError(f"reference {path} holds neither mu and sigma nor images (arr_0)")
    return Reference(name, pool, spatial, images, spec, path)


def _name_of(spec: ReferenceSpec) -> str:
    """The name in a spec, which a sidecar of other bytes may not share with a registered one."""
    if spec.name not in names_of(ReferenceSpec):
        return spec.name
    registered = load_spec(ReferenceSpec, spec.name)
    if spec.path.resolve() == registered.path.resolve():
        return spec.name
    same_bytes = spec.sha256 is not None and spec.sha256 == registered.sha256
    return spec.name if same_bytes else f"file:{spec.name}"


def _own_name(name: str) -> str:
    """The name of a file or folder that no registered reference is known to be."""
    return f"file:{name}" if name in names_of(ReferenceSpec) else name


def _moments_of_pickle(path: Path, part: str | None, count: int | None) -> StoredMoments:
    """One of a pickle's statistics. A pickle is read once; an NPZ in the cache stands for it."""
    converted = cache_root() / "statistics" / f"{known_sha256(path)}.npz"
    if converted.is_file():
        names = {name.removesuffix("_mu") for name in read_names(converted) if name[-3:] == "_mu"}
        chosen = _chosen_part(path, names, part)
        stored = read_moments_npz(converted, f"{chosen}_mu", f"{chosen}_sigma", count)
        if stored is not None:
            return stored
    parts = read_moments_pickle(path, count)
    buffer = io.BytesIO()
    np.savez(buffer, **named_arrays(parts.items()))  # type: ignore[arg-type]
    with contextlib.suppress(StorageError):  # only so that it is quicker the next time
        LocalStorage(converted.parent).replace(converted.name, buffer.getvalue())
    return parts[_chosen_part(path, set(parts), part)]


def _chosen_part(path: Path, names: set[str], part: str | None) -> str:
    if part is None and len(names) == 1:
        return next(iter(names))
    if part in names:
        return str(part)
    known = ", ".join(f"{path.name}#{name}" for name in sorted(names))
    asked = f"has no part {part!r}" if part else "holds several statistics"
    raise DataError(f"reference {path} {asked}: give one of {known}")


def _sizes_of(spec: ReferenceSpec) -> set[int]:
    """Bytes that the file of a spec may have, as far as that is known."""
    sizes = {place.num_bytes for place in spec.places if place.num_bytes is not None}
    if spec.file is not None:
        with contextlib.suppress(OSError):
            sizes.add((spec.path.parent / spec.file).stat().st_size)
    return sizes
