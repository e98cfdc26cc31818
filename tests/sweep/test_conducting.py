"""Rung after rung on numbers of our choice: undefined ones never win and never go on."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from board_kit import make_record
from harness import bytes_of

from evalsuite.cli.sweep_view import result_lines, rung_line, rung_lines, standing_lines
from evalsuite.errors import DataError, DivergedError
from evalsuite.pipeline.coverage import Demand
from evalsuite.pipeline.plan import PlanOptions, resolve_plan
from evalsuite.pipeline.stages import OutputFormat
from evalsuite.report.summary import number
from evalsuite.report.sweep_page import render_sweep
from evalsuite.report.sweep_tables import rung_tables
from evalsuite.runtime.session import SessionRequest
from evalsuite.sweep.axes import Configuration
from evalsuite.sweep.conducting import Trial, Work, conduct
from evalsuite.sweep.directory import ConfigurationEntry, SweepDirectory, SweepManifest
from evalsuite.sweep.judging import Judged
from evalsuite.sweep.scoring import Scored

BATCH = 10


class _Numbers:
    """A scale that knows the value of every name; a run is its name here."""

    def __init__(self, values: Mapping[str, float | None]) -> None:
        self.values, self.scored = values, []
        self.excludes_from, self.error = 0, 0.01
        self.made: list[str] = []

    def score(self, run: Any, num_samples: int, *, whole: bool = False) -> Scored:
        self.scored.append((run, num_samples))
        value = self.values[run]
        notes = () if value is not None else ("no image has a colour",)
        record = make_record(value, None if value is None else self.error, notes=notes)
        judged = Judged(float("nan") if value is None else value, None, record.standard_error)
        return Scored(record, (record,), judged)

    def strata(self, run: Any, num_samples: int) -> None:
        return None

    def extrapolates(self, num_samples: int) -> bool:
        return False

    def may_exclude(self, num_samples: int) -> bool:
        return num_samples >= self.excludes_from


def request_of_nothing(folder: Path) -> SessionRequest:
    """What is asked of a run; nobody makes it here."""
    return SessionRequest(
        resolved=resolve_plan(PlanOptions("pixnerd-digits", batch_size=BATCH)),
        demand=Demand(BATCH, None, "none", ()),
        root=folder / "run",
        output=OutputFormat("none", "parquet"),
        shard_size=None,
        device="cpu",
        address=None,
        num_workers=1,
        gpus_per_worker=1.0,
        allow_mixed_numerics=False,
        command="sweep",
        asked={},
        tags={},
    )


def conducted(
    folder: Path,
    values: Mapping[str, float | None],
    rungs: tuple[int, ...],
    diverging: Collection[str] = (),
    strategy: str = "halving",
    *,
    hash_all: bool = False,
) -> Any:
    """Work on numbers; what `diverging` names cannot be made."""

    def make(_: SessionRequest, name: str) -> Any:
        numbers.made.append(name)
        if name in diverging:
            raise DivergedError("samples 30..39: the sampler gave NaN or infinite pixels")
        return name.removesuffix(" on fresh seeds")

    entries = tuple(
        ConfigurationEntry(
            name=name, setting={}, plan_id=name, run=f"../{name}", nfe=1, batch_size=BATCH
        )
        for name in values
    )
    places = tuple(range(len(values)))
    manifest = SweepManifest(
        sweep_id="", model="any", axes={"guidance_scale": places}, configurations=entries,
        rungs=rungs, strategy=strategy, metric="fid", better="lower", budget=None, first_seed=0,
        fresh_first_seed=None, protocol=make_record(1.0).protocol, protocol_name="adm",
        reference=None, prefix="",
    )  # fmt: skip
    manifest = manifest.model_copy(update={"sweep_id": manifest.identity})
    directory = SweepDirectory.create_or_open(folder / "sweep", manifest)
    request = replace(request_of_nothing(folder), hash_all=hash_all)
    options = PlanOptions("pixnerd-digits")
    trials = [Trial(Configuration(name, {}), options, request) for name in values]
    numbers: Any = _Numbers(values)
    work = Work(directory, trials, lambda _: request, numbers, make, lambda _: None)
    return work, numbers


def test_nobody_wins_where_the_metric_is_undefined(tmp_path: Path) -> None:
    work, _ = conducted(tmp_path, {"a": None, "b": None}, (100,))
    with pytest.raises(DataError, match="fid of 100 samples is undefined for every") as error:
        conduct(work)
    assert "no image has a colour" in str(error.value)
    assert work.directory.result() is None
    (table,) = work.directory.rungs()
    ended = "the metric is undefined for every configuration"
    assert rung_line(table) == f"rung 100: {ended}"
    lines = standing_lines(work.directory)
    assert lines[-1] == f"ended   {ended}: take another --metric, or larger --rungs"
    assert [line.split() for line in lines[-3:-1]] == [
        [name, "undefined", "not", "ranked", "dropped"] for name in ("a", "b")
    ]


def test_where_samples_are_too_few_an_undefined_configuration_stays(tmp_path: Path) -> None:
    work, numbers = conducted(tmp_path, {"a": 2.0, "b": None}, (100, 200))
    numbers.excludes_from = 200
    conduct(work)
    assert ("b", 200) in numbers.scored
    first, second = work.directory.rungs()
    assert [row.goes_on for row in first.rows] == [True, True]
    assert [row.goes_on for row in second.rows] == [True, False]


def test_an_undefined_configuration_is_dropped_and_is_level_with_nobody(tmp_path: Path) -> None:
    work, numbers = conducted(tmp_path, {"a": 2.0, "b": None, "c": 2.001}, (100, 200))
    result = conduct(work)
    assert (result.winner, result.level_with_winner) == ("a", ("c",))
    assert ("b", 200) not in numbers.scored
    first, second = work.directory.rungs()
    assert [(row.name, row.goes_on) for row in first.rows] == [
        ("a", True),
        ("c", True),
        ("b", False),
    ]
    assert [row.name for row in second.rows] == ["a", "c"]
    assert result.samples == 3 * 100 + 2 * 100
    assert "undefined  not ranked  dropped" in rung_lines(first)[-1]
    alone, _ = conducted(tmp_path / "one", {"a": 2.0, "b": None}, (100,))
    assert conduct(alone).level_with_winner == ()


@pytest.mark.parametrize("strategy", ["halving", "grid"])
def test_a_configuration_that_diverges_is_dropped_by_name(tmp_path: Path, strategy: str) -> None:
    """Also where a rung may drop nobody, and by a grid: larger rungs hold the same samples."""
    values = {"a": 2.0, "b": 1.0, "c": 2.001}
    work, numbers = conducted(tmp_path, values, (100, 200), diverging=["b"], strategy=strategy)
    numbers.excludes_from = 1000
    result = conduct(work)
    assert result.winner == "a"
    first, second = work.directory.rungs()
    gone = first.rows[-1]
    assert (gone.name, gone.ranked_by, gone.goes_on) == ("b", None, False)
    assert gone.others.keys() == first.rows[0].others.keys()
    assert rung_lines(first)[-1].split() == [
        *("b", "undefined", "not", "ranked", "dropped:", "NaN", "or", "infinite", "values")
    ]
    assert [row.name for row in second.rows] == ["a", "c"]
    assert "dropped: NaN or infinite values</td>" in render_sweep(work.directory)
    table = rung_tables(work.directory)[0]
    assert table.rows[-1][:3] == ("b", "dropped: NaN or infinite values", number(None))


def test_a_sweep_of_which_all_diverge_ends_with_what_to_look_at(tmp_path: Path) -> None:
    work, _ = conducted(tmp_path, {"a": 2.0, "b": 1.0}, (100,), diverging=["a", "b"])
    with pytest.raises(DataError, match=r"every configuration \(NaN or infinite values\): look at"):
        conduct(work)
    assert standing_lines(work.directory)[-1].endswith(
        "look at the weights and at the values of the axes"
    )


def test_a_winner_that_diverges_on_fresh_seeds_is_still_the_winner(tmp_path: Path) -> None:
    work, _ = conducted(tmp_path, {"a": 2.0, "b": 3.0}, (100,), diverging=["a on fresh seeds"])
    result = conduct(work)
    assert (result.winner, result.fresh.value, result.fresh.lost) == ("a", None, None)
    (line,) = [one for one in result_lines(work.directory, result) if one.startswith("fresh")]
    assert (
        "undefined (NaN or infinite values) on seeds that did not choose it; lost unknown" in line
    )
    assert "NaN or infinite values" in render_sweep(work.directory)


def test_what_is_known_to_diverge_is_not_made_again(tmp_path: Path) -> None:
    """Its NaN may come after hours; whoever asks with --hash-all, or lost the tables, waits."""
    values, fresh = {"a": 2.0, "b": 1.0}, "a on fresh seeds"
    sweep = tmp_path / "sweep"

    def made(*, hash_all: bool = False) -> list[str]:
        work, numbers = conducted(tmp_path, values, (100, 200), ["b", fresh], hash_all=hash_all)
        conduct(work)
        return list(dict.fromkeys(numbers.made))

    assert made() == ["a", "b", fresh]
    before = bytes_of(sweep)
    assert made() == ["a"]
    assert bytes_of(sweep) == before
    assert made(hash_all=True) == ["a", "b", fresh]
    assert bytes_of(sweep) == before
    (sweep / "rungs" / "00000100.json").write_bytes(b"{")
    (sweep / "result.json").write_bytes(b"{}")
    assert made() == ["a", "b", fresh]
    assert bytes_of(sweep) == before


def test_level_is_who_has_an_interval_that_holds_0(tmp_path: Path) -> None:
    """Not whom nobody could exclude: without an interval, or by a rung of too few samples."""
    values = {"a": 2.0, "b": 2.001, "c": 2.5, "d": None}
    work, _ = conducted(tmp_path / "known", values, (100,), strategy="grid")
    result = conduct(work)
    assert (result.level_with_winner, result.untold) == (("b",), ())
    lines = result_lines(work.directory, result)
    assert "level   1 whose interval holds 0: b" in lines
    work, numbers = conducted(tmp_path / "small", values, (100,), strategy="grid")
    numbers.excludes_from = 101
    assert conduct(work).level_with_winner == ()
    work, numbers = conducted(tmp_path / "no error", values, (100,), strategy="grid")
    numbers.error = None
    result = conduct(work)
    assert (result.level_with_winner, result.untold) == ((), ("b", "c"))
    lines = result_lines(work.directory, result)
    assert "untold  2 not told apart from it (no interval, or too few samples): b; c" in lines
    page = render_sweep(work.directory)
    assert "<dt>Level with it</dt><dd>none</dd>" in page
    assert "<dt>Not told apart from it</dt><dd>b; c <span" in page
