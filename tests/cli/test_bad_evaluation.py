"""Bad samples, references and weights for `evaluate`: one clear line, and the right exit code."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from harness import PLAN, REPOSITORY
from PIL import Image

USAGE, DATA = 2, 3
REFERENCE = ("--reference", "digits-16-train")
Refuse = Callable[..., str]


def images(count: int = 8, size: int = 16) -> np.ndarray:
    """Random pictures."""
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"arr_0": images()[..., 0]}, "must be uint8 of shape (N, H, W, 3)"),
        ({"arr_0": images()[..., :2]}, "must be uint8 of shape (N, H, W, 3)"),
        ({"arr_0": images().astype(np.float32)}, "arr_0 is float32 with values from 0 to 255"),
        ({"arr_0": images().transpose(0, 3, 1, 2)}, "which looks like N,C,H,W: transpose it"),
        ({"arr_0": images()[:0]}, "arr_0 holds 0 images"),
        ({"images": images()}, "has no arr_0 (images); it holds images: if 'images' is them"),
        ({"arr_0": images(), "arr_1": np.arange(5)}, "arr_1 must hold 8 whole-number labels"),
        ({"arr_0": np.array([{"a": 1}], dtype=object)}, "pickled objects, which are never loaded"),
        ({"arr_0": images(size=32)}, "holds images of 32x32, but extractor digits-convnet takes"),
        ({"arr_0": images(3)}, "precision needs at least 4 samples, not 3"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_npz_with_faults(
    arrays: dict[str, np.ndarray], words: str, refuse: Refuse, tmp_path: Path
) -> None:
    np.savez(tmp_path / "s.npz", **arrays)
    assert words in refuse(DATA, "evaluate", "s.npz", *REFERENCE)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.95])
def test_a_truncated_npz(share: float, refuse: Refuse, tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", arr_0=images(64))
    content = (tmp_path / "s.npz").read_bytes()
    (tmp_path / "s.npz").write_bytes(content[: int(share * len(content))])
    assert "s.npz" in refuse(DATA, "evaluate", "s.npz", *REFERENCE)


def test_an_npz_with_damaged_bytes(refuse: Refuse, tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", arr_0=images(64))
    content = bytearray((tmp_path / "s.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "s.npz").write_bytes(content)
    assert "s.npz" in refuse(DATA, "evaluate", "s.npz", *REFERENCE)


def pngs(folder: Path, count: int = 8) -> Path:
    """A folder of pictures."""
    folder.mkdir()
    for number, picture in enumerate(images(count)):
        Image.fromarray(picture).save(folder / f"{number:03d}.png")
    return folder


def test_a_folder_with_an_unreadable_image(refuse: Refuse, tmp_path: Path) -> None:
    (pngs(tmp_path / "p") / "003.png").write_bytes(b"no picture")
    assert "003.png cannot be read as an image" in refuse(DATA, "evaluate", "p", *REFERENCE)


def test_a_folder_with_a_truncated_image(refuse: Refuse, tmp_path: Path) -> None:
    file = pngs(tmp_path / "p") / "003.png"
    file.write_bytes(file.read_bytes()[:300])
    assert "003.png cannot be read as an image" in refuse(DATA, "evaluate", "p", *REFERENCE)


def test_a_folder_with_an_odd_size(refuse: Refuse, tmp_path: Path) -> None:
    Image.fromarray(images(1, 20)[0]).save(pngs(tmp_path / "p") / "003.png")
    line = refuse(DATA, "evaluate", "p", *REFERENCE)
    assert "003.png is 20x20 (height x width), but 000.png is 16x16: all images must" in line


@pytest.mark.parametrize(
    ("samples", "words"),
    [("empty", "holds no PNG, JPEG or WebP images"), ("none", "none does not exist")],
)
def test_samples_that_are_not_there(
    samples: str, words: str, refuse: Refuse, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    assert words in refuse(DATA, "evaluate", samples, *REFERENCE)


def test_more_samples_than_there_are(refuse: Refuse, tmp_path: Path) -> None:
    pngs(tmp_path / "p")
    line = refuse(DATA, "evaluate", "p", *REFERENCE, "--num-samples", 9)
    assert "holds 8 images, fewer than --num-samples 9" in line


def test_metrics_without_a_reference(refuse: Refuse, tmp_path: Path) -> None:
    pngs(tmp_path / "p")
    own = (REPOSITORY / "configs/protocols/digits.yaml").read_text().partition("references:")[0]
    (tmp_path / "mine.yaml").write_text(own)
    asked = ("--extractor", "digits-convnet", "--protocol", "mine.yaml", "--metrics", "fid")
    line = refuse(USAGE, "evaluate", "p", *asked)
    assert "fid needs a --reference" in line


def test_a_protocol_of_another_network(refuse: Refuse, tmp_path: Path) -> None:
    """Digits have no ADM number, whatever prefix it would wear."""
    pngs(tmp_path / "p")
    line = refuse(
        USAGE, "evaluate", "p", *REFERENCE, "--protocol", "adm", "--extractor", "digits-convnet"
    )
    assert "protocol adm is of extractor inception-2015-12-05" in line


def changed_weights(target: Path, change: Callable[[np.ndarray], np.ndarray]) -> Path:
    """The digits extractor's weights with one tensor changed."""
    from safetensors.numpy import load_file, save_file

    weights = load_file(REPOSITORY / "configs/extractors/digits-convnet.safetensors")
    weights["conv1.bias"] = change(weights["conv1.bias"])
    save_file(weights, target)
    return target


def test_extractor_weights_with_nan(refuse: Refuse, tmp_path: Path) -> None:
    changed_weights(tmp_path / "nan.safetensors", lambda bias: bias * np.float32(np.nan))
    pngs(tmp_path / "p")
    options = ("--extractor", "digits-convnet", "--extractor-weights", "nan.safetensors")
    line = refuse(DATA, "evaluate", "p", *options, "--metrics", "inception_score")
    assert "NaN" in line


def test_a_reference_of_another_extractor(refuse: Refuse, tmp_path: Path) -> None:
    changed_weights(tmp_path / "other.safetensors", lambda bias: bias + np.float32(1))
    options = ("--extractor", "digits-convnet", "--extractor-weights", "other.safetensors")
    pngs(tmp_path / "p")
    for command in (["evaluate", "p", *REFERENCE], ["run", *PLAN]):
        line = refuse(DATA, *command, *options)
        assert "was made with extractor digits-convnet" in line
        assert "their features cannot be compared" in line


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"mu": np.zeros(64)}, "has one of mu and sigma, but needs both"),
        ({"mu": np.zeros(64), "sigma": np.eye(60)}, "do not fit"),
        ({"mu": np.zeros(2048), "sigma": np.eye(2048)}, "extractor digits-convnet gives 64"),
        ({"mu": np.full(64, np.nan), "sigma": np.eye(64)}, "holds NaN or infinite values"),
        ({"x": np.zeros(3)}, "holds neither mu and sigma nor images"),
        ({"mu": np.zeros(64), "sigma": np.eye(64)}, "holds no images, which precision needs"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_references_with_faults(
    arrays: dict[str, np.ndarray], words: str, refuse: Refuse, tmp_path: Path
) -> None:
    np.savez(tmp_path / "ref.npz", **arrays)
    pngs(tmp_path / "p")
    options = ("--extractor", "digits-convnet", "--metrics", "fid,precision")
    assert words in refuse(DATA, "evaluate", "p", "--reference", "ref.npz", *options)


def test_a_reference_file_that_changed(refuse: Refuse, tmp_path: Path) -> None:
    for suffix in ("yaml", "npz"):
        shutil.copy(REPOSITORY / f"reference_stats/digits-16-train.{suffix}", tmp_path)
    with (tmp_path / "digits-16-train.npz").open("ab") as file:
        file.write(b"more")
    pngs(tmp_path / "p")
    line = refuse(DATA, "evaluate", "p", "--reference", "digits-16-train.yaml")
    assert "is not the file that digits-16-train.yaml names" in line
