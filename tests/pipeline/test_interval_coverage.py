"""Where intervals were seen to miss, the output says so: by a table that is the docs'."""

from pathlib import Path

import numpy as np
import pytest

from evalsuite.artifacts.features import FeatureTable
from evalsuite.artifacts.references import open_reference
from evalsuite.config import ExtractorSpec, load_spec
from evalsuite.config.interval_coverage import coverage_table
from evalsuite.pipeline.interval_coverage import interval_note
from evalsuite.pipeline.measure import Measure, protocol_named
from evalsuite.pipeline.numerics import resolve_device
from evalsuite.pipeline.reference_data import prepare_reference
from evalsuite.pipeline.scoring import SamplingFields, Scored, score
from jobs.evaluator.interval_coverage import table_of_page

PAGE = Path(__file__).parents[2] / "docs" / "uncertainty-replicates.md"


def test_the_table_is_that_of_the_page():
    assert coverage_table() == table_of_page(PAGE)


@pytest.mark.parametrize(
    ("metric", "balanced", "paired", "said"),
    [
        ("kid", True, False, "held the truth 86 to 100 %"),
        ("precision", True, False, "too narrow, by up to 15 %"),
        ("density", True, False, "held the truth 85 to 100 %"),
        ("inception_score", False, True, "paired differences of inception_score"),
        ("recall", True, False, "too wide, up to 1.7 times"),
    ],
)
def test_a_kind_of_interval_that_missed_has_a_note(metric, balanced, paired, said):
    note = interval_note(metric, 400, balanced=balanced, paired=paired)
    assert note is not None
    assert said in note
    assert "N = 250 to 500" in note
    assert "docs/uncertainty-replicates.md" in note


@pytest.mark.parametrize(
    ("metric", "num_samples", "balanced"),
    [
        ("kid", 501, True),  # nothing was measured there
        ("kid", 400, False),  # 95 to 100 %
        ("sfid", 400, True),  # 92.5 to 100 %
        ("fid_infinity", 400, True),  # has no interval
    ],
)
def test_no_note_where_no_cell_missed_or_none_was_measured(metric, num_samples, balanced):
    assert interval_note(metric, num_samples, balanced=balanced, paired=False) is None


def test_the_note_stands_beside_the_interval_and_only_there():
    by_metric = _scores(count=400)
    assert sum("held the truth 86 to 100 %" in note for note in by_metric["kid"]) == 1
    assert not any("held the truth" in note for note in by_metric["sfid"])
    # one below 2 D has no interval, and so no word about its width
    assert not any("held the truth" in note for note in _scores(count=120)["fid"])


def _scores(count: int) -> dict[str, tuple[str, ...]]:
    spec = load_spec(ExtractorSpec, "digits-convnet")
    metrics = ("fid", "sfid", "kid")
    measure = Measure(
        spec,
        open_reference("digits-16-train"),
        metrics,
        resolve_device("cpu"),
        protocol_named(None, spec),
    )
    random = np.random.default_rng(0)
    pool_ND = random.normal(size=(count, spec.pool_dim)).astype(np.float32)
    spatial_NP = random.normal(size=(count, spec.spatial_dim or 0)).astype(np.float32)
    table = FeatureTable(0, pool_ND, spatial_NP, None)
    labels_N = np.arange(count) % 10
    scored: list[Scored] = score(
        table,
        labels_N,
        measure,
        prepare_reference(measure),
        SamplingFields("modulo", None, None),
        {},
        {},
    )
    return {one.record.metric: one.record.notes for one in scored}
