"""Samples, references and weights of every wrong kind: one clear line, the right code, soon."""

import hashlib
import io
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from golden.evaluator_kit import Graph, write_graph
from harness import Outcome
from PIL import Image
from safetensors.numpy import load_file, save_file

from evalsuite.config import ExtractorSpec, load_spec

USAGE, DATA = 2, 3
SOON_S = 10.0
DIGITS = load_spec(ExtractorSpec, "digits-convnet")
EXTRACTOR = ("--extractor", "digits-convnet")
AGAINST_DIGITS = (*EXTRACTOR, "--reference", "digits-16-train")
Refuse = Callable[..., str]
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (6, 16, 16, 3)).astype(np.uint8)


@pytest.fixture
def refuse(call: Callable[..., Outcome]) -> Refuse:
    """`refuse(code, *arguments)` gives the one line of a command that must fail with `code`."""

    def check(code: int, *arguments: object) -> str:
        began = time.monotonic()
        outcome = call(*arguments)
        assert time.monotonic() - began < SOON_S
        assert (outcome.code, outcome.stdout) == (code, ""), outcome
        (line,) = outcome.stderr.splitlines()
        assert line.startswith("evalsuite: ")
        return line

    return check


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (IMAGES[..., 0], "looks like N,H,W without colours"),
        (IMAGES[..., :1], "looks like greyscale and not RGB"),
        (np.concatenate([IMAGES, IMAGES[..., :1]], -1), "looks like RGB with alpha and not RGB"),
        (IMAGES[0], "looks like a single image: images must be uint8 of shape (N, H, W, 3)"),
        (IMAGES.transpose(0, 3, 1, 2), "looks like N,C,H,W: transpose it (0, 2, 3, 1)"),
        (np.asfortranarray(IMAGES), "Fortran order: save np.ascontiguousarray(images)"),
        (IMAGES[:0], "holds 0 images"),
        (IMAGES > 99, "is bool, but pixels must be uint8"),
        (IMAGES.astype(np.int64), "but pixels must be uint8: images.astype(np.uint8)"),
        (IMAGES.astype(np.int16) - 300, "they do not fit into 8 bits"),
        (IMAGES / np.float32(255), "float32 with values from 0 to 1 in its first images, so in"),
        (IMAGES / 127.5 - 1, "so in [-1, 1], but pixels must be uint8: ((images + 1) * 127.5)"),
        ((IMAGES / 255).astype(np.float16), "is float16 with values from 0 to 1"),
        (IMAGES.astype(np.float16), "so in [0, 255], but pixels must be uint8: (images).round()"),
        (np.full_like(IMAGES, np.nan, np.float32), "is float32 and holds NaN in its first images"),
        (np.array([{"a": 1}], object), "pickled objects, which are never loaded"),
    ],
)
def test_arrays_that_are_no_images(
    refuse: Refuse, tmp_path: Path, images: np.ndarray, words: str
) -> None:
    """As samples and as a reference."""
    np.savez(tmp_path / "x.npz", arr_0=images)
    assert words in refuse(DATA, "evaluate", "x.npz", *AGAINST_DIGITS)
    np.savez(tmp_path / "s.npz", arr_0=IMAGES)
    assert words in refuse(DATA, "evaluate", "s.npz", *EXTRACTOR, "--reference", "x.npz")


@pytest.mark.parametrize("share", [0.0, 0.5, 0.97, 0.9999])
def test_a_truncated_zip(refuse: Refuse, tmp_path: Path, share: float) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, arr_0=IMAGES)
    (tmp_path / "x.npz").write_bytes(buffer.getvalue()[: int(share * len(buffer.getvalue()))])
    assert "x.npz" in refuse(DATA, "evaluate", "x.npz", *AGAINST_DIGITS)
    np.savez(tmp_path / "s.npz", arr_0=IMAGES)
    assert "x.npz" in refuse(DATA, "evaluate", "s.npz", *EXTRACTOR, "--reference", "x.npz")


def png_of(mode: str) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(np.arange(256, dtype=np.uint16).reshape(16, 16) * 200)
    return Image.fromarray(IMAGES[0]).convert(mode)


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("1", "is black and white (mode 1), not RGB: give --convert-rgb"),
        ("L", "is greyscale (mode L), not RGB"),
        ("P", "is palette (mode P), not RGB"),
        ("LA", "is greyscale with alpha (mode LA), not RGB"),
        ("RGBA", "is RGB with alpha (mode RGBA), not RGB"),
        ("I;16", "has more than 8 bits for a channel"),
    ],
)
def test_pictures_that_are_not_rgb(refuse: Refuse, tmp_path: Path, mode: str, words: str) -> None:
    (tmp_path / "p").mkdir()
    png_of(mode).save(tmp_path / "p/a.png")
    line = refuse(DATA, "evaluate", "p", *AGAINST_DIGITS)
    assert "p/a.png" in line
    assert words in line


def test_a_picture_of_100_megapixels(refuse: Refuse, tmp_path: Path) -> None:
    """A whole one, of 300 MB when it is decoded; refused by its header, as a reference too."""
    packer = zlib.compressobj(1)
    row = b"\0" * 30001
    body = b"".join(packer.compress(row) for _ in range(10000)) + packer.flush()
    header = struct.pack(">IIBBBBB", 10000, 10000, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", body), (b"IEND", b""))
    (tmp_path / "p").mkdir()
    (tmp_path / "p/a.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in chunks
        )
    )
    words = "a.png has 100 megapixels (10000x10000)"
    assert words in refuse(DATA, "evaluate", "p", *AGAINST_DIGITS)
    assert words in refuse(DATA, "evaluate", "p", *AGAINST_DIGITS, "--resize", "adm-crop:16")
    np.savez(tmp_path / "s.npz", arr_0=IMAGES)
    assert words in refuse(DATA, "evaluate", "s.npz", *EXTRACTOR, "--reference", "p")


def test_loops_of_links(refuse: Refuse, tmp_path: Path) -> None:
    """Of a folder into itself, of pictures, and of what was given by name."""
    for name, other in (("a.npz", "b.npz"), ("b.npz", "a.npz"), ("c", "d"), ("d", "c")):
        (tmp_path / name).symlink_to(other)
    for name in ("round", "pictures", "pair"):
        (tmp_path / name).mkdir()
    (tmp_path / "round/self").symlink_to("..", target_is_directory=True)
    (tmp_path / "pair/self").symlink_to(".", target_is_directory=True)
    (tmp_path / "pictures/a.png").symlink_to("a.png")
    np.savez(tmp_path / "s.npz", arr_0=IMAGES)
    for samples, words in (
        ("a.npz", "a.npz does not exist"),
        ("c", "c does not exist"),
        ("round", "round/self is a link to a folder elsewhere"),
        ("pair", "pair/self is a link to a folder inside"),
        ("pictures", "pictures/a.png is no file (a broken link?)"),
    ):
        assert words in refuse(DATA, "evaluate", samples, *AGAINST_DIGITS)
    for reference in ("a.npz", "c"):
        line = refuse(DATA, "evaluate", "s.npz", *EXTRACTOR, "--reference", reference)
        assert f"reference {reference} is a link to nothing, or a loop of links" in line
    line = refuse(5, "evaluate", "s.npz", *AGAINST_DIGITS, "--json", "a.npz")
    assert "--json a.npz cannot be written" in line


def test_a_reference_of_another_resolution(refuse: Refuse, tmp_path: Path) -> None:
    """By the size of its images; an extractor that resizes would hide it."""
    (tmp_path / "w.pb").write_bytes(b"is not read, because the sizes are looked at first")
    extractor = extractor_with(tmp_path, tmp_path / "w.pb")
    np.savez(tmp_path / "large.npz", arr_0=RNG.integers(0, 256, (4, 32, 32, 3)).astype(np.uint8))
    np.savez(tmp_path / "s.npz", arr_0=IMAGES)
    for metric in ("fid", "precision"):
        options = ("--extractor", extractor, "--reference", "large.npz", "--metrics", metric)
        line = refuse(DATA, "evaluate", "s.npz", *options)
        assert "the samples are 16x16, but reference large is of 32x32 images" in line
        assert "--resize RULE, such as adm-crop:32" in line
    line = refuse(DATA, "evaluate", "large.npz", *AGAINST_DIGITS)
    assert "holds images of 32x32, but extractor digits-convnet takes 16x16 only" in line
    line = refuse(DATA, "evaluate", "s.npz", *EXTRACTOR, "--reference", "large.npz")
    assert "large" in line


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"mu": np.zeros(2048), "sigma": np.eye(2048)}, "mu has 2048 values, but extractor digits"),
        ({"mu": np.zeros(64), "sigma": np.eye(63)}, "mu (64,) and sigma (63, 63) do not fit"),
        ({"mu": np.full(64, np.nan), "sigma": np.eye(64)}, "holds NaN or infinite values"),
        ({"mu": np.zeros(64), "sigma": -np.eye(64)}, "negative variance: it is no covariance"),
        ({"mu": np.zeros(64), "sigma": np.tri(64)}, "is not symmetric"),
        ({"mu": np.zeros(64), "sigma": np.eye(64) * 1j}, "statistics are float32 or float64"),
        ({"mu": np.zeros(64, np.float16), "sigma": np.eye(64, dtype=np.float16)}, "are float32 or"),
        ({"mu": np.array([{}], object), "sigma": np.eye(64)}, "Object arrays cannot be loaded"),
        ({"other": np.zeros(3)}, "holds neither mu and sigma nor images (arr_0)"),
        ({"arr_0": IMAGES[:1]}, "holds 1 image: nothing is computed from fewer than 2"),
    ],
)
def test_statistics_that_cannot_be_used(
    refuse: Refuse, tmp_path: Path, arrays: dict[str, Any], words: str
) -> None:
    np.savez(tmp_path / "r.npz", **arrays)
    np.savez(tmp_path / "s.npz", arr_0=IMAGES)
    options = (*EXTRACTOR, "--reference", "r.npz", "--metrics", "fid")
    assert words in refuse(DATA, "evaluate", "s.npz", *options)


def extractor_with(folder: Path, weights: Path, sha256: str | None = None) -> Path:
    """An extractor of Inception's family with these weights."""
    content = {
        "name": "mine",
        "title": "mine",
        "short": "mine-",
        "family": "inception-2015-12-05",
        "version": 1,
        "weights": {
            "file": str(weights),
            "sha256": sha256 or hashlib.sha256(weights.read_bytes()).hexdigest(),
        },
        "resize": "tf1-bilinear-299",
        "default_protocol": "adm",
        "batch_size": 4,
        "pool_dim": 64,
        "spatial_dim": 2023,
        "num_classes": 1008,
        "licence": "none",
    }
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """A synthetic Inception, an eighth as wide, as .pb and .pth."""
    kit = Path(__file__).parents[1] / "golden/cases/evaluator"
    return write_graph(kit, 8, tmp_path_factory.mktemp("inception"))


@pytest.mark.parametrize("kind", ["pb", "torch_fidelity", "pytorch_fid"])
def test_weights_that_are_not_the_pinned_ones(
    refuse: Refuse, tmp_path: Path, graph: Graph, kind: str
) -> None:
    """By hand for a known extractor, and in an extractor file whose digest is of others."""
    weights = getattr(graph, kind)
    np.savez(tmp_path / "s.npz", arr_0=IMAGES)
    against = ("--reference", "s.npz", "--metrics", "fid")
    options = ("--extractor", "inception-2015-12-05", "--extractor-weights", weights)
    line = refuse(DATA, "evaluate", "s.npz", *options, *against)
    assert "holds other weights than inception-2015-12-05" in line
    mine = extractor_with(tmp_path, weights, "0" * 64)
    line = refuse(DATA, "evaluate", "s.npz", "--extractor", mine, *against)
    assert "has another SHA-256 than expected" in line


class Hostile:
    """Runs a command when it is unpickled freely."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.system, ("touch hostile-code-ran",)


def test_weights_that_are_none(refuse: Refuse, tmp_path: Path, graph: Graph) -> None:
    """Truncated, of another network, not finite, or with code: all under their right digest."""
    state = torch.load(graph.torch_fidelity, weights_only=True)
    poisoned = {key: value.clone() for key, value in state.items()}
    poisoned["Conv2d_1a_3x3.conv.weight"].view(-1)[5] = torch.nan
    for name, content in (
        ("other", {"conv.weight": torch.zeros(3)}),
        ("nan", poisoned),
        ("evil", {"fc.weight": Hostile()}),
    ):
        torch.save(content, tmp_path / f"{name}.pth")
    (tmp_path / "cut.pb").write_bytes(graph.pb.read_bytes()[:-7])
    (tmp_path / "cut.pth").write_bytes(graph.torch_fidelity.read_bytes()[:-700])
    np.savez(tmp_path / "s.npz", arr_0=IMAGES)
    for name, words in (
        ("other.pth", "are not those of Inception-2015-12-05: missing Conv2d_1a_3x3"),
        ("nan.pth", "NaN or infinity: Conv2d_1a_3x3.conv.weight"),
        ("evil.pth", "holds other Python objects than tensors, which are not loaded"),
        ("cut.pb", "are no frozen TensorFlow graph, or a damaged one"),
        ("cut.pth", "cannot read weights"),
    ):
        mine = extractor_with(tmp_path, tmp_path / name)
        options = ("--extractor", mine, "--reference", "s.npz", "--metrics", "fid")
        line = refuse(DATA, "evaluate", "s.npz", *options)
        assert name in line
        assert words in line
        assert "weights_only" not in line
    assert not (tmp_path / "hostile-code-ran").exists()


def test_features_that_are_not_finite_name_the_image(refuse: Refuse, tmp_path: Path) -> None:
    """Weights whose sums overflow where a picture is bright."""
    assert DIGITS.weights.file is not None
    weights = load_file(DIGITS.path.parent / DIGITS.weights.file)
    weights["conv1.weight"] = np.abs(weights["conv1.weight"]) * np.float32(1e38)
    save_file(weights, tmp_path / "broken.safetensors")
    content = yaml.safe_load(DIGITS.path.read_text())
    digest = hashlib.sha256((tmp_path / "broken.safetensors").read_bytes()).hexdigest()
    content |= {"name": "broken", "weights": {"file": "broken.safetensors", "sha256": digest}}
    (tmp_path / "broken.yaml").write_text(yaml.safe_dump(content))
    (tmp_path / "p").mkdir()
    for i in range(4):
        shade = 255 if i >= 2 else 0
        Image.new("RGB", (16, 16), (shade, shade, shade)).save(tmp_path / f"p/{i}.png")
    options = ("--extractor", "broken.yaml", "--metrics", "inception_score")
    line = refuse(DATA, "evaluate", "p", *options)
    assert "p: image " in line
    assert ".png) has features that are NaN or infinite" in line


def evaluated(call: Callable[..., Outcome], samples: np.ndarray, metrics: str) -> str:
    """The notes and values that a person sees; the reference is the embedded one."""
    np.savez("s.npz", arr_0=samples)
    outcome = call("evaluate", "s.npz", *AGAINST_DIGITS, "--metrics", metrics)
    assert outcome.code == 0, outcome.stderr
    assert outcome.stderr == ""
    return outcome.stdout


def real(count: int) -> np.ndarray:
    with np.load(Path(__file__).parents[2] / "reference_stats/digits-16-train.npz") as archive:
        return archive["arr_0"][:count]


def test_fewer_samples_than_dimensions_are_said(call: Callable[..., Outcome]) -> None:
    """With the metric that has an error at any number of samples."""
    text = evaluated(call, real(40), "fid,kid")
    assert "the covariance of the samples is singular: 40 images for 64 feature dim" in text
    assert "no standard error: it needs at least 2 samples per feature dimension (128)" in text
    assert "use kid, which has no bias and an error at any N" in text


def test_constant_images(call: Callable[..., Outcome]) -> None:
    """One picture forty times: finite numbers, one class, and the copies counted."""
    text = evaluated(
        call, np.full((40, 16, 16, 3), 7, np.uint8), "fid,inception_score,precision,coverage,kid"
    )
    assert text.count("39 samples have exactly the features of an earlier one") == 4
    values = {line.split()[0]: line.split()[1] for line in text.splitlines()[1:6]}
    assert values["digits-IS-40"] == "1.0000"
    assert (values["digits-Precision-40"], values["digits-Coverage-40"]) == ("0.0000", "0.0000")
    assert float(values["digits-FID-40"]) > 50


def test_constant_reference(call: Callable[..., Outcome], tmp_path: Path) -> None:
    """A covariance of 0 is a covariance: FID is the squared distance of means plus a trace."""
    np.savez(tmp_path / "r.npz", arr_0=np.full((40, 16, 16, 3), 7, np.uint8))
    np.savez(tmp_path / "s.npz", arr_0=real(200))
    options = (*EXTRACTOR, "--reference", "r.npz", "--metrics", "fid,precision")
    outcome = call("evaluate", "s.npz", *options)
    assert outcome.code == 0, outcome.stderr
    assert "the covariance of the reference is singular: 40 images" in outcome.stdout


def test_duplicates_are_counted_by_every_metric_of_features(call: Callable[..., Outcome]) -> None:
    """Two of each of twenty, in FID as in precision; all different says nothing."""
    doubled = np.concatenate([real(20), real(20)])
    for metrics, count in (("fid", 1), ("fid,kid,recall", 3), ("inception_score", 0)):
        text = evaluated(call, doubled, metrics)
        assert text.count("20 samples have exactly the features of an earlier one") == count
    assert "of an earlier one" not in evaluated(call, real(40), "fid,kid,recall")


@pytest.mark.parametrize("count", [1, 2, 3])
def test_one_two_and_three_images(
    call: Callable[..., Outcome], refuse: Refuse, tmp_path: Path, count: int
) -> None:
    """A number where one is defined, and else how many it needs."""
    np.savez(tmp_path / "s.npz", arr_0=real(count))
    for metric in ("fid", "inception_score", "kid"):
        if count == 1:
            line = refuse(DATA, "evaluate", "s.npz", *AGAINST_DIGITS, "--metrics", metric)
            assert f"{metric} needs at least 2 samples, not 1" in line
        else:
            evaluated(call, real(count), metric)
    line = refuse(DATA, "evaluate", "s.npz", *AGAINST_DIGITS, "--metrics", "precision")
    assert f"precision needs at least 4 samples, not {count}" in line
    line = refuse(DATA, "evaluate", "s.npz", *AGAINST_DIGITS, "--metrics", "fid_infinity")
    assert f"at least 512 samples, not {count}" in line
    np.savez(tmp_path / "many.npz", arr_0=real(20))
    options = (*EXTRACTOR, "--reference", "s.npz", "--metrics", "precision")
    line = refuse(DATA, "evaluate", "many.npz", *options)
    assert ("holds 1 image" if count == 1 else f"4 reference images, not {count}") in line
