"""Distances: float16 as TensorFlow rounds it, its choice for each block, and exact float32."""

import numpy as np
import pytest
import torch

from evalsuite.errors import DataError
from evalsuite.metrics.distances import (
    Arithmetic,
    Distances,
    points_of,
    tiles,
)
from evalsuite.metrics.exact_arithmetic import exact_float32
from evalsuite.metrics.float16_sums import squared_norms

CPU = torch.device("cpu")
HALF = Arithmetic.ADM_FLOAT16
TENSORFLOW_SUMS = {
    1: [0.50244140625, 1.5, 5.960464477539063e-08, 0.264404296875],
    7: [8.1640625, 4.57421875, 6.8984375, 8.4921875],
    31: [25.234375, 21.328125, 23.65625, 34.59375],
    33: [32.4375, 19.890625, 40.96875, 43.3125],
    300: [285.75, 279.75, 284.75, 291.25],
    1601: [1526.0, 1554.0, 1563.0, 1446.0],
    2023: [1947.0, 1920.0, 1946.0, 1963.0],
    2048: [1926.0, 1954.0, 1969.0, 2048.0],
}
"""tensorflow-cpu 2.21: reduce_sum(square(cast(x, float16)), 1) of `uniform(width)`, by width."""


def uniform(width):
    return (np.random.RandomState(width).random_sample((4, width)) * 1.7).astype(np.float32)


def half_points(features_ND):
    return points_of(np.asarray(features_ND, dtype=np.float32), "features", HALF, CPU)


def float16_distances(u_ND, v_MD):
    """ADM's expression in numpy's float16, with the norms given by `squared_norms`."""
    nu = squared_norms(torch.from_numpy(u_ND)).numpy()
    nv = squared_norms(torch.from_numpy(v_MD)).numpy()
    u, v = (x.astype(np.float16).astype(np.float64) for x in (u_ND, v_MD))
    with np.errstate(over="ignore"):
        product = (u @ v.T).astype(np.float16)
        return np.maximum((nu[:, None] - np.float16(2) * product) + nv, np.float16(0))


@pytest.mark.parametrize("width", list(TENSORFLOW_SUMS))
def test_squared_norms_are_tensorflows(width):
    assert squared_norms(torch.from_numpy(uniform(width))).tolist() == TENSORFLOW_SUMS[width]


def test_squared_norms_do_not_depend_on_the_block_of_rows():
    features = torch.rand(2500, 37, generator=torch.Generator().manual_seed(0))
    norms = squared_norms(features)
    # Rows that begin at the same place of a packet are summed alike.
    assert torch.equal(norms[1024:2048], squared_norms(features[1024:2048]))
    assert torch.equal(norms[2048:], squared_norms(features[2048:]))


def test_float16_sums_and_differences_are_rounded_once():
    """Float64 holds every sum of two halves exactly, so its rounding is the right one."""
    bits = np.random.default_rng(0).integers(0, 1 << 16, size=(2, 1_000_000), dtype=np.uint16)
    a, b = (row.view(np.float16) for row in bits)
    finite = np.isfinite(a) & np.isfinite(b)
    a, b = a[finite], b[finite]
    with np.errstate(over="ignore"):
        right = (a.astype(np.float64) + b.astype(np.float64)).astype(np.float16)
        left = (a.astype(np.float64) - b.astype(np.float64)).astype(np.float16)
    a, b = torch.from_numpy(a), torch.from_numpy(b)
    assert np.array_equal((a + b).numpy(), right)
    assert np.array_equal((a - b).numpy(), left)
    assert np.array_equal((a.float() + b.float()).half().numpy(), right)


@pytest.mark.parametrize("dim", [5, 64, 300])
def test_float16_tiles_equal_the_expression_in_numpy(dim):
    rng = np.random.default_rng(dim)
    u_ND, v_MD = (np.abs(rng.normal(size=(n, dim))).astype(np.float32) for n in (60, 45))
    distances = Distances(half_points(u_ND), half_points(v_MD))
    tile = distances.tile(slice(10, 60), slice(0, 45)).numpy()
    same = tile == float16_distances(u_ND, v_MD)[10:]
    # A product in the middle of two halves may be rounded otherwise after a sum in float32.
    assert same.mean() > 0.999
    assert tile.dtype == np.float32


def test_the_mirrored_tile_is_the_tile_of_the_mirrored_pair():
    rng = np.random.default_rng(3)
    features_ND = (rng.random(size=(90, 64)) * rng.random(size=(90, 1))).astype(np.float32)
    rows, columns = slice(0, 40), slice(40, 90)
    for arithmetic in Arithmetic:
        points = points_of(features_ND, "features", arithmetic, CPU)
        distances = Distances(points, points)
        block, back = distances.both(rows, columns)
        assert torch.equal(block, distances.tile(rows, columns))
        torch.testing.assert_close(back, distances.tile(columns, rows), rtol=1e-5, atol=1e-2)
    half = Distances(half_points(features_ND), half_points(features_ND))
    block, back = half.both(rows, columns)
    # Norms that are added in another order are rounded otherwise.
    assert not torch.equal(block, back.T)
    assert torch.equal(back, half.tile(columns, rows))


def test_a_single_column_is_mirrored_as_well():
    """Its transpose is contiguous without being copied."""
    features_ND = np.random.default_rng(8).normal(size=(9, 4)).astype(np.float32)
    points = points_of(features_ND, "features", Arithmetic.FLOAT32, CPU)
    distances = Distances(points, points)
    block, back = distances.both(slice(0, 8), slice(8, 9))
    assert torch.equal(block, distances.tile(slice(0, 8), slice(8, 9)))
    torch.testing.assert_close(back, block.T)


def test_a_block_with_an_infinite_norm_is_float32_as_a_whole():
    features_ND = np.random.default_rng(4).normal(size=(30, 8)).astype(np.float32)
    large_ND = features_ND.copy()
    large_ND[29] = 1000
    distances = Distances(half_points(large_ND), half_points(large_ND))
    exact = ((large_ND[:, None].astype(np.float64) - large_ND) ** 2).sum(axis=2)
    tile = distances.tile(slice(0, 10), slice(10, 20)).numpy()
    np.testing.assert_allclose(tile, exact[:10, 10:20], rtol=1e-5)
    assert not np.array_equal(tile, tile.astype(np.float16))


def test_blocks_of_ten_thousand_choose_by_themselves_and_by_direction():
    features_ND = np.random.default_rng(5).normal(size=(10_030, 2)).astype(np.float32)
    features_ND[10_015] = 1000
    points = half_points(features_ND)
    distances = Distances(points, points)
    first, last = slice(0, 20), slice(10_000, 10_020)

    def is_half(tile):
        return np.array_equal(tile.numpy(), tile.numpy().astype(np.float16))

    assert is_half(distances.tile(first, slice(20, 40)))
    for rows, columns in ((first, last), (last, first), (last, last)):
        with np.errstate(over="ignore"):
            assert not is_half(distances.tile(rows, columns))


def test_a_distance_beyond_float16_is_found_by_trying():
    """Norms fit, their sum does not: only opposite points make the block float32."""
    near_ND, far_ND = np.full((4, 2), 140.0), np.full((4, 2), -140.0)
    same = Distances(half_points(near_ND), half_points(near_ND))
    opposite = Distances(half_points(near_ND), half_points(far_ND))
    everything = slice(0, 4)
    # 2 u.v is infinite in float16, so the distance is 0 by the maximum, in ADM as well.
    assert (same.tile(everything, everything) == 0).all()
    assert (opposite.tile(everything, everything) == 2 * 280.0**2).all()
    doubled = Distances(half_points([[140, 140]]), half_points([[150, 150]]))
    assert doubled.tile(slice(0, 1), slice(0, 1)).item() == 0.0


def test_reordered_points_keep_the_norms_of_their_place():
    features_ND = uniform(2023)
    order_N = np.array([2, 0, 3, 1])
    straight = points_of(features_ND, "features", HALF, CPU)
    turned = points_of(features_ND, "features", HALF, CPU, order_N)
    assert straight.half_norms_N.tolist() == TENSORFLOW_SUMS[2023]
    assert turned.half_norms_N.tolist() == straight.half_norms_N[order_N].tolist()
    assert torch.equal(turned.features_ND, straight.features_ND[order_N])


def test_tiles_cover_everything_and_stay_in_their_block():
    pieces = tiles(20_005, 7000)
    assert [(piece.start, piece.stop) for piece in pieces] == [
        (0, 7000),
        (7000, 10_000),
        (10_000, 17_000),
        (17_000, 20_000),
        (20_000, 20_005),
    ]


def test_products_are_exact_whatever_the_process_allows():
    features_ND = np.random.default_rng(6).normal(size=(64, 256)).astype(np.float32)
    points = points_of(features_ND, "features", Arithmetic.FLOAT32, CPU)
    everything = slice(0, 64)
    with exact_float32(CPU):
        expected = Distances(points, points).tile(everything, everything)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with exact_float32(CPU):
            found = Distances(points, points).tile(everything, everything)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(found, expected)


def test_features_that_cannot_be_used_are_refused():
    good = np.zeros((3, 2), dtype=np.float32)
    with pytest.raises(DataError, match=r"samples are float16.*float32 that the network"):
        points_of(good.astype(np.float16), "samples", Arithmetic.FLOAT32, CPU)
    with pytest.raises(DataError, match="in 1 of 3 rows, the first is row 2"):
        points_of(np.array([[0.0], [1.0], [np.inf]]), "samples", HALF, CPU)
    with pytest.raises(ValueError, match="matrix of floats"):
        points_of(good.astype(np.int64), "samples", HALF, CPU)


def test_read_only_features_are_used_as_they_are():
    features_ND = np.random.default_rng(7).normal(size=(6, 3)).astype(np.float32)
    features_ND.flags.writeable = False
    points = points_of(features_ND, "features", Arithmetic.FLOAT32, CPU)
    assert np.array_equal(points.features_ND.numpy(), features_ND)
