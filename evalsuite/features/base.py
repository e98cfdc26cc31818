"""What every extractor takes and gives.

Legend: N images, H height, W width, C channels, D pooled width, P spatial width, K classes.
"""

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class FeatureBatch(NamedTuple):
    """Features of N images, float32; a part that the extractor does not define is None."""

    pool_ND: NDArray[np.float32]
    spatial_NP: NDArray[np.float32] | None
    probabilities_NK: NDArray[np.float32] | None


class Extractor(Protocol):
    """A frozen network over uint8 images."""

    batch_size: int
    """Images of one forward pass; every pass has exactly this many."""

    def __call__(self, images_NHWC: NDArray[np.uint8]) -> FeatureBatch:
        """Features of `batch_size` images."""
        ...
