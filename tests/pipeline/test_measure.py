"""What is refused before a forward pass: too few samples or reference images for a protocol."""

from pathlib import Path

import numpy as np
import pytest
from run_maker import measure

from evalsuite.config import ProtocolSpec, load_spec
from evalsuite.errors import DataError
from evalsuite.pipeline.measure import Measure, check


def against(tmp_path: Path, num_images: int, metric: str, protocol: str) -> Measure:
    """A metric by a protocol against digits-sized images, on the digits extractor."""
    path = tmp_path / "reference.npz"
    np.savez(path, arr_0=np.zeros((num_images, 16, 16, 3), np.uint8))
    asked = measure(str(path), [metric])
    return asked._replace(protocol=load_spec(ProtocolSpec, protocol))


@pytest.mark.parametrize(
    ("protocol", "metric", "samples", "images", "remedy"),
    [
        ("torch-fidelity", "kid", 1000, 1000, "a protocol whose kid is over all pairs"),
        ("dgm-eval", "density", 6, 6, "take more samples, or leave it out"),
        ("digits", "recall", 4, 4, "take more samples, or leave it out"),
        ("jit", "inception_score", 10, 2, "take more samples, or leave it out"),
        ("digits", "fid_infinity", 512, 2, "kid, which has no bias"),
    ],
)
def test_the_fewest_are_those_of_protocol_and_width(
    tmp_path: Path, protocol: str, metric: str, samples: int, images: int, remedy: str
) -> None:
    asked = against(tmp_path, images, metric, protocol)
    check(asked, samples)
    few = f"^{metric} needs at least {samples} samples, not {samples - 1}.*{remedy}"
    with pytest.raises(DataError, match=few):
        check(asked, samples - 1)
    if images > 2:
        asked = against(tmp_path, images - 1, metric, protocol)
        few = f"^{metric} needs at least {images} reference images, not {images - 1}.*another ref"
        with pytest.raises(DataError, match=few):
            check(asked, samples)
