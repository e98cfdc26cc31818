"""Pairs of reconstructions and originals: who belongs to whom, refusals, means, errors, notes."""

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from evalsuite.artifacts.run_directory import RunDirectory
from evalsuite.artifacts.samples import open_samples
from evalsuite.errors import DataError, UsageError
from evalsuite.features.lpips.network import Lpips, lpips_shapes
from evalsuite.metrics.reconstruction import psnr, ssim
from evalsuite.pipeline.evaluation import samples_of_run
from evalsuite.pipeline.paired import (
    PairedScores,
    image_names,
    pair,
    parse_paired_metrics,
    score_paired,
)

CPU = torch.device("cpu")
Images = NDArray[np.uint8]


def images_of(count: int, seed: int = 0, size: tuple[int, int] = (36, 32)) -> Images:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, *size, 3)).astype(np.uint8)


def folder_of(path: Path, images: Images, names: list[str]) -> Path:
    path.mkdir(parents=True)
    for image, name in zip(images, names, strict=True):
        (path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(path / name)
    return path


def npz_of(path: Path, images: Images) -> Path:
    np.savez(path, arr_0=images)
    return path


def near(images: Images, seed: int = 1) -> Images:
    """Reconstructions with errors of some levels."""
    errors = np.random.default_rng(seed).normal(0, 6, images.shape)
    return (images + errors).clip(0, 255).astype(np.uint8)


def scores_of(samples: Path, originals: Path, *metrics: str) -> PairedScores:
    pairs = pair(open_samples(samples), open_samples(originals))
    return score_paired(pairs, metrics or ("psnr", "ssim"), CPU)


@pytest.fixture(scope="module")
def lpips() -> Lpips:
    """AlexNet with random weights."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(2)
    weights = {
        key: torch.randn(shape, generator=generator) * 0.1
        for key, shape in lpips_shapes("alex").items()
    }
    return Lpips("alex", {k: v.abs() if k[0] == "l" else v for k, v in weights.items()}, CPU)


def test_means_and_errors_are_over_images(tmp_path: Path) -> None:
    """37 pairs, which no block divides; each error is std / sqrt(N)."""
    originals = images_of(37)
    samples = near(originals)
    found = scores_of(npz_of(tmp_path / "a.npz", samples), npz_of(tmp_path / "b.npz", originals))
    assert found.num_identical == 0
    for value, per_image in zip(
        found.values, (psnr(samples, originals), ssim(samples, originals)), strict=True
    ):
        np.testing.assert_array_equal(value.values_N, per_image)
        assert value.value == pytest.approx(per_image.mean(), rel=1e-12)
        expected = per_image.std(ddof=1) / math.sqrt(37)
        assert value.standard_error == pytest.approx(expected, rel=1e-9)
        assert value.notes == ()
    assert [value.metric for value in found.values] == ["psnr", "ssim"]


def test_lpips_of_any_number_of_pairs(tmp_path: Path, lpips: Lpips) -> None:
    """The last batch is filled up and cut again."""
    originals = images_of(19)
    samples = near(originals)
    samples[3] = originals[3]
    pairs = pair(
        open_samples(npz_of(tmp_path / "a.npz", samples)),
        open_samples(npz_of(tmp_path / "b.npz", originals)),
    )
    (value,) = score_paired(pairs, ["lpips"], CPU, lpips).values
    tail = np.zeros((13, *originals.shape[1:]), np.uint8)
    for start, last in ((0, False), (16, True)):
        a, b = samples[start : start + 16], originals[start : start + 16]
        a, b = (np.concatenate([x, tail]) if last else x for x in (a, b))
        expected = lpips(a, b)[: 3 if last else 16]
        np.testing.assert_array_equal(value.values_N[start : start + 16], expected)
    assert value.values_N[3] == 0
    assert value.value == pytest.approx(value.values_N.mean())
    assert value.metric == "lpips-alex"
    assert value.details["weights_sha256"] == lpips.weights_sha256


def test_identical_pairs_are_counted_and_said(tmp_path: Path) -> None:
    """Their PSNR is infinite: the mean is over the others, and says so; SSIM takes them as 1."""
    originals = images_of(8)
    samples = near(originals)
    samples[2:5] = originals[2:5]
    found = scores_of(npz_of(tmp_path / "a.npz", samples), npz_of(tmp_path / "b.npz", originals))
    assert found.num_identical == 3
    decibels, similarity = found.values
    rest = psnr(samples, originals)[[0, 1, 5, 6, 7]]
    assert decibels.value == pytest.approx(rest.mean(), rel=1e-12)
    assert decibels.standard_error == pytest.approx(rest.std(ddof=1) / math.sqrt(5))
    assert np.isinf(decibels.values_N).sum() == 3
    assert decibels.notes == (
        "3 of 8 pairs are identical: their PSNR is infinite and is left out of the mean",
    )
    assert similarity.value == pytest.approx(ssim(samples, originals).mean(), rel=1e-12)
    assert similarity.notes == ()


def test_a_set_with_itself(tmp_path: Path) -> None:
    path = npz_of(tmp_path / "a.npz", images_of(5))
    found = scores_of(path, path)
    assert found.num_identical == 5
    assert [value.value for value in found.values] == [math.inf, 1.0]
    assert [value.standard_error for value in found.values] == [None, 0.0]


def test_one_pair_has_no_error(tmp_path: Path) -> None:
    originals = images_of(1)
    found = scores_of(
        npz_of(tmp_path / "a.npz", near(originals)), npz_of(tmp_path / "b.npz", originals)
    )
    assert [value.standard_error for value in found.values] == [None, None]


def test_folders_are_paired_by_the_names_of_files(tmp_path: Path) -> None:
    """In whatever order they were written, whatever their endings, hidden files aside."""
    originals = images_of(4)
    names = ["10", "2", "b-1", "b"]
    there = folder_of(tmp_path / "originals", originals, [f"{name}.png" for name in names])
    order = [2, 0, 3, 1]
    webp = tmp_path / "samples"
    webp.mkdir()
    for i in order:
        Image.fromarray(originals[i]).save(webp / f"{names[i]}.webp", lossless=True)
    (webp / ".hidden.png").write_bytes(b"")
    pairs = pair(open_samples(webp), open_samples(there))
    assert (pairs.paired_by, pairs.num_pairs) == ("names", 4)
    assert image_names(pairs.samples) == ("10", "2", "b-1", "b")
    assert score_paired(pairs, ["psnr"], CPU).num_identical == 4


def test_other_sources_are_paired_by_order(tmp_path: Path) -> None:
    """An NPZ has no names, so a folder is taken in the order of its own."""
    images = images_of(3)
    folder = folder_of(tmp_path / "folder", images, ["c.png", "a.png", "b.png"])
    pairs = pair(open_samples(npz_of(tmp_path / "a.npz", images[[1, 2, 0]])), open_samples(folder))
    assert pairs.paired_by == "order"
    assert image_names(pairs.samples) is None
    assert score_paired(pairs, ["ssim"], CPU).num_identical == 3


def test_runs_are_paired_by_order(finished: RunDirectory) -> None:
    """By sample_index, whatever else lies in their folders."""
    samples = samples_of_run(finished, 20)
    pairs = pair(samples, samples)
    assert (pairs.paired_by, pairs.num_pairs) == ("order", 20)
    assert score_paired(pairs, ["ssim"], CPU).num_identical == 20


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["a.png", "b.png", "d.png"], "samples has d and .*originals has not: folders are paired"),
        (["x.png", "y.png", "c.png"], r"samples has x and .*originals has not \(nor 1 more\)"),
        (["a.png", "c.png"], "originals has b and .*samples has not: folders are paired"),
        (["a.png", "b.png", "c.png", "e.png"], "samples has e and .*originals has not"),
        (["a.png", "a.webp", "c.png"], "samples holds a with several endings"),
    ],
)
def test_names_that_differ_are_refused(names: list[str], text: str, tmp_path: Path) -> None:
    images = images_of(4)
    samples = open_samples(folder_of(tmp_path / "samples", images[: len(names)], names))
    originals = folder_of(tmp_path / "originals", images[:3], ["a.png", "b.png", "c.png"])
    with pytest.raises(DataError, match=text) as caught:
        pair(samples, open_samples(originals))
    assert "\n" not in str(caught.value)


def test_endings_that_change_the_order_are_refused(tmp_path: Path) -> None:
    """a.jpg comes before a.k.jpg, and a.png after a.k.png."""
    images = images_of(2)
    samples = open_samples(folder_of(tmp_path / "samples", images, ["a.jpg", "a.k.jpg"]))
    originals = open_samples(folder_of(tmp_path / "originals", images, ["a.png", "a.k.png"]))
    with pytest.raises(DataError, match="endings put a in different places"):
        pair(samples, originals)


def test_sets_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    """Other numbers and other sizes, named."""
    five = open_samples(npz_of(tmp_path / "five.npz", images_of(5)))
    four = open_samples(npz_of(tmp_path / "four.npz", images_of(4)))
    wide = open_samples(npz_of(tmp_path / "wide.npz", images_of(5, size=(36, 40))))
    with pytest.raises(DataError, match=r"four.npz 4: image 4 of .*five.npz and those after"):
        pair(five, four)
    with pytest.raises(DataError, match=r"36x32 \(height x width\) and those of .* 36x40"):
        pair(five, wide)


def test_threads_and_processes_change_nothing(tmp_path: Path) -> None:
    """Of PNG files, which several processes decode."""
    originals = images_of(70, size=(12, 12))
    names = [f"{i:03}.png" for i in range(70)]
    here = folder_of(tmp_path / "a", near(originals), names)
    there = folder_of(tmp_path / "b", originals, names)
    pairs = pair(open_samples(here), open_samples(there))
    one, four = (score_paired(pairs, ["psnr", "ssim"], CPU, workers=n) for n in (1, 4))
    for a, b in zip(one.values, four.values, strict=True):
        np.testing.assert_array_equal(a.values_N, b.values_N)
    assert one[1:] == four[1:]
    digests = [hashlib.sha256(i.tobytes()).hexdigest() for i in (near(originals), originals)]
    assert [one.images_sha256, one.originals_sha256] == digests


def test_metrics_by_name() -> None:
    """All by default, LPIPS only where it has weights."""
    assert parse_paired_metrics(None, has_lpips=False) == ["psnr", "ssim"]
    assert parse_paired_metrics(None, has_lpips=True) == ["psnr", "ssim", "lpips"]
    assert parse_paired_metrics("ssim, psnr", has_lpips=False) == ["psnr", "ssim"]
    with pytest.raises(UsageError, match="--lpips-weights"):
        parse_paired_metrics("lpips", has_lpips=False)
    with pytest.raises(UsageError, match="did you mean 'psnr'"):
        parse_paired_metrics("psnrr", has_lpips=False)


def test_small_images_are_refused_by_the_metric_that_cannot(tmp_path: Path) -> None:
    """PSNR can."""
    path: Any = npz_of(tmp_path / "a.npz", images_of(2, size=(8, 8)))
    assert scores_of(path, path, "psnr").num_identical == 2
    with pytest.raises(DataError, match="SSIM needs at least 11 x 11"):
        scores_of(path, path)
