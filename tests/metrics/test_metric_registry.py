"""The registry: its contract, what each rule of sample size says, refusals."""

import dataclasses
import math

import numpy as np
import pytest

from evalsuite.errors import DataError, UsageError
from evalsuite.metrics import registry
from evalsuite.metrics.frechet import frechet_distance, frechet_influence
from evalsuite.metrics.inception_score import inception_score, inception_score_influence
from evalsuite.metrics.intervals import balanced_groups, standard_error
from evalsuite.metrics.manifolds import manifold_metrics
from evalsuite.metrics.moments import moments_of
from evalsuite.metrics.registry import MANIFOLDS, METRICS, MetricInputs, compute_metrics

DIM = 8


def make_inputs(count, strata=None, **changes):
    rng = np.random.default_rng(count)
    reference_MD = rng.normal(size=(200, DIM)).astype(np.float32)
    p_NK = rng.uniform(0.1, 1.0, size=(count, 5))
    inputs = MetricInputs(
        pool_ND=(rng.normal(size=(count, DIM)) * 0.9 + 0.2).astype(np.float32),
        spatial_ND=rng.normal(size=(count, DIM - 2)),
        probabilities_NK=p_NK / p_NK.sum(axis=1, keepdims=True),
        strata_N=strata,
        reference_pool=moments_of(reference_MD),
        reference_spatial=moments_of(rng.normal(size=(200, DIM - 2))),
        reference_features_MD=reference_MD,
    )
    return dataclasses.replace(inputs, **changes)


def test_the_metrics_and_their_order():
    assert list(METRICS) == ["fid", "sfid", "inception_score", "precision", "recall"]
    assert [spec.name for spec in METRICS.values()] == list(METRICS)
    assert [spec.display for spec in METRICS.values()] == [
        "FID",
        "sFID",
        "IS",
        "Precision",
        "Recall",
    ]
    assert [spec.better for spec in METRICS.values()] == ["lower"] * 2 + ["higher"] * 3
    assert METRICS["inception_score"].protocol == {
        "split_size": 5000,
        "order": "sample_index",
        "bias": "none",
    }
    assert METRICS["recall"].protocol == {"k": 3, "arithmetic": "float32"}


def test_values_and_errors_are_those_of_the_functions():
    strata_N = np.arange(120) % 4
    inputs = make_inputs(120, strata_N)
    values = compute_metrics(list(METRICS), inputs)
    assert list(values) == list(METRICS)
    for name, features_ND, reference in (
        ("fid", inputs.pool_ND, inputs.reference_pool),
        ("sfid", inputs.spatial_ND, inputs.reference_spatial),
    ):
        sample = moments_of(features_ND)
        assert values[name].value == frechet_distance(sample, reference)
        assert values[name].standard_error == standard_error(
            frechet_influence(features_ND, sample, reference), strata_N
        )
        assert values[name].extrapolated is None
        assert values[name].notes == ()
    score = values["inception_score"]
    assert score.value == inception_score(inputs.probabilities_NK)
    assert score.standard_error == standard_error(
        inception_score_influence(inputs.probabilities_NK), strata_N
    )
    shares, errors = manifold_metrics(
        inputs.pool_ND, inputs.reference_features_MD, MANIFOLDS, strata_N
    )
    for name in ("precision", "recall"):
        assert values[name].value == getattr(shares, name)
        assert values[name].standard_error == getattr(errors, name)


def test_the_order_is_the_callers_and_each_spec_computes_alone():
    inputs = make_inputs(60)
    values = compute_metrics(["recall", "fid", "precision"], inputs)
    assert list(values) == ["recall", "fid", "precision"]
    for name, value in values.items():
        assert METRICS[name].compute(inputs) == value
        assert compute_metrics([name], inputs) == {name: value}


def test_precision_and_recall_share_one_computation(monkeypatch):
    calls = []

    def counted(*args):
        calls.append(args)
        return manifold_metrics(*args)

    monkeypatch.setattr(registry, "manifold_metrics", counted)
    compute_metrics(["precision", "recall"], make_inputs(60))
    assert len(calls) == 1


def test_a_metric_needs_only_its_own_inputs():
    inputs = make_inputs(
        100,
        spatial_ND=None,
        probabilities_NK=None,
        reference_spatial=None,
        reference_features_MD=None,
    )
    assert list(compute_metrics(["fid"], inputs)) == ["fid"]
    with pytest.raises(DataError, match=r"^sFID needs reference_spatial, which is missing$"):
        compute_metrics(["fid", "sfid"], inputs)
    with pytest.raises(DataError, match=r"^IS needs probabilities"):
        compute_metrics(["inception_score"], inputs)
    with pytest.raises(DataError, match=r"^Recall needs reference_features"):
        compute_metrics(["recall"], inputs)


def test_below_two_samples_per_dimension_a_distance_has_no_error():
    below = compute_metrics(["fid"], make_inputs(2 * DIM - 1))["fid"]
    assert below.standard_error is None
    assert any("no standard error" in note and "(16), there are 15" in note for note in below.notes)
    assert compute_metrics(["fid"], make_inputs(2 * DIM))["fid"].standard_error > 0


@pytest.mark.parametrize("count", [10 * DIM - 1, 30, 5])
def test_below_ten_samples_per_dimension_a_distance_is_extrapolated(count):
    inputs = make_inputs(count)
    value = compute_metrics(["fid"], inputs)["fid"]
    halves_N = balanced_groups(count, 2)
    assert abs(int(np.sum(2 * halves_N - 1))) <= 1
    halves = [
        frechet_distance(moments_of(inputs.pool_ND[halves_N == half]), inputs.reference_pool)
        for half in (0, 1)
    ]
    assert value.extrapolated == pytest.approx(2 * value.value - sum(halves) / 2, rel=1e-12)
    assert value.notes[-1] == (
        f"N is only {count / DIM:.3g} samples per feature dimension; "
        f"extrapolated to infinite N: {value.extrapolated:.4f}"
    )
    assert compute_metrics(["fid"], make_inputs(10 * DIM))["fid"].extrapolated is None


def test_halves_alternate_within_each_class():
    # By index alone, every half would hold one class: labels alternate just as halves would.
    strata_N = np.arange(40) % 2
    rng = np.random.default_rng(0)
    pool_ND = rng.normal(size=(40, DIM)) + 5.0 * strata_N[:, None]
    inputs = make_inputs(40, strata_N, pool_ND=pool_ND)
    value = compute_metrics(["fid"], inputs)["fid"]
    first_N = np.arange(40) % 4 < 2
    halves = [
        frechet_distance(moments_of(pool_ND[half_N]), inputs.reference_pool)
        for half_N in (first_N, ~first_N)
    ]
    assert value.extrapolated == pytest.approx(2 * value.value - sum(halves) / 2, rel=1e-12)


@pytest.mark.parametrize("count", [2, 3, DIM])
def test_fewer_samples_than_dimensions_give_a_value_and_a_note(count):
    value = compute_metrics(["fid"], make_inputs(count))["fid"]
    assert value.value > 0
    assert f"covariance of the samples is singular: {count} images for 8" in value.notes[0]
    assert (value.extrapolated is None) == (count < 4)


def test_a_reference_with_fewer_images_than_dimensions_is_noted():
    few = moments_of(np.random.default_rng(0).normal(size=(5, DIM)))
    value = compute_metrics(["fid"], make_inputs(100, reference_pool=few))["fid"]
    assert value.standard_error > 0
    assert value.notes == (
        "the covariance of the reference is singular: 5 images for 8 feature dimensions",
    )


def test_an_exact_zero_makes_the_score_nan_and_says_what_it_would_be():
    p_NK = np.eye(4)[np.arange(40) % 4]
    value = compute_metrics(["inception_score"], make_inputs(40, probabilities_NK=p_NK))
    score = value["inception_score"]
    assert math.isnan(score.value)
    assert score.standard_error is None
    assert "120 probabilities are exactly 0" in score.notes[0]
    assert "with 0 * log 0 = 0 it is 4.0000" in score.notes[0]


def test_one_sample_per_class_leaves_no_error():
    values = compute_metrics(["fid", "inception_score"], make_inputs(100, np.arange(100)))
    for value in values.values():
        assert value.standard_error is None
        assert any("one sample per class" in note for note in value.notes)


def test_few_samples_leave_shares_without_errors():
    inputs = make_inputs(39)
    values = compute_metrics(["precision", "recall"], inputs)
    shares = manifold_metrics(inputs.pool_ND, inputs.reference_features_MD, MANIFOLDS).values
    for name, value in values.items():
        assert value.value == getattr(shares, name)
        assert value.standard_error is None
        assert value.notes == ("no standard error: it needs 40 samples, there are 39",)


def test_a_jackknife_that_sees_no_spread_claims_no_certainty():
    inputs = make_inputs(60)
    same = dataclasses.replace(inputs, reference_features_MD=inputs.pool_ND)
    value = compute_metrics(["precision"], same)["precision"]
    assert (value.value, value.standard_error) == (1.0, None)
    assert "whichever group" in value.notes[0]


def test_too_few_samples_are_refused_with_have_and_need():
    with pytest.raises(DataError, match=r"^Precision needs at least 4 samples, there are 3$"):
        compute_metrics(["precision"], make_inputs(3))
    with pytest.raises(DataError, match=r"^FID needs at least 2 samples, there are 1$"):
        compute_metrics(["fid"], make_inputs(1))


@pytest.mark.parametrize("name", ["fid", "precision"])
def test_bad_features_are_counted_and_the_first_is_named(name):
    pool_ND = np.zeros((50, DIM), dtype=np.float32)
    pool_ND[[17, 30, 31], 2] = np.nan
    with pytest.raises(DataError, match="in 3 of 50 rows, the first is row 17"):
        compute_metrics([name], make_inputs(50, pool_ND=pool_ND))


def test_names_and_lengths_are_checked():
    with pytest.raises(UsageError, match="no metric 'fidd', did you mean 'fid'"):
        compute_metrics(["fidd"], make_inputs(20))
    with pytest.raises(ValueError, match="different numbers of samples"):
        compute_metrics(["fid"], make_inputs(20, np.zeros(19, dtype=np.int64)))
    with pytest.raises(ValueError, match="needs is None"):
        METRICS["sfid"].compute(make_inputs(20, spatial_ND=None))
