"""Inception Score: truths, splits, zeros, influence."""

import math

import numpy as np
import pytest

from evalsuite.errors import DataError
from evalsuite.metrics.inception_score import (
    check_order,
    consecutive_splits,
    count_zeros,
    equal_splits,
    even_splits,
    inception_score,
    inception_score_with_zeros,
    influence_of_splits,
    score_of_splits,
)


def draw(seed, count, classes=5, sharpness=2.0):
    logits_NK = np.random.default_rng(seed).normal(size=(count, classes)) * sharpness
    p_NK = np.exp(logits_NK)
    return p_NK / p_NK.sum(axis=1, keepdims=True)


def plain_score(p_NK):
    """One split, written out as the definition has it."""
    return math.exp(np.mean(np.sum(p_NK * (np.log(p_NK) - np.log(p_NK.mean(axis=0))), axis=1)))


def test_uniform_predictions_score_one():
    assert inception_score(np.full((30, 7), 1 / 7)) == pytest.approx(1.0, abs=1e-14)


def test_certain_and_balanced_predictions_score_the_number_of_classes():
    smoothing = 1e-13
    p_NK = np.full((60, 6), smoothing)
    p_NK[np.arange(60), np.arange(60) % 6] = 1 - 5 * smoothing
    assert inception_score(p_NK) == pytest.approx(6.0, rel=1e-10)


def test_equals_the_definition_in_one_split_and_ignores_order_there():
    p_NK = draw(0, 200)
    assert inception_score(p_NK) == pytest.approx(plain_score(p_NK), rel=1e-13)
    shuffled_NK = np.random.default_rng(1).permutation(p_NK)
    assert inception_score(shuffled_NK) == pytest.approx(inception_score(p_NK), rel=1e-13)


def test_splits_are_consecutive_and_a_short_last_one_counts_fully():
    p_NK = np.concatenate((draw(0, 10), draw(1, 10, sharpness=0.1), draw(2, 3, sharpness=4.0)))
    parts = [plain_score(p_NK[:10]), plain_score(p_NK[10:20]), plain_score(p_NK[20:])]
    assert inception_score(p_NK, 10) == pytest.approx(sum(parts) / 3, rel=1e-13)
    # Neither a weighted mean nor a dropped tail would give that.
    assert abs(sum(parts) / 3 - np.average(parts, weights=[10, 10, 3])) > 1e-2
    assert abs(sum(parts) / 3 - sum(parts[:2]) / 2) > 1e-2


def test_the_default_split_is_5000():
    p_NK = np.concatenate((draw(0, 5000, sharpness=0.1), draw(1, 1, sharpness=3.0)))
    expected = (plain_score(p_NK[:5000]) + 1.0) / 2
    assert inception_score(p_NK) == pytest.approx(expected, rel=1e-12)


def test_float32_input_is_summed_in_float64():
    p_NK = draw(3, 4000).astype(np.float32)
    assert inception_score(p_NK) == pytest.approx(plain_score(p_NK.astype(np.float64)), rel=1e-13)


def test_a_probability_of_exactly_zero_poisons_the_score_unless_defined_away():
    p_NK = np.eye(4)[np.arange(20) % 4]
    assert math.isnan(inception_score(p_NK))
    assert inception_score_with_zeros(p_NK) == pytest.approx(4.0, rel=1e-14)
    assert count_zeros(p_NK) == 60
    never_NK = np.concatenate((draw(0, 20), np.zeros((20, 1))), axis=1)
    assert math.isnan(inception_score(never_NK))
    assert inception_score_with_zeros(never_NK) == pytest.approx(plain_score(draw(0, 20)))


def test_without_zeros_both_definitions_agree():
    assert inception_score_with_zeros(draw(4, 50), 20) == inception_score(draw(4, 50), 20)


def weighted_score(p_NK, weights_N, split_size):
    """Mean over splits, where the weights of a split are rescaled to sum to 1."""
    scores = []
    for start in range(0, len(p_NK), split_size):
        p, w = p_NK[start : start + split_size], weights_N[start : start + split_size]
        w = w / w.sum()
        scores.append(math.exp(w @ np.sum(p * (np.log(p) - np.log(w @ p)), axis=1)))
    return sum(scores) / len(scores)


@pytest.mark.parametrize("split_size", [100, 12])
def test_influence_is_the_derivative_in_the_weight_of_a_sample(split_size):
    p_NK = draw(5, 30)
    even_N = np.full(30, 1 / 30)
    influence_N = influence_of_splits(p_NK, consecutive_splits(30, split_size))
    step = 1e-6
    for index in range(30):
        bump_N = step * np.eye(30)[index]
        ahead, behind = (
            weighted_score(p_NK, even_N + sign * bump_N, split_size) for sign in (1, -1)
        )
        assert influence_N[index] == pytest.approx((ahead - behind) / (2 * step), rel=1e-6)
    assert influence_N.mean() == pytest.approx(0.0, abs=1e-14)


def test_even_splits_take_all_samples_and_equal_ones_drop_the_remainder():
    for splits, sizes in ((even_splits(23, 5), [4, 5, 4, 5, 5]), (equal_splits(23, 5), [4] * 5)):
        assert [len(rows) for rows in splits] == sizes
        drawn = np.concatenate(splits)
        order_N = np.random.RandomState(2020).permutation(23)
        assert drawn.tolist() == order_N[: sum(sizes)].tolist()
    assert np.concatenate(even_splits(23, 5, seed=None)).tolist() == list(range(23))
    with pytest.raises(DataError, match="10 splits need as many samples, there are 9"):
        even_splits(9)


def test_the_score_of_splits_is_mean_and_deviation_of_their_scores():
    p_NK = draw(7, 43)
    for splits in (even_splits(43, 4), equal_splits(43, 4), consecutive_splits(43, 10)):
        parts = [plain_score(p_NK[rows]) for rows in splits]
        mean, std = score_of_splits(p_NK, splits)
        assert mean == pytest.approx(np.mean(parts), rel=1e-13)
        assert std == pytest.approx(np.sqrt(np.mean((parts - np.mean(parts)) ** 2)), rel=1e-9)


def test_a_sample_in_no_split_has_no_influence_and_the_others_their_derivative():
    p_NK, splits = draw(8, 23), equal_splits(23, 5)
    influence_N = influence_of_splits(p_NK, splits)
    left_out = sorted(set(range(23)) - set(np.concatenate(splits).tolist()))
    assert (influence_N[left_out] == 0).all()

    def score(weights_N):
        parts = []
        for rows in splits:
            w, p = weights_N[rows] / weights_N[rows].sum(), p_NK[rows]
            parts.append(math.exp(w @ np.sum(p * (np.log(p) - np.log(w @ p)), axis=1)))
        return np.mean(parts)

    even_N, step = np.full(23, 1 / 23), 1e-6
    for index in splits[2]:
        bump_N = step * np.eye(23)[index]
        slope = (score(even_N + bump_N) - score(even_N - bump_N)) / (2 * step)
        assert influence_N[index] == pytest.approx(slope, rel=1e-6)


def certain(labels_N, classes):
    """Probabilities that are sure of the label, with a little noise."""
    p_NK = np.full((len(labels_N), classes), 0.01) + 0.002 * draw(9, len(labels_N), classes)
    p_NK[np.arange(len(labels_N)), labels_N] += 1.0
    return p_NK / p_NK.sum(axis=1, keepdims=True)


def test_sorted_classes_are_noticed_without_labels():
    mixed_N = np.random.default_rng(0).integers(0, 20, 400)
    sorted_N = np.sort(mixed_N)
    in_order, shuffled, matters = check_order(certain(sorted_N, 20), split_size=100)
    assert matters
    assert 1.5 * in_order < shuffled
    mixed = check_order(certain(mixed_N, 20), split_size=100)
    assert not mixed.matters
    assert mixed.shuffled == pytest.approx(shuffled, rel=0.05)
    alone = check_order(certain(sorted_N, 20), split_size=400)
    assert alone.in_order == alone.shuffled
    assert not alone.matters


def test_what_are_not_probabilities_is_refused():
    p_NK = draw(6, 10)
    p_NK[7] *= 3
    with pytest.raises(DataError, match=r"1 of 10 rows are not probabilities.*row 7"):
        inception_score(p_NK)
    logits_NK = np.array([[1.5, -0.5]])
    with pytest.raises(DataError, match="row 0"):
        influence_of_splits(logits_NK, consecutive_splits(1, 10))
    p_NK = draw(6, 10)
    p_NK[2, 0] = np.nan
    with pytest.raises(DataError, match=r"probabilities have NaN.*row 2"):
        inception_score_with_zeros(p_NK)
    with pytest.raises(DataError, match="probabilities are float16"):
        inception_score(draw(6, 10).astype(np.float16))
    with pytest.raises(DataError, match="at least 1 sample"):
        inception_score(np.zeros((0, 4)))
    with pytest.raises(ValueError, match="split_size"):
        inception_score(draw(6, 10), 0)
