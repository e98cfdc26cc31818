"""References: what is stored or missing, what the registry says, files that are other ones."""

import hashlib
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from file_server import Site, serving
from PIL import Image

from evalsuite.artifacts.downloads import cached_path, fetch_file
from evalsuite.artifacts.references import (
    Reference,
    local_path,
    open_reference,
    recognised,
    registered_references,
)
from evalsuite.config import ProtocolSpec, ReferenceSpec, data_root, load_spec, names_of
from evalsuite.errors import ConfigError, CorruptionError, DataError, EvalsuiteError, UsageError

NAME = "digits-16-heldout"
D = 6


def moments(**changes: Any) -> dict[str, Any]:
    """Arrays of a small reference."""
    eye = np.eye(D)
    fields = {"mu": np.arange(D) / D, "sigma": eye, "mu_s": np.zeros(D), "sigma_s": eye}
    return {k: v for k, v in (fields | changes).items() if v is not None}


def written(tmp_path: Path, **arrays: Any) -> str:
    """An NPZ without a sidecar."""
    path = tmp_path / "reference.npz"
    np.savez(path, **arrays)
    return str(path)


def copied(tmp_path: Path, **changes: Any) -> Path:
    """A registered reference with its sidecar in another folder."""
    folder = data_root() / "reference_stats"
    shutil.copy(folder / f"{NAME}.npz", tmp_path)
    content = yaml.safe_load((folder / f"{NAME}.yaml").read_text()) | changes
    path = tmp_path / f"{NAME}.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_registered_reference_by_name_by_sidecar_and_by_file(tmp_path: Path) -> None:
    """One and the same."""
    sidecar = copied(tmp_path)
    found = [open_reference(n) for n in (NAME, str(sidecar), str(sidecar.with_suffix(".npz")))]
    for reference in found:
        assert reference.name == NAME
        assert reference.pool
        assert reference.pool.count == load_spec(ReferenceSpec, NAME).statistics_count == 540
        assert reference.images
        assert reference.images.num_images == 540
        assert reference.spec
    assert len({r.pool.sha256 for r in found if r.pool}) == 1


def test_a_file_without_sidecar(tmp_path: Path) -> None:
    """Then nobody says how many images are behind it."""
    reference = open_reference(written(tmp_path, **moments()))
    assert isinstance(reference, Reference)
    assert reference.spec is None
    assert reference.images is None
    assert reference.pool
    assert reference.pool.count is None
    np.testing.assert_array_equal(reference.pool.mean_D, np.arange(D) / D)
    assert reference.spatial


def test_a_folder_of_images(tmp_path: Path) -> None:
    for i in range(3):
        Image.new("RGB", (4, 4), (i, i, i)).save(tmp_path / f"{i}.png")
    reference = open_reference(str(tmp_path))
    assert reference.pool is None
    assert reference.images
    assert reference.images.num_images == 3


def test_float32_statistics_are_widened(tmp_path: Path) -> None:
    arrays = moments(mu=np.zeros(D, np.float32), sigma=np.eye(D, dtype=np.float32))
    reference = open_reference(written(tmp_path, **arrays))
    assert reference.pool
    assert reference.pool.cov_DD.dtype == np.float64


@pytest.mark.parametrize(
    ("arrays", "text"),
    [
        (moments(sigma=None), "one of mu and sigma"),
        (moments(mu_s=None), "one of mu_s and sigma_s"),
        ({"other": np.zeros(3)}, "neither mu and sigma nor images"),
        (moments(mu=None, sigma=None), "neither mu and sigma nor images"),
        (moments(mu=np.zeros(D + 1)), "do not fit"),
        (moments(sigma=np.eye(D)[:3]), "do not fit"),
        (moments(mu=np.zeros((1, D))), "do not fit"),
        (moments(mu=np.zeros(D, int)), "do not fit"),
        (moments(mu=np.full(D, np.nan)), "NaN or infinite"),
        (moments(sigma_s=np.full((D, D), np.inf)), "NaN or infinite"),
        (moments(mu=np.array([{}] * D, dtype=object)), "cannot read mu"),
        ({"arr_0": np.zeros((3, 4, 4))}, "arr_0"),
    ],
)
def test_references_that_cannot_be_used(tmp_path: Path, arrays: dict[str, Any], text: str) -> None:
    with pytest.raises(DataError) as caught:
        open_reference(written(tmp_path, **arrays))
    assert text in str(caught.value)
    assert "reference.npz" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_truncated_file(tmp_path: Path, share: float) -> None:
    path = Path(written(tmp_path, **moments()))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(DataError, match=r"reference\.npz"):
        open_reference(str(path))


def test_a_file_that_is_not_the_one_its_sidecar_names(tmp_path: Path) -> None:
    """One flipped bit, anywhere, under the name, the sidecar or the file."""
    sidecar = copied(tmp_path)
    path = sidecar.with_suffix(".npz")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    for name in (sidecar, path):
        with pytest.raises(CorruptionError, match="SHA-256 differs"):
            open_reference(str(name))
    path.unlink()
    with pytest.raises(DataError, match="does not exist"):
        open_reference(str(sidecar))


def test_a_sidecar_with_an_unknown_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'statistic_count'.*'statistics_count'"):
        open_reference(str(copied(tmp_path, statistic_count=3)))


ADM = [name for name in names_of(ReferenceSpec) if name.startswith("adm-")]
OTHERS = [name for name in names_of(ReferenceSpec) if name.startswith(("jit-", "mar-", "edm2-"))]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own."""
    monkeypatch.setenv("EVALSUITE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def sidecar_of(tmp_path: Path, name: str = "mine", **fields: Any) -> Path:
    """A spec of a user's own."""
    texts = ("description", "source", "preprocessing", "program", "not_comparable_with")
    path = tmp_path / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"name": name, **dict.fromkeys(texts, "x"), **fields}))
    return path


@pytest.mark.parametrize("name", [*ADM, *OTHERS])
def test_a_registered_reference_that_is_not_here(name: str, cache: Path) -> None:
    """Says both ways to have it, and is all that the registry is to say of it."""
    spec = load_spec(ReferenceSpec, name)
    with pytest.raises(DataError) as caught:
        open_reference(name)
    assert f"`evalsuite references fetch {name}`" in str(caught.value)
    assert f"the path of {spec.places[0].filename} with --reference PATH" in str(caught.value)
    assert local_path(spec) is None
    assert spec.traps
    assert spec.protocols
    assert spec.extractor
    assert spec.size
    assert all(place.url.startswith("https://") for place in spec.places)


def test_what_the_registry_knows_of_adm() -> None:
    """Byte counts, hashes and image counts of the fact sheet, and what follows from them."""
    large, small = (load_spec(ReferenceSpec, f"adm-imagenet-{size}") for size in (512, 256))
    assert small.sha256 == "b32732719497e42660a9affb4a966068cba0855ac449b82015e34ec376d20758"
    assert large.sha256 == "6bde3fff169a9d05d6ff53e9a661177d3765d7b3a83e8b54b71a99b65a166ef8"
    assert "verify" in str(large.places[0].note)
    for spec, count, mean_bytes in ((small, 10_000, 8), (large, 1_000, 4)):
        assert spec.images is not None
        assert spec.images.count == count
        height, width = spec.images.size
        arrays = 2048 * mean_bytes + 8 * 2048**2 + 4 * 2023 + 8 * 2023**2 + 4 * 768 + 8 * 768**2
        rest = (spec.places[0].num_bytes or 0) - count * height * width * 3 - arrays
        assert 0 < rest < 4096, "headers of seven arrays and of the zip"
    assert large.coarse
    assert "1,000 images" in large.coarse
    assert small.coarse is None
    for size in (64, 128):
        assert load_spec(ReferenceSpec, f"adm-imagenet-{size}").sha256 is None


@pytest.mark.parametrize("name", OTHERS)
def test_others_say_what_they_do_not_compare_with(name: str) -> None:
    """ADM's numbers above all; MAR's statistics are ADM's, and differ from JiT's."""
    spec = load_spec(ReferenceSpec, name)
    other = {"mar": "jit-imagenet", "edm": "any FID" if "dino" in name else "adm-imagenet"}
    assert other.get(name[:3], "adm-imagenet") in spec.not_comparable_with
    assert spec.images is None


def test_a_registered_file_is_recognised_by_its_bytes(tmp_path: Path) -> None:
    """Under any name, without a sidecar; and one changed byte makes it nobody's."""
    path = tmp_path / "other-name.npz"
    shutil.copy(data_root() / "reference_stats" / f"{NAME}.npz", path)
    found = open_reference(str(path))
    assert found.name == NAME
    assert found.spec == load_spec(ReferenceSpec, NAME)
    assert found.path == path
    content = bytearray(path.read_bytes())
    content[12] ^= 1  # the time of the first zip entry, which nothing reads
    path.write_bytes(content)
    assert recognised(path) is None
    assert open_reference(str(path)).spec is None


@pytest.mark.parametrize("name", [NAME, "adm-imagenet-256", "edm2-img512"])
def test_no_other_file_wears_a_registered_name(tmp_path: Path, cache: Path, name: str) -> None:
    """Neither by its own name nor by its sidecar's, whether the right bytes are known or not."""
    np.savez(tmp_path / f"{name}.npz", **moments())
    (tmp_path / f"{name}.pkl").write_bytes(pickle.dumps({"mu": np.zeros(D), "sigma": np.eye(D)}))
    (tmp_path / name).mkdir()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / name / "a.png")
    for path in (f"{name}.npz", f"{name}.pkl", name):
        assert open_reference(str(tmp_path / path)).name == f"file:{name}"
    content = (tmp_path / f"{name}.npz").read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    path = sidecar_of(tmp_path, name, file=f"{name}.npz", sha256=sha256)
    assert open_reference(str(path)).name == f"file:{name}"
    assert open_reference(str(tmp_path / f"{name}.npz")).name == f"file:{name}"


def test_a_fetched_reference(tmp_path: Path, cache: Path) -> None:
    """From a real server into the cache, opened by its sidecar; not after it has changed."""
    content = Path(written(tmp_path, **moments())).read_bytes()
    with serving(Site({"ref.npz": content})) as site:
        places = [{"url": f"{site.url}ref.npz", "filename": "ref.npz"}]
        sha256 = hashlib.sha256(content).hexdigest()
        options = {"places": places, "sha256": sha256, "statistics_count": 77}
        sidecar = sidecar_of(tmp_path, **options, coarse="few images")
        spec = load_spec(ReferenceSpec, str(sidecar))
        (place,) = spec.pinned_places
        assert place.sha256 == sha256
        path = fetch_file(place)
    assert local_path(spec) == path == cached_path(place)
    found = open_reference(str(sidecar))
    assert (found.name, found.path, found.coarse) == ("mine", path, "few images")
    assert found.pool is not None
    assert found.pool.count == 77
    path.write_bytes(content[:-1])
    with pytest.raises(CorruptionError, match="has changed since it was fetched"):
        open_reference(str(sidecar))


def test_a_pickle_by_its_parts(tmp_path: Path, cache: Path) -> None:
    """Each part is a reference of its own; it is read once, and the same from the cache."""
    parts = {
        part: {"mu": np.arange(D) + i, "sigma": np.eye(D) * (i + 1)}
        for i, part in enumerate(("fid", "fd_dinov2"))
    }
    parts = {name: {k: v.astype(float) for k, v in pair.items()} for name, pair in parts.items()}
    path = tmp_path / "img.pkl"
    path.write_bytes(pickle.dumps(parts))
    for _ in range(2):
        for part, pair in parts.items():
            found = open_reference(f"{path}#{part}")
            assert found.pool is not None
            np.testing.assert_array_equal(found.pool.mean_D, pair["mu"])
            np.testing.assert_array_equal(found.pool.cov_DD, pair["sigma"])
            assert (found.spatial, found.images, found.spec) == (None, None, None)
        assert len(list((cache / "statistics").iterdir())) == 1
    with pytest.raises(DataError, match=r"holds several.*img\.pkl#fd_dinov2, img\.pkl#fid"):
        open_reference(str(path))
    with pytest.raises(DataError, match="has no part 'other'"):
        open_reference(f"{path}#other")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    shown = {"file": path.name, "sha256": digest, "layout": "pickle", "extractor": "some-net"}
    sidecar = sidecar_of(tmp_path, **shown, part="fd_dinov2", statistics_count=9)
    found = open_reference(str(sidecar))
    assert found.pool is not None
    assert (found.pool.count, float(found.pool.mean_D[0])) == (9, 1.0)


def test_a_pickle_where_the_cache_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setenv("EVALSUITE_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "img.pkl"
    path.write_bytes(pickle.dumps({"mu": np.zeros(D), "sigma": np.eye(D)}))
    assert open_reference(str(path)).pool is not None


def test_statistics_alone(tmp_path: Path) -> None:
    """As JiT and MAR ship them: no spatial part, no images."""
    found = open_reference(written(tmp_path, mu=np.zeros(D), sigma=np.eye(D)))
    assert found.pool is not None
    assert (found.spatial, found.images) == (None, None)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "needs a file or places"),
        ({"file": "a.npz"}, "needs its sha256"),
        ({"file": "a.npz", "sha256": "0" * 64, "part": "fid"}, "only a pickle has parts"),
        (
            {"places": [{"url": "u", "filename": "f", "sha256": "1" * 64}], "sha256": "0" * 64},
            "of a place is not that of the reference",
        ),
        ({"file": "a.npz", "sha256": "0" * 64, "protocol": ["adm"]}, "did you mean 'protocols'"),
    ],
)
def test_specs_that_contradict_themselves(
    tmp_path: Path, fields: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        open_reference(str(sidecar_of(tmp_path, **fields)))


def test_protocols_that_references_name_are_of_their_extractor() -> None:
    for spec in registered_references():
        for name in spec.protocols:
            protocol = load_spec(ProtocolSpec, name)
            assert protocol.extractor == spec.extractor, f"{spec.name}: {name}"
    dinov2 = load_spec(ReferenceSpec, "edm2-img512-dinov2")
    assert dinov2.name in load_spec(ProtocolSpec, dinov2.protocols[0]).references.values()
    assert "torch-fidelity" in load_spec(ReferenceSpec, "adm-imagenet-256").protocols


def test_all_registered_references_are_listed() -> None:
    assert [spec.name for spec in registered_references()] == names_of(ReferenceSpec)
    assert len(ADM) == 5
    assert len(OTHERS) == 6


@pytest.mark.parametrize("name", ["digits-16-heldoud", "none.npz", "none.yaml", "notes.txt"])
def test_names_of_nothing(tmp_path: Path, name: str) -> None:
    """The nearest name, or the path."""
    (tmp_path / "notes.txt").write_text("x")
    given = name if "digits" in name else str(tmp_path / name)
    with pytest.raises(EvalsuiteError) as caught:
        open_reference(given)
    assert name in str(caught.value)
    assert isinstance(caught.value, UsageError | DataError)
    if "digits" in name:
        assert "did you mean 'digits-16-heldout'?" in str(caught.value)
