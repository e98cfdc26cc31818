"""Building references: in one pass, exactly the source's pixels, moments and features."""

import hashlib
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harness import bytes_of, environment, small_disk
from PIL import Image

from evalsuite.artifacts.features import encode_features
from evalsuite.artifacts.references import open_reference, read_features
from evalsuite.artifacts.resizing import resize_rule
from evalsuite.config import ExtractorSpec, data_root, load_spec
from evalsuite.errors import (
    ConfigError,
    CorruptionError,
    DataError,
    EvalsuiteError,
    StorageError,
    UsageError,
)
from evalsuite.pipeline.embedding import embed
from evalsuite.pipeline.measure import check_reference
from evalsuite.pipeline.reference_building import build_reference
from evalsuite.pipeline.reference_request import PARTS, BuildRequest

SPEC = load_spec(ExtractorSpec, "digits-convnet")
HELD_OUT = data_root() / "reference_stats" / "digits-16-heldout.npz"
CPU = torch.device("cpu")


def request(tmp_path: Path, **changes: Any) -> BuildRequest:
    """All parts of the held-out digits."""
    asked = BuildRequest(HELD_OUT, "mine", tmp_path / "out", parts=frozenset(PARTS), extractor=SPEC)
    return replace(asked, **changes)


def digits_folder(folder: Path, count: int, suffix: str = "png") -> np.ndarray:
    """The first digits as image files; their pixels."""
    folder.mkdir()
    images = np.load(HELD_OUT)["arr_0"][:count]
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:04}.{suffix}")
    return images


def test_the_registered_reference_comes_out_again(tmp_path: Path) -> None:
    """Same pixels and labels to the bit, same moments to the rounding of sums."""
    told: list[tuple[int, int]] = []
    built = build_reference(request(tmp_path), lambda done, total: told.append((done, total)))
    assert told[-1] == (540, 540)
    ours, theirs = np.load(built.npz), np.load(HELD_OUT)
    assert list(ours.files) == ["arr_0", "arr_1", "mu", "sigma", "mu_s", "sigma_s"]
    for name in ("arr_0", "arr_1"):
        np.testing.assert_array_equal(ours[name], theirs[name])
    for name in ("mu", "sigma", "mu_s", "sigma_s"):
        assert ours[name].dtype == np.float64
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-12, atol=1e-13)
    registered = open_reference("digits-16-heldout")
    found = open_reference(str(built.npz))
    assert found.spec == built.spec
    assert found.spec is not None
    assert registered.spec is not None
    assert found.spec.images == registered.spec.images
    assert found.spec.statistics_count == 540
    check_reference(found, SPEC, ["fid", "precision"])


def test_stored_features_are_the_ones_of_evaluate(tmp_path: Path) -> None:
    """And the file is byte for byte the shard that would be written from memory."""
    built = build_reference(request(tmp_path))
    found = open_reference(str(built.npz))
    table = read_features(found)
    assert table is not None
    assert found.images is not None
    embedded, _ = embed(found.images, 540, SPEC, CPU)
    for ours, theirs in zip(table[1:], embedded[1:], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert built.features is not None
    assert built.features.read_bytes() == encode_features(embedded)
    content = bytearray(built.features.read_bytes())
    content[-1] ^= 1
    built.features.write_bytes(content)
    with pytest.raises(CorruptionError, match="SHA-256 differs"):
        read_features(found)
    built.features.unlink()
    with pytest.raises(DataError, match="does not exist"):
        read_features(found)


def test_equal_images_give_equal_bytes(tmp_path: Path) -> None:
    """From a folder of PNGs as from an NPZ, once and again, however they come in portions."""
    images = digits_folder(tmp_path / "pngs", 130)
    np.savez_compressed(tmp_path / "first.npz", arr_0=images)
    made = []
    for i, source in enumerate(("pngs", "first.npz", "pngs")):
        asked = request(tmp_path, source=tmp_path / source, output=tmp_path / f"out{i}")
        made.append(bytes_of(build_reference(asked).npz.parent))
    names = ["mine.features.safetensors", "mine.npz"]
    assert sorted(made[0]) == [*names, "mine.yaml"]
    assert all(made[0][name] == other[name] for other in made for name in names)
    assert made[0] == made[2]


@pytest.mark.parametrize(
    ("parts", "arrays", "files"),
    [
        ({"images"}, ["arr_0", "arr_1"], ["mine.npz", "mine.yaml"]),
        ({"moments"}, ["arr_1", "mu", "sigma", "mu_s", "sigma_s"], ["mine.npz", "mine.yaml"]),
        (
            {"moments", "features"},
            ["arr_1", "mu", "sigma", "mu_s", "sigma_s"],
            ["mine.features.safetensors", "mine.npz", "mine.yaml"],
        ),
    ],
)
def test_only_what_is_asked_for_is_kept(
    tmp_path: Path, parts: set[Any], arrays: list[str], files: list[str]
) -> None:
    built = build_reference(request(tmp_path, parts=frozenset(parts)))
    assert list(np.load(built.npz).files) == arrays
    assert sorted(p.name for p in built.npz.parent.iterdir()) == files
    found = open_reference(str(built.npz))
    assert (found.pool is not None) == ("moments" in parts)
    assert (found.images is not None) == ("images" in parts)
    assert built.spec.build is not None
    pixels = hashlib.sha256(np.load(HELD_OUT)["arr_0"].tobytes()).hexdigest()
    assert built.spec.build["images_sha256"] == pixels


def test_images_alone_fit_any_extractor(tmp_path: Path) -> None:
    """They name none, and need none to be built."""
    built = build_reference(request(tmp_path, parts=frozenset({"images"}), extractor=None))
    assert built.spec.extractor is None
    check_reference(open_reference(str(built.npz)), SPEC, ["fid", "sfid", "precision"])


def test_a_file_of_another_program_is_known_by_the_name_of_its_network(tmp_path: Path) -> None:
    """It has no id of ours; the widths are compared in any case, and our own ids stay strict."""
    found = open_reference("digits-16-heldout")
    assert found.spec is not None
    assert found.pool is not None
    named = found.spec.model_copy(update={"extractor_id": None, "extractor_sha256": None})
    check_reference(replace(found, spec=named), SPEC, ["fid"])
    other = named.model_copy(update={"extractor": "inception-2015-12-05"})
    with pytest.raises(DataError, match="with extractor inception-2015-12-05, not digits-convnet:"):
        check_reference(replace(found, spec=other), SPEC, ["fid"])
    ours = found.spec.model_copy(update={"extractor_id": "digits-convnet-00000000"})
    with pytest.raises(DataError, match=f"digits-convnet-00000000, not {SPEC.extractor_id}:"):
        check_reference(replace(found, spec=ours), SPEC, ["fid"])
    wide = replace(found.pool, mean_D=np.zeros(2048), cov_DD=np.eye(2048))
    with pytest.raises(DataError, match="mu has 2048 values, but extractor digits-convnet gives"):
        check_reference(replace(found, spec=named, pool=wide), SPEC, ["fid"])


def test_so_many_of_each_class(tmp_path: Path) -> None:
    """At random, by the seed, in the order of the source; the sidecar says so."""
    made = {}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        asked = request(tmp_path, name=name, per_class=7, seed=seed)
        built = build_reference(asked)
        made[name] = np.load(built.npz)
        assert built.spec.build is not None
        assert built.spec.build["classes"] == {"number": 10, "fewest": 7, "most": 7}
        assert built.spec.build["images_in_source"] == 540
        assert built.spec.split == (
            f"7 images of each class, chosen by numpy default_rng({seed}),"
            " in the order of the source"
        )
    np.testing.assert_array_equal(np.bincount(made["a"]["arr_1"]), np.full(10, 7))
    np.testing.assert_array_equal(made["a"]["arr_0"], made["b"]["arr_0"])
    assert (made["a"]["arr_0"] != made["c"]["arr_0"]).any()
    source = np.load(HELD_OUT)["arr_0"]
    rows = {image.tobytes(): i for i, image in enumerate(source)}
    places = [rows[image.tobytes()] for image in made["a"]["arr_0"]]
    assert places == sorted(places)
    np.testing.assert_array_equal(source[places], made["a"]["arr_0"])


@pytest.mark.parametrize("processes", [1, 2])
def test_a_folder_of_classes_cropped_as_adm_crops(tmp_path: Path, processes: int) -> None:
    """Pictures of any size, grey ones too, labels from subfolders, a few of each class."""
    generator = np.random.default_rng(0)
    pixels = {}
    for label in range(3):
        folder = tmp_path / "photos" / f"n{label}"
        folder.mkdir(parents=True)
        for i in range(9):
            shape = (40 + 3 * i, 60 - i) if i % 3 else (40 + 3 * i, 60 - i, 3)
            picture = Image.fromarray(generator.integers(0, 256, shape, dtype=np.uint8))
            picture.save(folder / f"{i}.png")
            pixels[label, i] = resize_rule("adm-crop:16")(picture.convert("RGB"))
    asked = request(tmp_path, source=tmp_path / "photos", resize="adm-crop:16", per_class=4, seed=5)
    with pytest.raises(DataError, match="RGB"):
        build_reference(asked)
    built = build_reference(replace(asked, convert_rgb=True, processes=processes))
    made = np.load(built.npz)
    np.testing.assert_array_equal(made["arr_1"], np.repeat(np.arange(3), 4))
    places = {image.tobytes(): place for place, image in pixels.items()}
    found = [places[image.tobytes()] for image in made["arr_0"]]
    assert found == sorted(set(found))
    assert [label for label, _ in found] == made["arr_1"].tolist()
    assert built.spec.preprocessing == "adm-crop:16, pictures that are not RGB converted"
    assert built.spec.size == (16, 16)


def test_the_sidecar_names_the_source(tmp_path: Path) -> None:
    """An NPZ by its bytes, a folder by the names and sizes of its files."""
    digits_folder(tmp_path / "pngs", 5)
    facts = []
    for i in range(2):
        asked = request(tmp_path, source=tmp_path / "pngs", name=f"of-{i}")
        facts.append(build_reference(asked).spec.build)
        shutil.copy(tmp_path / "pngs/0000.png", tmp_path / "pngs/0005.png")
    assert facts[0] is not None
    assert facts[1] is not None
    assert [fact["source_files"] for fact in facts] == [5, 6]
    assert facts[0]["source_listing_sha256"] != facts[1]["source_listing_sha256"]
    built = build_reference(request(tmp_path))
    assert built.spec.build is not None
    assert built.spec.build["source_sha256"] == hashlib.sha256(HELD_OUT.read_bytes()).hexdigest()
    packages = built.spec.build["packages"]
    assert isinstance(packages, dict)
    assert packages["torch"] == torch.__version__
    assert (built.spec.extractor, built.spec.extractor_id) == (SPEC.name, SPEC.extractor_id)
    assert built.spec.extractor_sha256 == SPEC.weights.sha256


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"parts": frozenset({"features"})}, UsageError, "features alone"),
        ({"extractor": None}, UsageError, "--extractor is needed for features, moments"),
        ({"name": "digits-16-train"}, UsageError, "a registered reference has that name"),
        ({"name": "a/b"}, ConfigError, "--name 'a/b'"),
        ({"name": ""}, ConfigError, "--name ''"),
        ({"per_class": 55}, DataError, "class 0 has 54 images, fewer than --per-class 55"),
        ({"source": Path("absent")}, DataError, "absent does not exist"),
    ],
)
def test_requests_that_cannot_be_carried_out(
    tmp_path: Path, changes: dict[str, Any], kind: type[EvalsuiteError], words: str
) -> None:
    """One line, and nothing is left."""
    with pytest.raises(kind, match=words) as caught:
        build_reference(request(tmp_path, **changes))
    assert "\n" not in str(caught.value)
    assert bytes_of(tmp_path) == {}


def test_classes_that_nobody_knows(tmp_path: Path) -> None:
    digits_folder(tmp_path / "pngs", 3)
    with pytest.raises(UsageError, match=r"--per-class: the classes of .* are not known"):
        build_reference(request(tmp_path, source=tmp_path / "pngs", per_class=1))


def test_images_that_do_not_fit(tmp_path: Path) -> None:
    """The extractor's size, one image alone, and a broken one in the middle."""
    np.savez(tmp_path / "large.npz", arr_0=np.zeros((4, 32, 32, 3), np.uint8))
    with pytest.raises(DataError, match=r"images of 32x32, but extractor digits-convnet takes"):
        build_reference(request(tmp_path, source=tmp_path / "large.npz"))
    digits_folder(tmp_path / "one", 1)
    with pytest.raises(DataError, match="at least 2 images, not 1"):
        build_reference(request(tmp_path, source=tmp_path / "one"))
    digits_folder(tmp_path / "pngs", 100)
    (tmp_path / "pngs" / "0090.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"0090\.png"):
        build_reference(request(tmp_path, source=tmp_path / "pngs"))
    assert bytes_of(tmp_path / "out") == {}


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    built = build_reference(request(tmp_path))
    before = bytes_of(tmp_path / "out")
    with pytest.raises(UsageError, match=r"mine\.npz exists"):
        build_reference(request(tmp_path))
    built.npz.unlink()
    with pytest.raises(UsageError, match=r"mine\.yaml exists"):
        build_reference(request(tmp_path))
    assert bytes_of(tmp_path / "out").items() <= before.items()


def test_a_small_disk_is_seen_before_the_pass(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "256k") as disk:
        for parts, text in (
            ({"images"}, "the images need 414,720"),
            ({"moments", "features"}, "the features need 406,080"),
            (set(PARTS), "the images and features need 820,800"),
        ):
            with pytest.raises(StorageError, match=f"bytes free, but {text}"):
                build_reference(request(tmp_path, output=disk, parts=frozenset(parts)))
        assert bytes_of(disk) == {}


def test_the_images_are_never_held_together(tmp_path: Path) -> None:
    """120 MB of pixels pass through a process whose memory grows by a small part of them."""
    count, size = 600, 256
    source = tmp_path / "many.npz"
    with (
        zipfile.ZipFile(source, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("arr_0.npy", "w", force_zip64=True) as member,
    ):
        header = {"descr": "|u1", "fortran_order": False, "shape": (count, size, size, 3)}
        np.lib.format.write_array_header_1_0(member, header)
        for i in range(count):
            member.write(bytes([i % 251]) * (size * size * 3))
    program = (
        "import resource, sys\nfrom pathlib import Path\n"
        "from evalsuite.pipeline.reference_building import build_reference\n"
        "from evalsuite.pipeline.reference_request import BuildRequest\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        "before = peak()\n"
        "source, output = map(Path, sys.argv[1:])\n"
        "build_reference(BuildRequest(source, 'many', output, parts=frozenset({'images'})))\n"
        "print(peak() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, source, tmp_path / "out"],
        env=environment(private=True),
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(done.stdout) < 60, "MB"
    made = tmp_path / "out" / "many.npz"
    assert made.stat().st_size > count * size * size * 3
    found = open_reference(str(made))
    assert found.images is not None
    assert found.images.num_images == count
    shutil.rmtree(tmp_path / "out")
