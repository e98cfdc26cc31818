"""Charts and the plane of principal directions: places, ticks, curves that hold what they say."""

import itertools
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalsuite.metrics.manifolds import ManifoldSettings, manifold_metrics
from evalsuite.metrics.moments import Moments
from evalsuite.report.charts import Axis, Key, Line, Point, axis_of, axis_of_names, chart
from evalsuite.report.plane import ellipse, members, plane_of

SIZES = st.floats(-1e6, 1e6, allow_nan=False)


@given(values=st.lists(SIZES, min_size=1, max_size=20))
def test_an_axis_holds_its_values_and_has_round_ticks_inside(values: list[float]) -> None:
    axis = axis_of(values, "x")
    assert all(0 <= axis.place(value) <= 100 for value in values)
    ticks = axis.ticks()
    assert 1 <= len(ticks) <= 40
    assert all(-0.01 <= tick.place <= 100.01 for tick in ticks)
    assert all(a.place < b.place for a, b in itertools.pairwise(ticks))


@pytest.mark.parametrize(
    ("low", "high", "texts"),
    [
        (0, 10, ["0", "2", "4", "6", "8", "10"]),
        (1.95, 2.6, ["2", "2.1", "2.2", "2.3", "2.4", "2.5", "2.6"]),
        (-1, 1, ["-1", "-0.5", "0", "0.5", "1"]),
        (0, 0.0004, ["0", "0.0001", "0.0002", "0.0003", "0.0004"]),
    ],
)
def test_ticks_are_what_a_person_would_write(low: float, high: float, texts: list[str]) -> None:
    assert [tick.text for tick in Axis("", low, high).ticks()] == texts


def test_wide_positive_values_are_read_in_powers() -> None:
    axis = axis_of([1, 1000], "x")
    assert axis.log
    assert axis.place(10) - axis.place(1) == pytest.approx(
        axis.place(100) - axis.place(10), abs=0.01
    )
    assert [tick.text for tick in axis.ticks()] == ["1", "10", "100", "1000"]
    assert not axis_of([-1, 1000], "x").log
    assert not axis_of([1, 1000], "x", log=False).log


def test_an_axis_of_names_has_a_place_for_each() -> None:
    axis = axis_of_names(["a", "b" * 50], "x")
    assert [tick.text for tick in axis.ticks()] == ["a", "b" * 13 + "…"]
    assert [tick.place for tick in axis.ticks()] == [25, 75]


def test_a_chart_draws_lines_bands_and_points_where_they_are() -> None:
    x, y = Axis("<x>", 0, 10), Axis("y", 0, 4)
    line = Line("l", [(0, 1), (10, 3)], [(0, 0, 2), (10, 2, 4)], "s2")
    drawn = chart("<alt>", x, y, lines=[line], points=[Point(5, 1, "<tip>", 1)], caption="c")
    assert 'class="line s2" d="M0 75L100 25"' in drawn
    assert 'class="band s2" d="M0 50L100 0L100 50L0 100Z"' in drawn
    assert 'cx="50.0%" cy="75.0%" data-tip="&lt;tip&gt;"' in drawn
    assert 'y1="50.0%" y2="100.0%"' in drawn
    assert 'aria-label="&lt;alt&gt;"' in drawn
    assert "<x>" not in drawn
    assert "legend" not in drawn
    assert "legend" in chart("a", x, y, legend=[Key("k", "s0")])


def test_intervals_below_zero_end_at_a_logarithmic_axis() -> None:
    drawn = chart("a", axis_of([1, 2], "x"), axis_of([1, 100], "y"), points=[Point(1, 1, "", 5)])
    ends = [float(value) for value in re.findall(r'y[12]="([-\d.]+)%"', drawn)]
    assert max(ends) <= 100


def test_the_plane_is_that_of_the_largest_variances() -> None:
    """Of independent coordinates the two widest are the plane, the widest first."""
    cov_DD = np.diag([1.0, 9.0, 0.5, 4.0, 0.1])
    plane = plane_of(Moments(100, np.arange(5.0), cov_DD))
    np.testing.assert_allclose(np.abs(plane.axes_D2), np.eye(5)[:, [1, 3]], atol=1e-9)
    assert plane.explained == pytest.approx((9 / 14.6, 4 / 14.6))
    np.testing.assert_allclose(plane.cov_22, np.diag([9, 4]), atol=1e-9)
    np.testing.assert_allclose(plane.places(np.arange(5.0)[None]), [[0, 0]], atol=1e-9)
    assert (plane.axes_D2.max(axis=0) > 0.99).all()


def test_an_ellipse_holds_95_of_100() -> None:
    rng = np.random.default_rng(0)
    mean_2, root_22 = np.array([1.0, -2.0]), np.array([[2.0, 0.0], [1.5, 0.5]])
    points_N2 = mean_2 + rng.normal(size=(20_000, 2)) @ root_22.T
    curve_P2 = np.array(ellipse(mean_2, root_22 @ root_22.T))
    inverse_22 = np.linalg.inv(root_22)
    border = np.linalg.norm((curve_P2 - mean_2) @ inverse_22.T, axis=1)
    np.testing.assert_allclose(border, border[0])
    inside = np.linalg.norm((points_N2 - mean_2) @ inverse_22.T, axis=1) < border[0]
    assert inside.mean() == pytest.approx(0.95, abs=0.005)


def test_members_are_those_of_precision_and_recall() -> None:
    rng = np.random.default_rng(1)
    samples_ND = rng.normal(size=(120, 6)).astype(np.float32)
    reference_MD = rng.normal(0.5, 1.2, (150, 6)).astype(np.float32)
    shares = manifold_metrics(samples_ND, reference_MD, ManifoldSettings(k=3)).values
    assert members(samples_ND, reference_MD, 3).mean() == pytest.approx(shares.precision)
    assert members(reference_MD, samples_ND, 3).mean() == pytest.approx(shares.recall)
