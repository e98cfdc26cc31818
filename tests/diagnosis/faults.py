"""Samples with faults put into them, and what `why` says of arrays."""

import functools

import numpy as np
import torch
from numpy.typing import NDArray

from evalsuite.artifacts.samples import SampleSet
from evalsuite.diagnosis.findings import Diagnosis
from evalsuite.diagnosis.gathering import (
    Comparison,
    Subject,
    comparison_of,
    gather,
    subject_of_samples,
)
from evalsuite.diagnosis.probes import diagnose

CPU = torch.device("cpu")
Images = NDArray[np.uint8]


def subject_of(images: Images, labels: NDArray[np.int64] | None) -> Subject:
    """Samples in memory."""
    pixels = np.ascontiguousarray(images)
    size = (pixels.shape[1], pixels.shape[2])
    held = SampleSet(
        "samples", len(pixels), size, labels, None, lambda a, b: iter([pixels[a:b]]), encoded=False
    )
    return subject_of_samples(held)


@functools.cache
def digits() -> Comparison:
    """The digits extractor and the training split, read once."""
    some = np.zeros((20, 16, 16, 3), np.uint8)
    return comparison_of(subject_of(some, None), None, "digits-16-train", None, CPU)


def diagnosed(
    images: Images, labels: NDArray[np.int64] | None, against: Comparison | None = None
) -> Diagnosis:
    """What all probes say."""
    subject = subject_of(images, labels)
    return diagnose(gather(subject, None, against or digits(), CPU))


def truncated(images: Images) -> Images:
    """As if rounded down: half of all values are one level lower."""
    lower = np.random.default_rng(0).random(images.shape) < 0.5
    return np.clip(images.astype(np.int16) - lower, 0, 255).astype(np.uint8)
