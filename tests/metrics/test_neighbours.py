"""Nearest neighbours against brute force, AuthPct by hand, and counted duplicates."""

import numpy as np
import pytest
import torch

from evalsuite.errors import DataError
from evalsuite.metrics import neighbours
from evalsuite.metrics.authenticity import auth_pct
from evalsuite.metrics.neighbours import count_duplicates, nearest

CPU = torch.device("cpu")


def column(*values):
    return np.array(values, dtype=np.float64)[:, None]


@pytest.mark.parametrize("tile", [7, 1000])
@pytest.mark.parametrize("num_nearest", [1, 4, 50])
def test_nearest_equals_brute_force(num_nearest, tile, monkeypatch):
    monkeypatch.setattr(neighbours, "_TILE", tile)
    rng = np.random.default_rng(0)
    samples_ND = rng.normal(size=(31, 12)).astype(np.float32)
    reference_MD = rng.normal(size=(50, 12)).astype(np.float32)
    exact = np.linalg.norm(samples_ND[:, None].astype(np.float64) - reference_MD, axis=2)
    found = nearest(samples_ND, reference_MD, num_nearest, CPU)
    order = np.argsort(exact, axis=1)[:, :num_nearest]
    assert np.array_equal(found.indices_NQ, order)
    np.testing.assert_allclose(
        found.distances_NQ, np.take_along_axis(exact, order, axis=1), rtol=1e-14
    )


def test_a_copy_is_at_distance_zero_and_ties_come_by_row():
    reference_MD = np.random.default_rng(1).normal(size=(40, 64)).astype(np.float32) * 30
    reference_MD[[20, 5]] = reference_MD[11]
    found = nearest(reference_MD[[11, 3]], reference_MD, 3, CPU)
    assert found.indices_NQ[0].tolist() == [5, 11, 20]
    assert found.distances_NQ[0].tolist() == [0.0, 0.0, 0.0]
    assert (found.indices_NQ[1, 0], found.distances_NQ[1, 0]) == (3, 0.0)


def test_neighbours_that_float32_cannot_tell_apart_are_in_order():
    """Far from the origin |u|^2 - 2 u.v + |v|^2 loses every digit of such differences."""
    reference_MD = 1e4 + column(0.5, 0.25, 0.125, 0.0625, 2000)
    found = nearest(column(1e4), reference_MD, 4, CPU)
    assert found.indices_NQ.tolist() == [[3, 2, 1, 0]]
    assert found.distances_NQ.tolist() == [[0.0625, 0.125, 0.25, 0.5]]


def test_authentic_samples_by_hand():
    # Nearest other images: 0 and 1 have each other at 1, 10 has 1 at 9.
    images_MD = column(0, 1, 10)
    assert auth_pct(column(-0.5), images_MD, CPU) == 0.0
    assert auth_pct(column(-1.0), images_MD, CPU) == 0.0
    assert auth_pct(column(-1.5), images_MD, CPU) == 100.0
    assert auth_pct(column(17, 19.5, 0.25, -3), images_MD, CPU) == 50.0


def test_copies_are_never_authentic_and_repeated_images_hold_nothing():
    rng = np.random.default_rng(2)
    images_MD = rng.normal(size=(30, 8)).astype(np.float32)
    assert auth_pct(images_MD, images_MD, CPU) == 0.0
    # An image that occurs often is at distance 0 from another, so only copies are not authentic.
    repeated_MD = np.repeat(images_MD[:3], 4, axis=0)
    assert auth_pct(images_MD[:3] + np.float32(1e-3), repeated_MD, CPU) == 100.0
    assert auth_pct(images_MD[:3], repeated_MD, CPU) == 0.0


def test_duplicates_are_counted_beyond_the_first():
    features_ND = np.random.default_rng(3).normal(size=(9, 4)).astype(np.float32)
    assert count_duplicates(features_ND) == 0
    features_ND[[4, 7]] = features_ND[1]
    features_ND[8] = features_ND[0]
    assert count_duplicates(features_ND) == 3
    assert count_duplicates(np.array([[0.0], [-0.0], [1.0]])) == 1


def test_what_cannot_be_searched_is_refused():
    good = np.random.default_rng(4).normal(size=(5, 3))
    with pytest.raises(DataError, match="6 neighbours were asked for, the reference has 5"):
        nearest(good, good, 6, CPU)
    with pytest.raises(DataError, match="no samples"):
        nearest(good[:0], good, 1, CPU)
    with pytest.raises(DataError, match="samples have 3 feature dimensions, the reference has 2"):
        nearest(good, good[:, :2], 1, CPU)
    with pytest.raises(DataError, match="reference features are float16"):
        nearest(good, good.astype(np.float16), 1, CPU)
    with pytest.raises(ValueError, match="at least 1"):
        nearest(good, good, 0, CPU)
    with pytest.raises(ValueError, match="must be a matrix"):
        nearest(good[0], good, 1, CPU)
    with pytest.raises(DataError, match="at least 2 training images, there are 1"):
        auth_pct(good, good[:1], CPU)
    bad = good.copy()
    bad[3, 0] = np.nan
    with pytest.raises(DataError, match="the first is row 3"):
        auth_pct(bad, good, CPU)
