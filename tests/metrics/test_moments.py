"""Streaming moments: truths, any partition, stability, refusals."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalsuite.errors import DataError
from evalsuite.metrics.moments import BLOCK_ROWS, MomentsAccumulator, moments_of


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(lambda s: sum(s) >= 2),
    merged=st.lists(st.booleans(), min_size=6, max_size=6),
)
def test_any_partition_into_updates_and_merges_gives_the_moments_of_the_whole(seed, sizes, merged):
    features_ND = np.random.default_rng(seed).normal(3.0, 2.0, size=(sum(sizes), 4))
    accumulator = MomentsAccumulator()
    start = 0
    for size, by_merge in zip(sizes, merged, strict=False):
        part_ND = features_ND[start : start + size]
        start += size
        if by_merge:
            other = MomentsAccumulator()
            other.update(part_ND)
            accumulator.merge(other)
        else:
            accumulator.update(part_ND)
    moments = accumulator.result()
    assert moments.count == sum(sizes)
    assert moments.dim == 4
    np.testing.assert_allclose(moments.mean_D, features_ND.mean(axis=0), rtol=0, atol=1e-13)
    np.testing.assert_allclose(
        moments.cov_DD, np.cov(features_ND, rowvar=False), rtol=0, atol=1e-12
    )


def test_blocks_inside_one_update_do_not_show():
    features_ND = np.random.default_rng(0).normal(size=(BLOCK_ROWS + 7, 3))
    moments = moments_of(features_ND)
    assert moments.count == BLOCK_ROWS + 7
    np.testing.assert_allclose(moments.cov_DD, np.cov(features_ND, rowvar=False), atol=1e-13)


def test_a_mean_far_from_zero_does_not_eat_the_covariance():
    # A sum of squares in float64 would leave an error of about 1e16 * 1e-16 = 1 here.
    features_ND = np.random.default_rng(0).normal(size=(500, 2))
    accumulator = MomentsAccumulator()
    for part in np.split(features_ND + 1e8, 5):
        accumulator.update(part)
    np.testing.assert_allclose(
        accumulator.result().cov_DD, np.cov(features_ND, rowvar=False), atol=1e-6
    )


def test_merging_leaves_the_other_accumulator_alone():
    first, second = MomentsAccumulator(), MomentsAccumulator()
    second.update(np.array([[0.0], [2.0]]))
    first.merge(second)
    first.update(np.array([[100.0]]))
    assert second.result().mean_D.tolist() == [1.0]
    assert second.result().cov_DD.tolist() == [[2.0]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_float32_and_float64_are_summed_in_float64(dtype):
    # 2**24 + 1 has no float32, nor has the mean of these.
    features_ND = np.array([[2.0**24], [1.0], [1.0]], dtype=dtype)
    moments = moments_of(features_ND)
    assert moments.mean_D.dtype == moments.cov_DD.dtype == np.float64
    assert moments.mean_D[0] == (2.0**24 + 2) / 3


def test_float16_is_refused_by_name():
    with pytest.raises(DataError, match=r"features are float16.*float32"):
        moments_of(np.zeros((4, 2), dtype=np.float16))


def test_bad_rows_are_counted_named_in_the_stream_and_not_added():
    accumulator = MomentsAccumulator()
    accumulator.update(np.zeros((10, 2)))
    features_ND = np.zeros((5, 2), dtype=np.float32)
    features_ND[3, 1] = np.nan
    features_ND[4, 0] = np.inf
    with pytest.raises(DataError, match="in 2 of 5 rows, the first is row 13"):
        accumulator.update(features_ND)
    assert accumulator.result().count == 10


def test_the_first_bad_row_is_found_beyond_the_first_block():
    features_ND = np.zeros((BLOCK_ROWS + 5, 1), dtype=np.float32)
    features_ND[BLOCK_ROWS + 2] = np.nan
    with pytest.raises(DataError, match=f"in 1 of {BLOCK_ROWS + 5} rows.*row {BLOCK_ROWS + 2}$"):
        moments_of(features_ND)


def test_too_few_samples_and_other_dimensions_are_refused():
    with pytest.raises(DataError, match="at least 2 samples, there are 0"):
        MomentsAccumulator().result()
    with pytest.raises(DataError, match="at least 2 samples, there are 1"):
        moments_of(np.zeros((1, 3)))
    first, second = MomentsAccumulator(), MomentsAccumulator()
    first.update(np.zeros((4, 3)))
    second.update(np.zeros((4, 2)))
    with pytest.raises(DataError, match="2 dimensions, the earlier ones have 3"):
        first.merge(second)
    with pytest.raises(DataError, match="2 dimensions, the earlier ones have 3"):
        first.update(np.zeros((4, 2)))


@pytest.mark.parametrize("features", [np.zeros(3), np.zeros((3, 2), dtype=np.int64)])
def test_what_is_not_a_float_matrix_is_a_programmers_error(features):
    with pytest.raises(ValueError, match="features must be a matrix of floats"):
        moments_of(features)
