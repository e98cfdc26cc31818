"""KID: its definition, the random subsets, and what is refused."""

import numpy as np
import pytest

from evalsuite.errors import DataError
from evalsuite.metrics.intervals import standard_error
from evalsuite.metrics.kernel_distance import (
    RBF_KERNEL,
    kernel_distance,
    kernel_distance_of_subsets,
    kid_reference,
)


def draw(seed, count=60, dim=8, shift=0.0):
    return np.maximum(np.random.default_rng(seed).normal(size=(count, dim)) + shift, 0)


def by_definition(x_ND, y_MD):
    """Unbiased MMD^2 with the kernel (x.y / D + 1)^3."""
    xx, yy, xy = ((a @ b.T / 8 + 1) ** 3 for a, b in ((x_ND, x_ND), (y_MD, y_MD), (x_ND, y_MD)))
    unlike = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (xx, yy)]
    return sum(unlike) - 2 * xy.mean()


def test_the_distance_is_its_definition_over_all_pairs():
    x_ND, y_MD = draw(0), draw(1, 45, shift=0.2)
    result = kernel_distance(x_ND, kid_reference(y_MD))
    assert result.value == pytest.approx(by_definition(x_ND, y_MD), rel=1e-11)
    assert result.influence_N.shape == (60,)


def test_subsets_of_everything_are_the_distance_itself():
    x_ND, y_MD = draw(2), draw(3, shift=0.2)
    for kernel in (kid_reference(y_MD).kernel, RBF_KERNEL):
        subsets = kernel_distance_of_subsets(x_ND, y_MD, kernel, 3, 60)
        exact = kernel_distance(x_ND, kid_reference(y_MD, kernel)).value
        assert subsets.mean == pytest.approx(exact, rel=1e-9)
        assert subsets.std < 1e-12


def test_subsets_are_random_and_the_same_each_time():
    x_ND, y_MD = draw(4), draw(5, 80, shift=0.2)
    first = kernel_distance_of_subsets(x_ND, y_MD, num_subsets=40, subset_size=20)
    assert first == kernel_distance_of_subsets(x_ND, y_MD, num_subsets=40, subset_size=20)
    assert first.std > 0
    assert abs(first.mean - by_definition(x_ND, y_MD)) < 4 * first.std / np.sqrt(40)


def test_the_error_of_the_mean_over_subsets_is_what_repeats_show():
    """Shuffled references stand for other draws of subsets, whose seed is fixed."""
    y_MD = draw(6, 80, shift=0.4)
    rng = np.random.default_rng(7)
    means, errors, plain = [], [], []
    for seed in range(250):
        x_ND = draw(100 + seed)
        subsets = kernel_distance_of_subsets(
            x_ND, rng.permutation(y_MD), num_subsets=20, subset_size=6
        )
        influence_N = kernel_distance(x_ND, kid_reference(y_MD)).influence_N
        means.append(subsets.mean)
        plain.append(standard_error(influence_N))
        errors.append(subsets.standard_error(plain[-1], num_subsets=20))
    spread = np.std(means, ddof=1)
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(spread, rel=0.15)
    covered = np.abs(means - np.mean(means)) < 1.96 * np.array(errors)
    assert 0.9 < covered.mean() <= 0.99
    assert np.sqrt(np.mean(np.square(plain))) < 0.6 * spread


def test_too_few_images_for_a_subset_are_refused():
    with pytest.raises(DataError, match="of 61 needs as many samples, there are 60"):
        kernel_distance_of_subsets(draw(0), draw(1, 90), subset_size=61)
    with pytest.raises(DataError, match="of 1000 needs as many reference images, there are 90"):
        kernel_distance_of_subsets(draw(0, 1000), draw(1, 90))
    with pytest.raises(DataError, match="features are float16"):
        kernel_distance_of_subsets(draw(0).astype(np.float16), draw(1), subset_size=3)
