"""The registry: its contract, what each rule of sample size says, refusals."""

import math

import numpy as np
import pytest

from evalsuite.config import ProtocolSpec, load_spec
from evalsuite.errors import DataError, UsageError
from evalsuite.metrics import values as values_room
from evalsuite.metrics.frechet import (
    frechet_distance,
    frechet_fit,
    frechet_influence,
    halved_influence,
)
from evalsuite.metrics.inception_score import (
    consecutive_splits,
    inception_score,
    influence_of_splits,
)
from evalsuite.metrics.intervals import (
    balanced_groups,
    standard_error,
    standard_error_from_halves,
)
from evalsuite.metrics.manifold_entries import duplicates_note
from evalsuite.metrics.manifolds import ManifoldSettings, manifold_metrics
from evalsuite.metrics.moments import Moments, moments_of
from evalsuite.metrics.registry import METRICS, compute_metrics
from evalsuite.metrics.values import Computation, ReferenceData, SampleData

DIM = 8
DIGITS = load_spec(ProtocolSpec, "digits")
MANIFOLDS = ManifoldSettings()


class Inputs:
    """Samples and a reference, and metrics of them."""

    def __init__(self, samples, reference, protocol=DIGITS):
        self.samples, self.reference, self.protocol = samples, reference, protocol

    def compute(self, *names):
        return compute_metrics(names, self.samples, self.reference, self.protocol)

    @property
    def work(self):
        return Computation(self.samples, self.reference, self.protocol)


def make_inputs(count, strata=None, protocol=DIGITS, **changes):
    rng = np.random.default_rng(count)
    reference_MD = rng.normal(size=(200, DIM)).astype(np.float32)
    p_NK = rng.uniform(0.1, 1.0, size=(count, 5))
    samples = {
        "pool_ND": (rng.normal(size=(count, DIM)) * 0.9 + 0.2).astype(np.float32),
        "spatial_NP": rng.normal(size=(count, DIM - 2)),
        "probabilities_NK": p_NK / p_NK.sum(axis=1, keepdims=True),
        "strata_N": strata,
    }
    reference = {
        "pool": moments_of(reference_MD),
        "spatial": moments_of(rng.normal(size=(200, DIM - 2))),
        "features_MD": reference_MD,
    }
    for name, value in changes.items():
        (samples if name in samples else reference)[name] = value
    return Inputs(SampleData(**samples), ReferenceData(**reference), protocol)


def test_the_metrics_and_their_order():
    assert [(spec.name, spec.display, spec.better) for spec in METRICS.values()] == [
        ("fid", "FID", "lower"),
        ("sfid", "sFID", "lower"),
        ("inception_score", "IS", "higher"),
        ("precision", "Precision", "higher"),
        ("recall", "Recall", "higher"),
        ("density", "Density", "higher"),
        ("coverage", "Coverage", "higher"),
        ("kid", "KID", "lower"),
        ("fid_infinity", "FID-infinity", "lower"),
        ("cmmd", "CMMD", "lower"),
    ]
    assert list(METRICS) == [spec.name for spec in METRICS.values()]


@pytest.mark.parametrize(
    ("protocol", "metric", "fields"),
    [
        ("adm", "fid", {}),
        ("adm", "recall", {"k": 3, "arithmetic": "adm-float16"}),
        ("adm-float32", "recall", {"k": 3, "arithmetic": "float32"}),
        ("dgm-eval", "density", {"k": 5, "arithmetic": "float32", "strict": True}),
        ("adm", "kid", {"estimator": "all_pairs"}),
        (
            "torch-fidelity",
            "kid",
            {
                "estimator": "subsets",
                "subsets": 100,
                "subset_size": 1000,
                "subset_seed": 2020,
            },
        ),
        (
            "adm",
            "fid_infinity",
            {
                "points": 15,
                "smallest_subset": "N/10, at most 5000, at least 4 D",
                "order_seed": 0,
            },
        ),
        (
            "adm",
            "inception_score",
            {"split_size": 5000, "order": "sample_index", "bias": "none"},
        ),
        (
            "jit",
            "inception_score",
            {
                "even_splits": 10,
                "order": "shuffled by RandomState(2020)",
                "bias": "none",
                "zeros": "zero",
            },
        ),
    ],
)
def test_each_metric_has_its_own_fields_of_a_protocol(protocol, metric, fields):
    assert METRICS[metric].fields(load_spec(ProtocolSpec, protocol)) == fields


def test_values_and_errors_are_those_of_the_functions():
    strata_N = np.arange(120) % 4
    inputs = make_inputs(120, strata_N)
    names = ("fid", "sfid", "inception_score", "precision", "recall", "density", "coverage")
    values = inputs.compute(*names)
    assert tuple(values) == names
    for name, features_ND, reference in (
        ("fid", inputs.samples.pool_ND, inputs.reference.pool),
        ("sfid", inputs.samples.spatial_NP, inputs.reference.spatial),
    ):
        sample = moments_of(features_ND)
        fit = frechet_fit(sample, reference)
        assert values[name].value == pytest.approx(frechet_distance(sample, reference), rel=1e-12)
        halved = halved_influence(features_ND, fit, reference, strata_N)
        assert values[name].standard_error == pytest.approx(
            standard_error_from_halves(halved, strata_N)
        )
        np.testing.assert_allclose(
            values[name].influence_N, frechet_influence(features_ND, sample, reference)
        )
        assert values[name].extrapolated is None
        assert values[name].notes == ()
    score = values["inception_score"]
    assert score.value == inception_score(inputs.samples.probabilities_NK)
    assert score.standard_error == standard_error(
        influence_of_splits(inputs.samples.probabilities_NK, consecutive_splits(120, 5000)),
        strata_N,
    )
    shares, errors = manifold_metrics(
        inputs.samples.pool_ND, inputs.reference.features_MD, MANIFOLDS, strata_N
    )
    for name in ("precision", "recall", "density", "coverage"):
        assert values[name].value == getattr(shares, name)
        assert values[name].standard_error == getattr(errors, name)


def test_the_order_is_the_callers_and_each_spec_computes_alone():
    inputs = make_inputs(60)
    values = inputs.compute("recall", "fid", "precision")
    assert list(values) == ["recall", "fid", "precision"]
    for name, value in values.items():
        alone = METRICS[name].compute(inputs.work)
        assert (alone.value, alone.standard_error) == (value.value, value.standard_error)


def test_precision_and_recall_share_one_computation(monkeypatch):
    calls = []

    def counted(*args):
        calls.append(args)
        return manifold_metrics(*args)

    monkeypatch.setattr(values_room, "manifold_metrics", counted)
    make_inputs(60).compute("precision", "recall", "density", "coverage")
    assert len(calls) == 1


def test_a_metric_needs_only_its_own_inputs():
    inputs = make_inputs(
        100,
        spatial_NP=None,
        probabilities_NK=None,
        spatial=None,
        features_MD=None,
    )
    assert list(inputs.compute("fid")) == ["fid"]
    with pytest.raises(DataError, match=r"^sFID needs reference_spatial, which is missing$"):
        inputs.compute("fid", "sfid")
    with pytest.raises(DataError, match=r"^IS needs probabilities"):
        inputs.compute("inception_score")
    with pytest.raises(DataError, match=r"^Recall needs reference_features"):
        inputs.compute("recall")


def test_below_two_samples_per_dimension_a_distance_has_no_error():
    below = make_inputs(2 * DIM - 1).compute("fid")["fid"]
    assert below.standard_error is None
    assert any("no standard error" in note and "(16), there are 15" in note for note in below.notes)
    assert make_inputs(2 * DIM).compute("fid")["fid"].standard_error > 0


@pytest.mark.parametrize("count", [10 * DIM - 1, 8 * DIM])
def test_below_ten_samples_per_dimension_a_distance_is_extrapolated(count):
    inputs = make_inputs(count)
    value = inputs.compute("fid")["fid"]
    halves_N = balanced_groups(count, 2)
    assert abs(int(np.sum(2 * halves_N - 1))) <= 1
    halves = [
        frechet_distance(
            moments_of(inputs.samples.pool_ND[halves_N == half]), inputs.reference.pool
        )
        for half in (0, 1)
    ]
    assert value.extrapolated == pytest.approx(2 * value.value - sum(halves) / 2, rel=1e-12)
    assert value.notes[-1].startswith(
        f"N is only {count / DIM:.3g} samples per feature dimension; "
        f"extrapolated to infinite N: {value.extrapolated:.4f}"
    )
    assert make_inputs(10 * DIM).compute("fid")["fid"].extrapolated is None


@pytest.mark.parametrize("count", [8 * DIM - 1, 2 * DIM, DIM, 2])
def test_below_eight_samples_per_dimension_nothing_is_said_of_infinite_n(count):
    value = make_inputs(count).compute("fid")["fid"]
    assert value.extrapolated is None
    assert value.notes[-1] == (
        f"N is only {count / DIM:.3g} samples per feature dimension: the bias is large and not in "
        "proportion to 1/N, so nothing is said of infinite N; use kid, which has no bias and "
        "an error at any N, or more samples"
    )


def test_small_sets_are_not_sent_from_sfid_to_kid_which_is_of_other_features():
    value = make_inputs(DIM - 1).compute("sfid")["sfid"]
    assert len([note for note in value.notes if "kid is no substitute" in note]) == 2
    assert not any("use kid" in note for note in value.notes)


@pytest.mark.parametrize("samples_per_dim", [8, 9.9])
def test_where_a_limit_is_given_most_of_the_bias_is_gone(samples_per_dim):
    """The true distance is 0, around which limits scatter; those below it are called out."""
    dim, count = 32, int(32 * samples_per_dim)
    truth = Moments(10**9, np.zeros(dim), np.eye(dim))
    found = []
    for seed in range(20):
        pool_ND = np.random.default_rng(seed).normal(size=(count, dim))
        found.append(make_inputs(count, pool=truth, pool_ND=pool_ND).compute("fid")["fid"])
    plain, limit = (
        np.mean([getattr(f, name) for f in found]) for name in ("value", "extrapolated")
    )
    assert plain > 0
    assert abs(limit) < 0.1 * plain
    for value in found:
        assert ("below 0, which no distance is" in value.notes[-1]) == (value.extrapolated < 0)
    assert any(value.extrapolated < 0 for value in found)


def test_halves_alternate_within_each_class():
    # By index alone, every half would hold one class: labels alternate just as halves would.
    strata_N = np.arange(72) % 2
    rng = np.random.default_rng(0)
    pool_ND = rng.normal(size=(72, DIM)) + 5.0 * strata_N[:, None]
    inputs = make_inputs(72, strata_N, pool_ND=pool_ND)
    value = inputs.compute("fid")["fid"]
    first_N = np.arange(72) % 4 < 2
    halves = [
        frechet_distance(moments_of(pool_ND[half_N]), inputs.reference.pool)
        for half_N in (first_N, ~first_N)
    ]
    assert value.extrapolated == pytest.approx(2 * value.value - sum(halves) / 2, rel=1e-12)


@pytest.mark.parametrize("count", [2, 3, DIM])
def test_fewer_samples_than_dimensions_give_a_value_and_a_note(count):
    value = make_inputs(count).compute("fid")["fid"]
    assert value.value > 0
    assert f"covariance of the samples is singular: {count} images for 8" in value.notes[0]


def test_a_reference_with_fewer_images_than_dimensions_is_noted():
    few = moments_of(np.random.default_rng(0).normal(size=(5, DIM)))
    value = make_inputs(100, pool=few).compute("fid")["fid"]
    assert value.standard_error > 0
    assert value.notes == (
        "the covariance of the reference is singular: 5 images for 8 feature dimensions",
    )


def test_an_exact_zero_makes_the_score_nan_and_says_what_it_would_be():
    p_NK = np.eye(4)[np.arange(40) % 4]
    value = make_inputs(40, probabilities_NK=p_NK).compute("inception_score")
    score = value["inception_score"]
    assert math.isnan(score.value)
    assert score.standard_error is None
    assert "120 probabilities are exactly 0" in score.notes[0]
    assert "with 0 * log 0 = 0 it is 4.0000" in score.notes[0]


def test_one_sample_per_class_leaves_no_error():
    values = make_inputs(100, np.arange(100)).compute("fid", "inception_score")
    for value in values.values():
        assert value.standard_error is None
        assert any("one sample per class" in note for note in value.notes)


def test_few_samples_leave_shares_without_errors():
    inputs = make_inputs(39)
    values = inputs.compute("precision", "recall")
    shares = manifold_metrics(
        inputs.samples.pool_ND, inputs.reference.features_MD, MANIFOLDS
    ).values
    for name, value in values.items():
        assert value.value == getattr(shares, name)
        assert value.standard_error is None
        assert value.notes == ("no standard error: it needs 40 samples, there are 39",)


def test_a_jackknife_that_sees_no_spread_claims_no_certainty():
    inputs = make_inputs(60)
    same = make_inputs(60, features_MD=inputs.samples.pool_ND)
    value = same.compute("precision")["precision"]
    assert (value.value, value.standard_error) == (1.0, None)
    assert "whichever group" in value.notes[0]


def test_too_few_samples_are_refused_with_have_and_need():
    with pytest.raises(DataError, match=r"^precision needs at least 4 samples, not 3, for 3 n"):
        make_inputs(3).compute("precision")
    with pytest.raises(DataError, match=r"^fid needs at least 2 samples, not 1: take more"):
        make_inputs(1).compute("fid")


@pytest.mark.parametrize(
    ("protocol", "metric", "samples", "images"),
    [
        ("digits", "fid", 2, None),
        ("digits", "fid_infinity", 8 * DIM, None),
        ("digits", "inception_score", 2, None),
        ("jit", "inception_score", 10, None),
        ("dgm-eval", "inception_score", 10, None),
        ("digits", "recall", 4, 4),
        ("dgm-eval", "coverage", 6, 6),
        ("digits", "kid", 2, 2),
        ("torch-fidelity", "kid", 1000, 1000),
        ("cmmd", "cmmd", 2, 2),
    ],
)
def test_the_fewest_samples_and_images_follow_from_protocol_and_width(
    protocol, metric, samples, images
):
    """At the least a metric is computed; with one fewer of either it is refused."""
    spec = load_spec(ProtocolSpec, protocol)
    rng = np.random.default_rng(0)

    def of_images(count):
        return rng.normal(size=(count, DIM)).astype(np.float32)

    enough_MD = of_images(images or 3)
    fine = make_inputs(samples, protocol=spec, features_MD=enough_MD).compute(metric)[metric]
    assert math.isfinite(fine.value)
    with pytest.raises(DataError, match=f"^{metric} needs at least {samples} samples, not "):
        make_inputs(samples - 1, protocol=spec, features_MD=enough_MD).compute(metric)
    if images is not None:
        with pytest.raises(DataError, match=f"^{metric} needs at least {images} reference images"):
            make_inputs(samples, protocol=spec, features_MD=enough_MD[1:]).compute(metric)


@pytest.mark.parametrize("name", ["fid", "precision"])
def test_bad_features_are_counted_and_the_first_is_named(name):
    pool_ND = np.zeros((50, DIM), dtype=np.float32)
    pool_ND[[17, 30, 31], 2] = np.nan
    with pytest.raises(DataError, match="in 3 of 50 rows, the first is row 17"):
        make_inputs(50, pool_ND=pool_ND).compute(name)


def test_names_and_lengths_are_checked():
    with pytest.raises(UsageError, match="no metric 'fidd', did you mean 'fid'"):
        make_inputs(20).compute("fidd")
    with pytest.raises(ValueError, match="different numbers of samples"):
        make_inputs(20, np.zeros(19, dtype=np.int64)).compute("fid")
    with pytest.raises(ValueError, match="needs is None"):
        METRICS["sfid"].compute(make_inputs(20, spatial_NP=None).work)


def test_probabilities_that_sorted_classes_make_are_called_out():
    """Ten classes in order, splits of a thousand: each split holds one class alone."""
    p_NK = np.full((10_000, 10), 0.01)
    p_NK[np.arange(10_000), np.arange(10_000) // 1000] = 0.91
    protocol = DIGITS.model_copy(update={"splits": DIGITS.splits.model_copy(update={"size": 1000})})
    found = make_inputs(10_000, protocol=protocol, probabilities_NK=p_NK).compute("inception_score")
    score = found["inception_score"]
    assert score.value == pytest.approx(1.0)
    assert "the order of samples makes this score: shuffled it is" in score.notes[0]


def test_samples_that_repeat_are_counted():
    pool_ND = make_inputs(60).samples.pool_ND
    assert duplicates_note(pool_ND) is None
    pool_ND[10] = pool_ND[0]
    assert duplicates_note(pool_ND) == "1 sample has exactly the features of an earlier one"
    pool_ND[11:20] = pool_ND[0]
    assert duplicates_note(pool_ND) == "10 samples have exactly the features of an earlier one"


def test_kid_has_an_error_and_fid_at_infinity_says_why_it_has_none():
    values = make_inputs(400).compute("kid", "fid_infinity")
    assert values["kid"].standard_error > 0
    assert values["kid"].influence_N.shape == (400,)
    limit = values["fid_infinity"]
    assert (limit.standard_error, limit.influence_N) == (None, None)
    assert limit.notes[1].startswith("no standard error: that of sampling would leave out")


def test_fid_at_infinity_below_zero_is_called_out():
    """Samples that are the reference's own distribution, of which about half fall below."""
    truth = Moments(10**9, np.zeros(DIM), np.eye(DIM))
    signs = set()
    for seed in range(12):
        pool_ND = np.random.default_rng(seed).normal(size=(8 * DIM, DIM))
        value = make_inputs(8 * DIM, pool=truth, pool_ND=pool_ND).compute("fid_infinity")
        limit = value["fid_infinity"]
        signs.add(limit.value < 0)
        said = f"{limit.value:.4f} is below 0, which no distance is: the error exceeds the distance"
        assert (said in limit.notes) == (limit.value < 0)
    assert signs == {True, False}


def test_what_follows_from_a_reference_is_computed_once():
    calls = []

    class Memo:
        def recall(self, name, make):
            calls.append(name)
            return make()

    inputs = make_inputs(60)
    reference = ReferenceData(inputs.reference.pool, None, inputs.reference.features_MD, Memo())
    adm = load_spec(ProtocolSpec, "adm")
    compute_metrics(["precision", "recall"], inputs.samples, reference, DIGITS)
    compute_metrics(["recall"], inputs.samples, reference, adm)
    assert calls == ["radii-3-float32", "radii-3-adm-float16"]
    assert reference.pool_factor is reference.pool_factor
