"""How watches are shown: what is due, the table of the steps as lines and as CSV, and the curve."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evalsuite.errors import printable

if TYPE_CHECKING:
    from evalsuite.artifacts.records import Record
    from evalsuite.cli.watch_setup import WatchSetup
    from evalsuite.sweep.watch_directory import CheckpointEntry, WatchDirectory

MOST_ROWS = 40


def due_lines(setup: "WatchSetup") -> list[str]:
    """What `--dry-run` prints: the plan of every checkpoint, and which are due."""
    from evalsuite.sweep.checkpoints import step_in_name
    from evalsuite.sweep.watch_directory import WatchDirectory, is_watch

    manifest = setup.manifest
    lines = [
        f"watch   {manifest.watch_id[:12]} of {manifest.model}, {manifest.num_samples} samples of"
        " each checkpoint",
        f"pattern {printable(manifest.pattern)}, every {setup.every}",
        f"table   {setup.root}",
    ]
    entries = WatchDirectory.open(setup.root).entries() if is_watch(setup.root) else []
    scored = {entry.file for entry in entries}
    for seen in setup.lookout.look():
        step = step_in_name(seen.name)
        about = "its step stands in it" if step is None else f"step {step}"
        if seen.name in scored:
            about += ", scored"
        elif step is not None and step % setup.every:
            about += ", not asked"
        lines.append(f"        {printable(seen.name)}: {about}")
    return lines


def scored_line(entry: "CheckpointEntry", records: "Sequence[Record]") -> str:
    """A checkpoint's numbers in one line."""
    shown = ", ".join(_number(record) for record in records)
    return f"step {entry.step}: {shown}"


def table_lines(directory: "WatchDirectory") -> list[str]:
    """The latest steps, and where everything lies."""
    from evalsuite.artifacts.records import UNSEALED
    from evalsuite.sweep.watch_directory import CURVE, TABLE

    entries = directory.entries()
    hidden = len(entries) - MOST_ROWS
    lines = [f"        {hidden} earlier checkpoints"] if hidden > 0 else []
    for entry in entries[-MOST_ROWS:]:
        records = directory.records(entry)
        lines.append(scored_line(entry, records))
        lines += [f"        {one.display}: {UNSEALED}" for one in records if not one.is_sealed]
    if not entries:
        return [f"watch   {directory.root}: no checkpoint is scored yet"]
    lines += [f"table   {directory.root / TABLE}"]
    if directory.storage.exists(CURVE):
        lines.append(f"curve   {directory.root / CURVE}")
    return lines


def table_rows(directory: "WatchDirectory") -> tuple[list[str], list[dict[str, Any]]]:
    """(columns, rows) of `table.csv`: one row for each step, two columns for each protocol."""
    columns, rows = ["step", "checkpoint"], []
    found = [(entry, directory.records(entry)) for entry in directory.entries()]
    names = column_names([record for _, records in found for record in records])
    for entry, records in found:
        values: dict[str, float | None] = {}
        for record in records:
            name = names[record.protocol_id]
            values |= {name: record.value, f"{name}_se": record.standard_error}
        columns += [name for name in values if name not in columns]
        rows.append(
            {
                "step": entry.step,
                "checkpoint": entry.file,
                **values,
                "num_samples": directory.manifest.num_samples,
                "gpu_hours": records[0].cost.get("gpu_hours") if records else None,
                "ema": entry.ema,
                "weights_sha256": entry.weights_sha256,
                "plan_id": entry.plan_id,
                "run": entry.run,
                "scored_at": entry.scored_at,
            }
        )
    columns += ["num_samples", "gpu_hours", "ema", "weights_sha256", "plan_id", "run", "scored_at"]
    return columns, rows


def column_names(records: "Sequence[Record]") -> Mapping[str, str]:
    """Columns by `protocol_id`: the metric, and as much of the protocol as tells columns apart."""
    several = len({record.protocol_name for record in records}) > 1
    names = {
        record.protocol_id: f"{record.protocol_name}:{record.metric}" if several else record.metric
        for record in records
    }
    alike = Counter(names.values())
    return {
        protocol_id: name if alike[name] == 1 else f"{name}:{protocol_id}"
        for protocol_id, name in names.items()
    }


def write_table_and_curve(directory: "WatchDirectory") -> None:
    """Write what follows from the checkpoints: `table.csv` and `curve.png`."""
    from evalsuite.cli.plot_inputs import entries_of_watch
    from evalsuite.errors import DataError
    from evalsuite.report.board import to_csv
    from evalsuite.report.curves import curves_of
    from evalsuite.report.facts import TRAIN_STEP
    from evalsuite.report.figures import figure_of_curves
    from evalsuite.sweep.watch_directory import CURVE, TABLE

    columns, rows = table_rows(directory)
    if not rows:
        return
    directory.storage.replace(TABLE, to_csv(rows, columns).encode())
    measure = directory.manifest.measures[0]
    metric = "fid" if "fid" in measure["metrics"] else measure["metrics"][0]
    try:
        found = curves_of(entries_of_watch(directory), TRAIN_STEP, metric)
    except DataError:  # it is undefined of every checkpoint so far
        return
    directory.storage.replace(CURVE, figure_of_curves(found, "png"))


def _number(record: "Record") -> str:
    from evalsuite.report.summary import number

    error = record.standard_error
    width = "" if error is None else f" ± {number(error)}"
    return f"{record.display} {number(record.value)}{width}"
