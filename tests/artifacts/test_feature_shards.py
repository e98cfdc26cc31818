"""Feature shards: what is written is read, equal features give equal bytes, bad files are named."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from evalsuite.artifacts.features import FeatureTable, decode_features, encode_features, join
from evalsuite.errors import CorruptionError


def table(
    start: int, count: int, *, spatial: bool = True, probabilities: bool = True
) -> FeatureTable:
    """Features that say which sample they are of."""
    pool = np.arange(start, start + count, dtype=np.float32)[:, None] + np.linspace(0, 0.5, 4)
    pool = pool.astype(np.float32)
    return FeatureTable(
        start, pool, pool * 2 if spatial else None, pool * 3 if probabilities else None
    )


def same(a: FeatureTable, b: FeatureTable) -> None:
    """Equal starts and equal bits."""
    assert a.start == b.start
    for ours, theirs in zip(a[1:], b[1:], strict=True):
        if ours is None or theirs is None:
            assert ours is theirs
        else:
            assert ours.dtype == theirs.dtype == np.float32
            np.testing.assert_array_equal(ours, theirs)


@given(st.integers(0, 2**40), st.integers(1, 20), st.booleans(), st.booleans())
def test_features_read_back(start: int, count: int, spatial: bool, probabilities: bool) -> None:
    """Parts that the extractor does not define stay absent."""
    ours = table(start, count, spatial=spatial, probabilities=probabilities)
    content = encode_features(ours)
    same(decode_features(content, "shard"), ours)
    assert encode_features(ours) == content


def test_features_that_are_not_contiguous_are_written_right() -> None:
    """A view with strides is not its memory."""
    wide = np.arange(24, dtype=np.float32).reshape(4, 6)
    ours = FeatureTable(0, wide[:, ::2], None, None)
    same(decode_features(encode_features(ours), "shard"), ours)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5))
def test_joining_parts_is_the_whole(sizes: list[int]) -> None:
    starts = np.cumsum([3, *sizes])
    parts = [table(int(low), size) for low, size in zip(starts, sizes, strict=False)]
    same(join(parts), table(3, sum(sizes)))


def test_rows_are_named_by_sample() -> None:
    same(table(10, 8).rows(12, 15), table(12, 3))


def test_a_part_that_one_table_lacks_is_absent_in_the_whole() -> None:
    joined = join([table(0, 2), table(2, 2, spatial=False)])
    assert joined.spatial_NP is None
    assert len(joined.pool_ND) == 4


def test_files_that_are_no_feature_shards() -> None:
    good = encode_features(table(0, 4))
    pool = np.zeros((3, 2), np.float32)
    faulty = [
        b"",
        good[:-5],
        good[:10],
        save({"pool": pool}),
        save({"sample_index": np.arange(3), "spatial": pool}),
        save({"sample_index": np.arange(4), "pool": pool}),
        save({"sample_index": np.array([0, 2, 3]), "pool": pool}),
        save({"sample_index": np.zeros(0, np.int64), "pool": pool[:0]}),
    ]
    for content in faulty:
        with pytest.raises(CorruptionError, match="the shard"):
            decode_features(content, "the shard")
