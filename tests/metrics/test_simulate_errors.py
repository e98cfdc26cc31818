"""The simulation of reported errors, small: its grid, its numbers, its table."""

import pytest

from jobs.evaluator.simulate_errors import Cell, Check, Outcome, grid, markdown, simulate


def test_the_grid_has_every_situation_once():
    cells = grid()
    assert len(cells) == len(set(cells)) == 4 * 2 * 2 * 2
    assert {cell.samples_per_dim for cell in cells} == {5, 25}


@pytest.mark.parametrize("balanced", [False, True])
def test_a_small_cell_finds_errors_that_are_the_spread(balanced):
    cell = Cell("gaussian", "far", 12, balanced)
    outcome = simulate(cell, dim=10, repeats=150)
    assert outcome == simulate(cell, dim=10, repeats=150)
    assert outcome.mean > 0 > outcome.mean_difference
    for check in (outcome.single, outcome.paired):
        assert check.ratio_halves == pytest.approx(1.0, abs=0.2)
        assert check.cover_halves > 88
        assert check.ratio_plain >= check.ratio_halves


def test_the_table_marks_what_does_not_cover():
    good, bad = Check(0.5, 1.1, 96.25, 1.0, 95.0), Check(0.25, 0.6, 80.0, 1.4, 99.0)
    table = markdown([Outcome(Cell("gaussian", "near", 25, True), 2.5, good, -0.125, bad)])
    header, rule, row = table.splitlines()
    assert header.count("|") == rule.count("|") == row.count("|")
    assert "| 0.04 | balanced | 2.5 | 0.5 | 1.10, 96.2 % | 1.00, 95.0 % |" in row
    assert "| -0.125 | 0.25 | 0.60, **80.0 %** | 1.40, **99.0 %** |" in row
