"""The pixels of the digits model do not change unless `NUMERICS_VERSION` is raised.

`tests/pinned/digits_batch0.npz` holds the first batch of the preset's plan and the numerics under
which it was made. Under the same numerics the pixels are equal; elsewhere they may differ in the
last grey level.
Make it again, and raise NUMERICS_VERSION, with `python tests/test_pinned_pixels.py`.
"""

from pathlib import Path

import numpy as np

from evalsuite.config import NUMERICS_VERSION
from evalsuite.pipeline.generation import BatchSampler
from evalsuite.pipeline.numerics import resolve_device
from evalsuite.pipeline.plan import PlanOptions, resolve_plan

PINNED = Path(__file__).parent / "pinned" / "digits_batch0.npz"
LARGEST_SHARE_OF_DIFFERING_VALUES = 0.002


def first_batch() -> tuple[BatchSampler, np.ndarray]:
    resolved = resolve_plan(PlanOptions(model="pixnerd-digits"))
    sampler = BatchSampler(resolved.plan, resolved.materials, resolve_device("cpu"))
    return sampler, sampler.batch(0).rows.images_NHWC


def test_pixels_are_those_of_this_numerics_version() -> None:
    with np.load(PINNED, allow_pickle=False) as pinned:
        expected, numerics_id = pinned["images"], str(pinned["numerics_id"])
        version, plan_id = int(pinned["numerics_version"]), str(pinned["plan_id"])
    sampler, images = first_batch()
    assert version == NUMERICS_VERSION
    assert sampler.plan.plan_id == plan_id, "the preset's plan changed: pin its pixels again"
    if sampler.numerics_id == numerics_id:
        assert np.array_equal(images, expected), "pixels changed: raise NUMERICS_VERSION"
    difference = np.abs(images.astype(int) - expected.astype(int))
    assert difference.max() <= 1
    assert np.mean(difference > 0) <= LARGEST_SHARE_OF_DIFFERING_VALUES


if __name__ == "__main__":
    made_by, made = first_batch()
    np.savez_compressed(
        PINNED,
        images=made,
        numerics_id=np.array(made_by.numerics_id),
        numerics_version=np.array(NUMERICS_VERSION),
        plan_id=np.array(made_by.plan.plan_id),
    )
