"""Reconstructions against their originals, pair by pair: PSNR, SSIM and LPIPS.

Legend: N pairs, H height, W width, C channels.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
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
from evalsuite.pipeline.decoding import decoded
from evalsuite.pipeline.scoring import all_threads

PAIRED_METRICS = ("psnr", "ssim", "lpips")
_BLOCK = 32
"""Pairs at a time where LPIPS does not say."""
_SLICE = 4
"""Pairs that a thread takes at a time."""
_Compute = Callable[[Images, Images], NDArray[np.float64]]


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
    """All that was asked.

    Attributes:
        values: one for each metric.
        num_identical: pairs that are equal in every pixel.
        images_sha256: of the pixels of the reconstructions, in order.
        originals_sha256: of those of the originals.
    """

    values: tuple[PairedValue, ...]
    num_identical: int
    images_sha256: str
    originals_sha256: str


def pair(samples: SampleSet, originals: SampleSet) -> Pairs:
    """Pair two sets one to one: folders by the names of their files, all else by order.

    A name is the path below the folder without its ending, so that a JPEG may belong to a PNG.

    Raises:
        DataError: the sets differ in number or size of images, or in names; the line says which.
    """
    names, wanted = image_names(samples), image_names(originals)
    if names is not None and wanted is not None:
        _check_names(samples.where, names, originals.where, wanted)
    elif samples.num_images != originals.num_images:
        more, fewer = sorted((samples, originals), key=lambda s: -s.num_images)
        raise DataError(
            f"{samples.where} holds {samples.num_images} images and {originals.where}"
            f" {originals.num_images}: image {fewer.num_images} of {more.where} and those after it"
            " have no partner"
        )
    if samples.size != originals.size:
        here, there = (f"{s.size[0]}x{s.size[1]}" for s in (samples, originals))
        raise DataError(
            f"images of {samples.where} are {here} (height x width) and those of"
            f" {originals.where} {there}: pairs need one size"
        )
    return Pairs(samples, originals, "order" if names is None or wanted is None else "names")


def image_names(samples: SampleSet) -> tuple[str, ...] | None:
    """Names without endings of images that are files, in the set's order; None of other sources."""
    if samples.names is None:
        return None
    return tuple(str(PurePosixPath(name).with_suffix("")) for name in samples.names)


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
    pairs: Pairs,
    metrics: Sequence[str],
    device: torch.device,
    lpips: Lpips | None = None,
    workers: int = 1,
) -> PairedScores:
    """Compute metrics of pairs, reading both sets once, some images at a time.

    Args:
        pairs: what `pair` gave.
        metrics: of `parse_paired_metrics`.
        device: where SSIM is computed; LPIPS has its own.
        lpips: the network, where LPIPS is asked.
        workers: threads that compute PSNR and SSIM, and processes that decode; the numbers do not
            depend on it.

    Raises:
        DataError: images that cannot be read, or are too small for a metric.
    """
    size = lpips.batch_size if lpips is not None else _BLOCK
    parts: dict[str, list[NDArray[np.float64]]] = {name: [] for name in metrics}
    num_identical = num_read = 0
    digests = (hashlib.sha256(), hashlib.sha256())
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for images, originals in _blocks(pairs, size, workers):
            num_read += len(images)
            for digest, pixels in zip(digests, (images, originals), strict=True):
                digest.update(np.ascontiguousarray(pixels).data)
            num_identical += int((images == originals).all(axis=(1, 2, 3)).sum())
            for name in metrics:
                if name == "lpips":
                    parts[name].append(_lpips(lpips, images, originals))
                else:
                    parts[name].append(_spread(_computation(name, device), images, originals, pool))
    if num_read != pairs.num_pairs:
        raise CorruptionError(
            f"{pairs.samples.where} gave {num_read} of its {pairs.num_pairs} images"
        )
    values = tuple(_mean_of(name, np.concatenate(parts[name]), lpips) for name in metrics)
    return PairedScores(values, num_identical, *(digest.hexdigest() for digest in digests))


def _blocks(pairs: Pairs, size: int, workers: int) -> Iterator[tuple[Images, Images]]:
    """Images and their originals, `size` at a time, each set decoded ahead by half the workers."""
    with contextlib.ExitStack() as stack:
        first, second = (
            stack.enter_context(
                contextlib.closing(decoded(one, 0, pairs.num_pairs, size, workers // 2))
            )
            for one in (pairs.samples, pairs.originals)
        )
        yield from zip(first, second, strict=True)


def _computation(name: str, device: torch.device) -> _Compute:
    return psnr if name == "psnr" else lambda images, originals: ssim(images, originals, device)


def _spread(
    compute: _Compute, images: Images, originals: Images, pool: ThreadPoolExecutor
) -> NDArray[np.float64]:
    """Values of all pairs; each is computed by itself, so that threads change nothing."""
    slices = [slice(start, start + _SLICE) for start in range(0, len(images), _SLICE)]
    return np.concatenate(
        list(pool.map(lambda part: compute(images[part], originals[part]), slices))
    )


def _lpips(lpips: Lpips | None, images: Images, originals: Images) -> NDArray[np.float64]:
    """LPIPS takes whole batches: the last is filled up, and cut again."""
    assert lpips is not None
    missing = lpips.batch_size - len(images)
    padding = ((0, missing), (0, 0), (0, 0), (0, 0))
    with all_threads():
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


def _check_names(where: str, names: Sequence[str], originals: str, wanted: Sequence[str]) -> None:
    """Raise DataError unless both hold the same names in the same order, each once."""
    for folder, found in ((where, names), (originals, wanted)):
        seen: set[str] = set()
        for name in found:
            if name in seen:
                raise DataError(f"{folder} holds {name} with several endings: it is no one's pair")
            seen.add(name)
    lonely, missing = sorted(set(names) - set(wanted)), sorted(set(wanted) - set(names))
    for here, there, alone in ((where, originals, lonely), (originals, where, missing)):
        if alone:
            more = f" (nor {len(alone) - 1} more)" if len(alone) > 1 else ""
            raise DataError(
                f"{here} has {alone[0]} and {there} has not{more}: folders are paired by the names"
                " of their files"
            )
    if list(names) != list(wanted):
        first = next(a for a, b in zip(names, wanted, strict=True) if a != b)
        raise DataError(
            f"{where} and {originals} hold the same names, but endings put {first} in different"
            " places: use one format for both"
        )
