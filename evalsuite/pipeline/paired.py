"""Reconstructions against their originals, pair by pair: PSNR, SSIM and LPIPS.

Legend: N pairs, H height, W width, C channels.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from evalsuite.artifacts.images import Images
from evalsuite.artifacts.samples import SampleSet
from evalsuite.config import Scalar
from evalsuite.errors import CorruptionError, DataError, UsageError, nearest
from evalsuite.features.lpips.network import VERSION, Lpips
from evalsuite.metrics.intervals import standard_error
from evalsuite.metrics.reconstruction import PSNR_PROTOCOL, SSIM_PROTOCOL, psnr, ssim

PAIRED_METRICS = ("psnr", "ssim", "lpips")
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_SHARDS = (".parquet", ".npz")
_BLOCK = 16
"""Pairs at a time where LPIPS does not say."""


class Pairs(NamedTuple):
    """Two sets of which each image of one belongs to the image of the other at the same place."""

    samples: SampleSet
    originals: SampleSet
    paired_by: Literal["names", "order"]

    @property
    def num_pairs(self) -> int:
        """How many pairs there are."""
        return self.samples.num_images


class PairedValue(NamedTuple):
    """The mean of one metric over pairs.

    Attributes:
        metric: `psnr`, `ssim`, `lpips-alex` or `lpips-vgg`.
        value: the mean; infinite for the PSNR of pairs that are all identical.
        standard_error: of the mean over images, None below two values.
        values_N: float64 [N], of every pair, infinite ones too.
        details: what decides the number, for the protocol.
        notes: what a reader must know.
    """

    metric: str
    value: float
    standard_error: float | None
    values_N: NDArray[np.float64]
    details: Mapping[str, Scalar]
    notes: tuple[str, ...]


class PairedScores(NamedTuple):
    """All that was asked, and how many pairs are equal in every pixel."""

    values: tuple[PairedValue, ...]
    num_identical: int


def pair(samples: SampleSet, originals: SampleSet) -> Pairs:
    """Pair two sets one to one: folders by the names of their files, all else by order.

    A name is the path below the folder without its ending, so that a JPEG may belong to a PNG.

    Raises:
        DataError: the sets differ in number or size of images, or in names; the line says which.
    """
    if samples.num_images != originals.num_images:
        raise DataError(
            f"{samples.where} holds {samples.num_images} images and {originals.where}"
            f" {originals.num_images}: pairs need as many of each"
        )
    if samples.size != originals.size:
        here, there = (f"{s.size[0]}x{s.size[1]}" for s in (samples, originals))
        raise DataError(
            f"images of {samples.where} are {here} (height x width) and those of"
            f" {originals.where} {there}: pairs need one size"
        )
    names, wanted = image_names(samples), image_names(originals)
    if names is None or wanted is None:
        return Pairs(samples, originals, "order")
    _check_names(samples.where, names, originals.where, wanted)
    return Pairs(samples, originals, "names")


def image_names(samples: SampleSet) -> tuple[str, ...] | None:
    """Names without endings of a folder's images, in the set's order; None of other sources.

    A run, or another folder of shards, is another source.

    Raises:
        DataError: the folder holds other images than were opened.
    """
    folder = Path(samples.where)
    if not folder.is_dir():
        return None
    files = sorted(_files_below(folder))
    if not files or any(file.endswith(_SHARDS) for file in files):
        return None
    if len(files) != samples.num_images:
        raise DataError(
            f"{folder} holds {len(files)} images now, but {samples.num_images} were opened"
        )
    return tuple(str(PurePosixPath(file).with_suffix("")) for file in files)


def parse_paired_metrics(text: str | None, *, has_lpips: bool) -> list[str]:
    """Names from a comma-separated list; without one all, LPIPS where it has weights.

    Raises:
        UsageError: an unknown name, or LPIPS without weights.
    """
    names = PAIRED_METRICS[: 3 if has_lpips else 2]
    asked = names if text is None else [n.strip() for n in text.split(",") if n.strip()]
    for name in asked:
        if name not in PAIRED_METRICS:
            raise UsageError(f"unknown paired metric {name!r}: {nearest(name, PAIRED_METRICS)}")
    if "lpips" in asked and not has_lpips:
        raise UsageError("LPIPS needs its weights: give --lpips-weights FILE, once for each file")
    return [name for name in PAIRED_METRICS if name in asked]


def score_paired(
    pairs: Pairs, metrics: Sequence[str], device: torch.device, lpips: Lpips | None = None
) -> PairedScores:
    """Compute metrics of pairs, reading both sets once, some images at a time.

    Args:
        pairs: what `pair` gave.
        metrics: of `parse_paired_metrics`.
        device: where SSIM is computed; LPIPS has its own.
        lpips: the network, where LPIPS is asked.

    Raises:
        DataError: images that cannot be read, or are too small for a metric.
    """
    size = lpips.batch_size if lpips is not None else _BLOCK
    parts: dict[str, list[NDArray[np.float64]]] = {name: [] for name in metrics}
    num_identical = num_read = 0
    for images, originals in zip(
        _blocks(pairs.samples, size), _blocks(pairs.originals, size), strict=True
    ):
        num_read += len(images)
        num_identical += int((images == originals).all(axis=(1, 2, 3)).sum())
        for name in metrics:
            parts[name].append(_values(name, images, originals, device, lpips))
    if num_read != pairs.num_pairs:
        raise CorruptionError(
            f"{pairs.samples.where} gave {num_read} of its {pairs.num_pairs} images"
        )
    values = tuple(_mean_of(name, np.concatenate(parts[name]), lpips) for name in metrics)
    return PairedScores(values, num_identical)


def _values(
    name: str, images: Images, originals: Images, device: torch.device, lpips: Lpips | None
) -> NDArray[np.float64]:
    if name == "psnr":
        return psnr(images, originals)
    if name == "ssim":
        return ssim(images, originals, device)
    assert lpips is not None
    missing = lpips.batch_size - len(images)
    padding = ((0, missing), (0, 0), (0, 0), (0, 0))
    distances_N = lpips(np.pad(images, padding), np.pad(originals, padding))
    return distances_N[: len(images)]


def _mean_of(name: str, values_N: NDArray[np.float64], lpips: Lpips | None) -> PairedValue:
    if name == "lpips":
        assert lpips is not None
        details = {"version": VERSION, "weights_sha256": lpips.weights_sha256}
        return _averaged(f"lpips-{lpips.backbone}", values_N, details, ())
    if name == "ssim":
        return _averaged(name, values_N, SSIM_PROTOCOL, ())
    num_infinite = int(np.isinf(values_N).sum())
    notes = (
        f"{num_infinite} of {len(values_N)} pairs are identical: their PSNR is infinite and is"
        " left out of the mean",
    )
    return _averaged(name, values_N, PSNR_PROTOCOL, notes if num_infinite else ())


def _averaged(
    name: str,
    values_N: NDArray[np.float64],
    details: Mapping[str, Scalar],
    notes: tuple[str, ...],
) -> PairedValue:
    finite = values_N[np.isfinite(values_N)]
    mean = float(finite.mean()) if len(finite) else float("inf")
    error = standard_error(finite) if len(finite) > 1 else None
    return PairedValue(name, mean, error, values_N, details, notes)


def _blocks(samples: SampleSet, size: int) -> Iterator[Images]:
    """All images, `size` at a time, the last block with the rest."""
    held: list[Images] = []
    for portion in samples.portions(samples.num_images):
        held.append(portion)
        if sum(map(len, held)) >= size:
            images = np.concatenate(held)
            whole = len(images) // size * size
            yield from (images[start : start + size] for start in range(0, whole, size))
            held = [images[whole:]] if whole < len(images) else []
    if held:
        yield np.concatenate(held)


def _files_below(folder: Path) -> Iterator[str]:
    """Relative POSIX paths of images and shards that are not hidden."""
    for here, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if name.lower().endswith(_SUFFIXES + _SHARDS) and not name.startswith("."):
                yield (Path(here) / name).relative_to(folder).as_posix()


def _check_names(where: str, names: Sequence[str], originals: str, wanted: Sequence[str]) -> None:
    """Raise DataError unless both hold the same names in the same order, each once."""
    for folder, found in ((where, names), (originals, wanted)):
        if len(set(found)) < len(found):
            twice = next(name for name in found if found.count(name) > 1)
            raise DataError(f"{folder} holds {twice} with several endings: it is no one's pair")
    lonely, missing = sorted(set(names) - set(wanted)), sorted(set(wanted) - set(names))
    if lonely:
        more = f" ({len(lonely)} such names)" if len(lonely) > 1 else ""
        raise DataError(
            f"{where} has {lonely[0]} and {originals} has not, but {missing[0]}{more}: pairs need"
            " the same names"
        )
    if list(names) != list(wanted):
        first = next(a for a, b in zip(names, wanted, strict=True) if a != b)
        raise DataError(
            f"{where} and {originals} hold the same names, but endings put {first} in different"
            " places: use one format for both"
        )
