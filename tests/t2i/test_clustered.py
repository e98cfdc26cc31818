"""Intervals by prompt: formulas on small cases, coverage by simulation, pairs."""

import math

import numpy as np
import pytest

from evalsuite.errors import DataError
from evalsuite.t2i.clustered import (
    LARGEST_SCORE,
    Cluster,
    difference,
    difference_of_tags,
    mean,
    mean_of_tags,
    mean_within,
    share,
)


def clusters(correct_GK: np.ndarray, name: str = "p") -> list[Cluster]:
    return [Cluster(f"{name}{g}", float(row.sum()), len(row)) for g, row in enumerate(correct_GK)]


def test_equal_images_of_a_prompt_count_once() -> None:
    """Four equal images say no more than one: the error is that of the prompts."""
    one = np.array([[1], [0], [1], [1], [0], [1], [0], [1]])
    four = share(clusters(np.repeat(one, 4, axis=1)))
    p = one.mean()
    assert four.value == p
    assert four.standard_error == pytest.approx(math.sqrt(p * (1 - p) / 7))
    single = share(clusters(one))
    assert four.standard_error == pytest.approx(single.standard_error)
    assert four.interval == pytest.approx(single.interval)


def test_a_mean_has_the_usual_error_of_its_prompts() -> None:
    scores = np.random.default_rng(0).random(30)
    found = mean([Cluster(str(i), score, 1) for i, score in enumerate(scores)])
    assert found.value == pytest.approx(scores.mean())
    assert found.standard_error == pytest.approx(scores.std(ddof=1) / math.sqrt(30))
    assert found.interval is not None
    low, high = found.interval
    assert low < scores.mean() < high


@pytest.mark.parametrize("right", [0, 1])
def test_all_right_or_all_wrong_is_no_certainty(right: int) -> None:
    found = share(clusters(np.full((20, 4), right)))
    assert found.standard_error == 0
    assert found.interval is not None
    low, high = found.interval
    assert low <= right <= high
    assert high - low > 0.1  # 20 prompts, not 80 images

    tags = {name: clusters(np.full((20, 4), right), name) for name in "abc"}
    overall = mean_of_tags(tags)
    assert overall.interval is not None
    assert 0 <= overall.interval[0] <= right <= overall.interval[1] <= 1
    assert 0.02 < overall.interval[1] - overall.interval[0] < high - low
    alone = mean_of_tags({"a": tags["a"]})
    assert (alone.value, alone.interval) == (found.value, pytest.approx(found.interval))


def test_intervals_stay_where_scores_can_be() -> None:
    """Few prompts that are almost all right: a t interval would end at 1.01, or at 111 of 100."""
    nearly = np.ones((12, 4))
    nearly[0] = 0
    found = mean_of_tags({"a": clusters(nearly), "b": clusters(nearly[1:])})
    assert found.interval is not None
    assert 0.5 < found.interval[0] < found.value < found.interval[1] <= 1
    scores = [100.0, 100.0, 99.0, 60.0]
    parts = [Cluster(str(i), score, 1) for i, score in enumerate(scores)]
    free, within = mean(parts), mean_within(parts, 100.0)
    assert within[:2] == pytest.approx(free[:2])
    assert free.interval is not None
    assert within.interval is not None
    assert 0 < within.interval[0] < within.value < within.interval[1] < 100 < free.interval[1]
    same = mean_within([Cluster(str(i), 50.0, 1) for i in range(9)], 100.0)
    assert same.interval is not None
    assert same.interval[0] < 30  # nothing varied, which nine prompts do not prove


def test_the_interval_of_overall_covers() -> None:
    """Six tags of few prompts that differ, near the edge: 95 % intervals cover about 95 %."""
    rng = np.random.default_rng(5)
    held, trials = 0, 500
    for _ in range(trials):
        tags = {}
        for tag, a in zip("abcdef", (0.3, 1, 2, 4, 9, 19), strict=True):
            p_G = rng.beta(a * 0.5, 0.5, size=30)
            tags[tag] = clusters(rng.random((30, 4)) < p_G[:, None], tag)
        found = mean_of_tags(tags)
        assert found.interval is not None
        truth = np.mean([a / (a + 1) for a in (0.3, 1, 2, 4, 9, 19)])
        held += found.interval[0] <= truth <= found.interval[1]
    assert 0.92 < held / trials <= 0.995


def test_one_prompt_has_no_interval() -> None:
    assert share(clusters(np.array([[1, 0, 1, 1]])))[1:3] == (None, None)
    assert mean_of_tags({"a": clusters(np.array([[1, 0]]))}).interval is None


def test_intervals_cover_where_binomial_ones_do_not() -> None:
    """Prompts differ (beta-binomial): 95 % intervals cover about 95 %, by images about 71 %."""
    rng = np.random.default_rng(7)
    held, naive, trials = 0, 0, 1500
    for _ in range(trials):
        p_G = rng.beta(0.7, 0.3, size=100)
        correct = rng.random((100, 4)) < p_G[:, None]
        found = share(clusters(correct))
        assert found.interval is not None
        held += found.interval[0] <= 0.7 <= found.interval[1]
        p = correct.mean()
        naive += abs(p - 0.7) <= 1.96 * math.sqrt(p * (1 - p) / correct.size)
    assert 0.93 < held / trials < 0.975
    assert naive / trials < 0.85


def test_overall_is_the_plain_mean_of_tags_with_the_error_of_its_parts() -> None:
    rng = np.random.default_rng(1)
    tags = {"a": clusters(rng.random((40, 4)) < 0.9), "b": clusters(rng.random((9, 4)) < 0.3)}
    found, parts = mean_of_tags(tags), [share(tags[name]) for name in tags]
    assert found.value == pytest.approx(sum(part.value for part in parts) / 2)
    errors = [part.standard_error or 0 for part in parts]
    assert found.standard_error == pytest.approx(math.hypot(*errors) / 2)
    assert found.num_prompts == 49


def test_models_that_fail_on_the_same_prompts_are_told_apart_by_pairs() -> None:
    rng = np.random.default_rng(3)
    hard = rng.random((80, 1)) < 0.5
    a = (rng.random((80, 4)) < 0.95) & ~hard
    b = a.copy()
    b[:8, 0] = False
    found = difference(clusters(a), clusters(b))
    assert found.value == pytest.approx(a.mean() - b.mean())
    unpaired = math.hypot(*(share(clusters(x)).standard_error or 0 for x in (a, b)))
    assert found.standard_error is not None
    assert found.standard_error < unpaired / 5
    tags = difference_of_tags({"t": clusters(a)}, {"t": clusters(b)})
    assert tags[:2] == pytest.approx(found[:2])
    assert difference(clusters(a), clusters(a)).standard_error == 0


def test_other_prompts_are_no_pairs() -> None:
    ones = np.ones((3, 4))
    with pytest.raises(DataError, match="2 prompts are scored on one side alone, such as 'p2'"):
        difference(clusters(ones), [*clusters(ones)[:2], Cluster("q", 1, 4)])
    with pytest.raises(DataError, match="cannot be compared"):
        difference_of_tags({"a": clusters(ones)}, {"b": clusters(ones)})
    with pytest.raises(DataError, match="there twice"):
        share([Cluster("a", 1, 1), Cluster("a", 1, 1)])


@pytest.mark.parametrize("score", [1 / 3, 100 / 3, 0.1])
def test_rounding_is_no_variance(score: float) -> None:
    """Equal scores that no binary fraction is: the interval is that of scores which do not vary."""
    parts = [Cluster(str(i), score, 1) for i in range(1065)]
    most = 100.0 if score > 1 else 1.0
    within = mean_within(parts, most)
    assert (within.value, within.standard_error) == (pytest.approx(score), 0)
    assert within.interval is not None
    assert within.interval[1] - within.interval[0] > 0.02 * score
    assert mean(parts)[1:3] == (0, None)
    twice = [Cluster(str(i), 3 * score, 3) for i in range(1065)]
    assert difference(parts, twice)[1:3] == (0, None)
    images = share([Cluster(str(i), 2.0 * (i % 2), 6) for i in range(2)])
    assert images.standard_error
    assert images.standard_error > 0.1  # what varies still does


@pytest.mark.parametrize("scale", [LARGEST_SCORE, 1e80, 1e-90, 1e-120])
def test_scores_of_any_size_have_their_interval(scale: float) -> None:
    """The same but for its unit; squares of variances would be beyond a float."""
    shares = (1.0, -1.0, 0.2)
    units = mean([Cluster(str(i), share, 1) for i, share in enumerate(shares)])
    found = mean([Cluster(str(i), share * scale, 1) for i, share in enumerate(shares)])
    assert units.interval is not None
    assert found.interval == pytest.approx(
        tuple(end * scale for end in units.interval), rel=1e-9, abs=0
    )
    assert found.standard_error == pytest.approx(
        (units.standard_error or 0) * scale, rel=1e-9, abs=0
    )
    tags = {"t": [Cluster(str(i), share * scale, 1) for i, share in enumerate(shares)]}
    zero = {"t": [Cluster(str(i), 0.0, 1) for i in range(3)]}
    assert difference_of_tags(tags, zero).interval == pytest.approx(found.interval, rel=1e-9, abs=0)
