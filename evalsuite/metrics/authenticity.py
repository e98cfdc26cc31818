"""AuthPct: how many samples are not copies of training images.

Legend: N generated samples, M training images, D feature dimensions.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from evalsuite.errors import DataError
from evalsuite.metrics.neighbours import nearest


def auth_pct(samples_ND: NDArray[Any], reference_MD: NDArray[Any], device: torch.device) -> float:
    """Percentage of samples that are authentic, 0 to 100.

    A sample is authentic when its nearest training image is nearer to another training image than
    to the sample. At equal distances it is not, so a copy never is.

    Source: Alaa et al. 2022, section 3 ("How faithful is your synthetic data?"); dgm-eval
    `metrics/authpct.py`.

    Args:
        samples_ND: generated samples, float32 or float64 [N, D].
        reference_MD: the images that the model was trained on, likewise [M, D].
        device: where distances are computed.

    Raises:
        DataError: fewer than 2 training images, or as `nearest`.
    """
    if len(reference_MD) < 2:
        raise DataError(f"AuthPct needs at least 2 training images, there are {len(reference_MD)}")
    to_sample_N1, image_N1 = nearest(samples_ND, reference_MD, 1, device)
    image_U, where_N = np.unique(image_N1[:, 0], return_inverse=True)
    to_others_U2, others_U2 = nearest(reference_MD[image_U], reference_MD, 2, device)
    # The image itself is first or, among copies of it, perhaps none of the two.
    itself_first_U = others_U2[:, 0] == image_U
    to_other_U = np.where(itself_first_U, to_others_U2[:, 1], to_others_U2[:, 0])
    return float(100 * (to_other_U[where_N] < to_sample_N1[:, 0]).mean())
