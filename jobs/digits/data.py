"""The 1,797 handwritten digits of scikit-learn as 16 x 16 RGB images, and their split.

Legend: N images, H height, W width, C channels.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

SIZE = 16
NUM_CLASSES = 10
HELD_OUT_PER_CLASS = 54
SPLIT_SEED = 20240917


class Digits(NamedTuple):
    """Images uint8 [N,16,16,3] with three equal channels, and their labels int64 [N]."""

    images_NHWC: NDArray[np.uint8]
    labels_N: NDArray[np.int64]


def upscale(values_HW: NDArray[np.float64]) -> NDArray[np.uint8]:
    """One digit, 8 x 8 with values 0..16, as uint8 [16,16,3] by Pillow's bicubic filter."""
    levels = np.round(values_HW * 255 / 16).astype(np.uint8)
    grey = Image.fromarray(levels).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    return np.repeat(np.asarray(grey)[:, :, None], 3, axis=2)


def load_all() -> Digits:
    """All digits in the order of the data set, which is by writer."""
    bunch = load_digits()
    images = np.stack([upscale(values) for values in bunch.images])
    return Digits(images, bunch.target.astype(np.int64))


def split() -> tuple[Digits, Digits]:
    """The training split (1,257) and the held-out split (540, exactly 54 of each class).

    Drawn at random within classes, because the order of the data set is by writer and its tail
    is another distribution. Both keep the order of the data set.
    """
    images, labels = load_all()
    rng = np.random.default_rng(SPLIT_SEED)
    held_out = np.zeros(len(labels), dtype=bool)
    for label in range(NUM_CLASSES):
        members = np.flatnonzero(labels == label)
        held_out[rng.permutation(members)[:HELD_OUT_PER_CLASS]] = True
    return (
        Digits(images[~held_out], labels[~held_out]),
        Digits(images[held_out], labels[held_out]),
    )
