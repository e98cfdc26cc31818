"""How sweeps are shown: what is planned, each rung, the result, and where a sweep stands."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from evalsuite.errors import CorruptionError, UsageError, printable

if TYPE_CHECKING:
    from evalsuite.artifacts.storage import Place
    from evalsuite.cli.sweep_setup import SweepSetup
    from evalsuite.sweep.directory import ConfigurationEntry, SweepDirectory
    from evalsuite.sweep.tables import RungRow, RungTable, SweepResult

MOST_ROWS = 40
_INDENT = " " * 8
_UNTOLD = "not told apart from it (no interval, or too few samples)"
_UNDEFINED = "the metric is undefined for every configuration"
_WORDS = "± is the standard error, [ ] the interval of the difference from the leader"


def plan_lines(setup: "SweepSetup") -> list[str]:
    """What would be done."""
    from evalsuite.cli.output import duration
    from evalsuite.cli.sweep_setup import samples_at_most, seconds_at_most

    manifest = setup.manifest
    seconds = seconds_at_most(setup)
    names = [printable(entry.name) for entry in manifest.configurations]
    more = [f"{_INDENT}and {len(names) - MOST_ROWS} more"] if len(names) > MOST_ROWS else []
    blind = manifest.strategy == "halving" and len(manifest.rungs) == 1 and len(names) > 1
    if blind:
        more.append(_said_of_one_rung(setup))
    return [
        f"sweep {manifest.sweep_id[:12]} of {manifest.model}: {len(names)} configurations, rungs of"
        f" {', '.join(map(str, manifest.rungs))} samples, {manifest.strategy} by {manifest.metric}"
        f" ({manifest.better} is better)",
        f"sweep directory {setup.root}; at most {samples_at_most(setup)} samples"
        + (f", about {duration(seconds)}" if seconds is not None else "")
        + (f", budget {manifest.budget}" if manifest.budget is not None else ""),
        *(f"{_INDENT}{name}" for name in names[:MOST_ROWS]),
        *more,
    ]


def _said_of_one_rung(setup: "SweepSetup") -> str:
    """Why that may be dear, and what may help: no smaller rungs that may not drop, or are unlike.

    As none that has too few samples for its features, or other classes than the last one.
    """
    from evalsuite.seeding import first_are_mixed

    plan, fewest = setup.trials[0].request.resolved.plan, setup.scale.fewest
    (num_samples,) = setup.manifest.rungs
    advice = "give smaller --rungs"
    if fewest is not None and num_samples <= fewest:
        advice = (
            f"below {fewest:,} samples no rung may drop any: from --num-samples {2 * fewest:,} on"
            " a smaller one may"
        )
    elif not first_are_mixed(plan, num_samples // 2):
        advice = (
            f"with --labels {plan.labels.describe()} the first ones need not have the classes of"
            f" all: --labels modulo has them from {len(plan.label_classes):,} samples on"
        )
    return f"one rung: nothing is dropped before all samples are made; {advice}"


def rung_line(table: "RungTable") -> str:
    """A rung in one line."""
    leader, going_on = table.rows[0], sum(row.goes_on for row in table.rows)
    if not table.is_ranked:
        return f"rung {table.num_samples}: {_UNDEFINED}"
    return (
        f"rung {table.num_samples}: {printable(leader.name)} leads with {_number(leader.value)};"
        f" {going_on} of {len(table.rows)} are left"
    )


def rung_lines(table: "RungTable") -> list[str]:
    """A rung as a table: the leader, then differences from it with their intervals."""
    how = "the distance extrapolated to infinite N" if table.extrapolated else "the metric"
    drops = "" if table.may_exclude else "; too few samples per feature dimension to drop any"
    width = max(len(printable(row.name)) for row in table.rows[:MOST_ROWS])
    hidden = len(table.rows) - MOST_ROWS
    return [
        f"rung {table.num_samples}: ranked by {how}{drops}; {_WORDS}",
        *(f"{_INDENT}{_row(row, width)}" for row in table.rows[:MOST_ROWS]),
        *([f"{_INDENT}and {hidden} more"] if hidden > 0 else []),
    ]


def _row(row: "RungRow", width: int) -> str:
    behind = _behind(row)
    fate = "" if row.goes_on else f"  {printable(row.fate)}"
    value = _measured(row.value, row.standard_error, row.ranked_by)
    return f"{printable(row.name):{width}}  {value}  {behind}{fate}"


def _measured(value: float | None, error: float | None, ranked_by: float | None) -> str:
    """`2.0500 ± 0.1200 (extrapolated 1.1000)`."""
    width = "" if error is None else f" ± {error:.4f}"
    limit = "" if ranked_by == value else f" (extrapolated {_number(ranked_by)})"
    return f"{_number(value)}{width}{limit}"


def _behind(row: "RungRow") -> str:
    if row.difference is None or row.ranked_by is None:
        return "not ranked"
    if row.half_width is None and row.difference == 0:
        return "leads"
    if row.half_width is None:
        return f"{row.difference:+.4f} from the leader, no interval"
    pairs = "paired" if row.paired else "unpaired"
    low, high = row.difference - row.half_width, row.difference + row.half_width
    return f"{row.difference:+.4f} [{low:+.4f}, {high:+.4f}] from the leader, {pairs}"


def result_lines(directory: "SweepDirectory", result: "SweepResult") -> list[str]:
    """The winner, who is level with it, what it lost on fresh seeds, what it took.

    ± is a standard error, as in the tables of rungs.
    """
    manifest = directory.manifest
    name = manifest.display
    value = _measured(result.value, result.standard_error, result.ranked_by)
    share = 100 * result.samples / max(1, result.samples_of_grid)
    lines = [
        f"winner  {printable(result.winner)}: {name} {value} at"
        f" {result.num_samples} samples; run {_shown(directory, result.run)}"
    ]
    lines += _listed("level  ", "whose interval holds 0", result.level_with_winner)
    lines += _listed("untold ", _UNTOLD, result.untold)
    if result.fresh is not None:
        fresh = result.fresh
        again = _measured(fresh.value, fresh.standard_error, fresh.ranked_by)
        lost = "unknown" if fresh.lost is None else f"{fresh.lost:+.4f}"
        width = "" if fresh.lost_error is None else f" ± {fresh.lost_error:.4f}"
        of = "" if fresh.ranked_by == fresh.value else " of the extrapolated value"
        why = f" ({printable(fresh.fault)})" if fresh.fault else ""
        lines.append(
            f"fresh   {name} {again}{why} on seeds that did not choose it; lost"
            f" {lost}{width}{of} (winner's curse: the best of several on its own samples looks"
            f" better than it is); run {_shown(directory, fresh.run)}"
        )
    lines.append(
        f"samples {result.samples}, {share:.0f} % of the {result.samples_of_grid} of a grid"
    )
    if result.stopped_by_budget:
        lines.append(
            f"stopped at {result.num_samples} samples: the next rung would pass the budget of"
            f" {manifest.budget}"
        )
    return lines


def _listed(noun: str, what: str, names: Sequence[str]) -> list[str]:
    if not names:
        return []
    more = "; ..." if len(names) > MOST_ROWS else ""
    return [f"{noun} {len(names)} {what}: {'; '.join(map(printable, names[:MOST_ROWS]))}{more}"]


def _shown(directory: "SweepDirectory", run: str) -> "Place":
    """Where a run lies, seen from here."""
    place, here = directory.place(run), Path.cwd()
    if isinstance(place, Path) and place.is_relative_to(here):
        return place.relative_to(here)
    return place


def standing_lines(directory: "SweepDirectory") -> list[str]:
    """Where a sweep stands: decided rungs, survivors, and what their runs hold."""
    manifest, tables, result = directory.manifest, directory.rungs(), directory.result()
    lines = [
        f"sweep   {manifest.sweep_id[:12]} of {manifest.model}, {manifest.strategy} by"
        f" {manifest.metric} ({manifest.better} is better)",
        f"rungs   {', '.join(map(str, manifest.rungs))}; {len(manifest.configurations)}"
        " configurations",
    ]
    for table in tables:
        lines += rung_lines(table)
    lines += [f"lacking {line}" for line in directory.lacking_lines]
    if result is not None:
        return [*lines, *result_lines(directory, result)]
    if tables and not tables[-1].is_ranked:
        return [*lines, f"ended   {_UNDEFINED}: {tables[-1].remedy}"]
    alive = {row.name for row in tables[-1].rows if row.goes_on} if tables else None
    decided = {table.num_samples for table in tables}
    rung = next((one for one in manifest.rungs if one not in decided), None)
    if rung is None:
        return [*lines, "now     every rung is decided; the winner is scored again"]
    entries = [one for one in manifest.configurations if alive is None or one.name in alive]
    lines.append(f"now     rung {rung}: {len(entries)} configurations")
    return [*lines, *(f"{_INDENT}{text}" for text in _held(directory, entries, rung))]


def _held(
    directory: "SweepDirectory", entries: "list[ConfigurationEntry]", rung: int
) -> Iterator[str]:
    from evalsuite.artifacts.run_directory import IMAGES, RunDirectory, gaps_of
    from evalsuite.pipeline.ranges import total

    for entry in entries[:MOST_ROWS]:
        try:
            run = RunDirectory.open(directory.place(entry.run))
            spans = [(span.start, span.stop) for span in run.spans(IMAGES, 0, rung)]
            have = rung - total(gaps_of(spans, 0, rung))
        except (UsageError, CorruptionError):
            have = 0
        yield f"{printable(entry.name)}: {have} of {rung} samples"
    if len(entries) > MOST_ROWS:
        yield f"and {len(entries) - MOST_ROWS} more"


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"
