"""How `evalsuite status` shows a run: once, or again and again."""

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.live import Live
from rich.text import Text

from evalsuite.cli.output import duration, speed

if TYPE_CHECKING:
    from evalsuite.artifacts.live import Cost, Counts, LiveWorker
    from evalsuite.pipeline.standing import InvocationStanding, StageStanding, Standing

MOST_WORKERS = 16
"""Listed one by one; more are counted by host."""
MOST_INVOCATIONS = 12
_MOST_GAPS = 4
_MOST_DAMAGED = 6


def lines_of(standing: "Standing") -> list[str]:
    """Everything, as lines of plain text."""
    return [
        f"model   {standing.model}",
        f"plan    {standing.plan_id}",
        f"asked   {standing.asked} samples, stored in whole batches of {standing.batch_size}",
        *(_stage_line(stage) for stage in standing.stages),
        *(f"damaged {text}" for text in standing.damaged[:_MOST_DAMAGED]),
        *_more_lines(len(standing.damaged) - _MOST_DAMAGED),
        *_now_lines(standing),
        *_cost_lines(standing),
        *_invocation_lines(standing.invocations),
    ]


def watch_run(look: Callable[[], "Standing"], every_s: float) -> None:
    """Show a run until it is complete and nobody works on it any more.

    On a terminal in place; else one line for each change.
    """
    show = _watch_terminal if sys.stdout.isatty() else _watch_lines
    show(_looks(look, every_s))


def _looks(look: Callable[[], "Standing"], every_s: float) -> "Iterator[Standing]":
    while True:
        standing = look()
        yield standing
        if standing.complete and not standing.live:
            return
        time.sleep(every_s)


def _watch_terminal(looks: "Iterator[Standing]") -> None:
    console = Console(highlight=False)
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        for standing in looks:
            lines = fitted(lines_of(standing), console.width, console.height)
            live.update(Text("\n".join(lines), no_wrap=True), refresh=True)


def _watch_lines(looks: "Iterator[Standing]") -> None:
    last = ""
    for standing in looks:
        line = one_line(standing)
        if line != last:
            click.echo(line)
        last = line


def fitted(lines: Sequence[str], width: int, height: int) -> list[str]:
    """Lines cut to a terminal; what is too long ends in an ellipsis."""
    cut = [line if len(line) <= width else line[: width - 1] + "…" for line in lines]
    if len(cut) < height:
        return cut
    return [*cut[: max(1, height - 2)], "…"]


def one_line(standing: "Standing") -> str:
    """Where a run stands, in one line: what changes while it goes on."""
    images = standing.stages[0]
    parts = [f"images {images.samples}/{images.asked}"]
    parts += [f"{_short(s.stage)} {s.samples}/{s.asked}" for s in standing.stages[1:]]
    workers = [worker for one in standing.live for worker in one.workers]
    loading = sum(worker.state == "loading" for worker in workers)
    parts += [_many(len(workers), "worker")] if workers else []
    parts += [f"{loading} loading"] if loading else []
    parts += _counted(standing.counts)
    parts += [] if standing.live else ["complete" if standing.complete else "nobody at work"]
    return ", ".join(parts)


def _more_lines(hidden: int) -> list[str]:
    return [f"        and {hidden} more damaged files"] if hidden > 0 else []


def _stage_line(stage: "StageStanding") -> str:
    listed = ", ".join(f"{low}..{high - 1}" for low, high in stage.missing[:_MOST_GAPS])
    more = f", ... ({len(stage.missing)} ranges)" if stage.missing[_MOST_GAPS:] else ""
    return f"{stage.stage}: {stage.samples} samples in {stage.shards} shards, " + (
        f"missing {listed}{more}" if stage.missing else "complete"
    )


def _now_lines(standing: "Standing") -> list[str]:
    """Who is at work, how fast, and what went wrong so far."""
    lines = []
    live, counted = standing.live, _counted(standing.counts)
    if live:
        done = sum(one.images_done for one in live)
        total = sum(one.images_total for one in live)
        rate, left = standing.images_per_second, standing.seconds_left
        parts = [f"{done}/{total} images of this work"] if total else ["not begun yet"]
        parts += [speed(rate)] if rate else []
        parts += [f"{duration(left)} left"] if left is not None and total else []
        lines.append(f"now     {', '.join(parts)}")
    if counted:
        lines.append(f"notes   {', '.join(counted)}")
    for one in live:
        lines += _worker_lines(one.workers)
    return lines


def _worker_lines(workers: "Sequence[LiveWorker]") -> list[str]:
    if len(workers) <= MOST_WORKERS:
        return [f"        {_worker_line(worker)}" for worker in workers]
    hosts = Counter(worker.host or "not started" for worker in workers)
    loading = Counter(w.host or "not started" for w in workers if w.state == "loading")
    shards = Counter(w.host or "not started" for w in workers for _ in w.holds)
    return [
        f"        {host}: {_many(count, 'worker')}, {loading[host]} loading,"
        f" {_many(shards[host], 'shard')} in hand"
        for host, count in sorted(hosts.items())[:MOST_WORKERS]
    ] + (
        [f"        and {len(hosts) - MOST_WORKERS} more hosts"] if len(hosts) > MOST_WORKERS else []
    )


def _worker_line(worker: "LiveWorker") -> str:
    if worker.state == "loading":
        where = f" on {worker.host}" if worker.host else ""
        return f"{worker.name}{where}: loading for {_since(worker.since)}"
    held = [f"{hold.start}..{hold.stop - 1} for {_since(hold.since)}" for hold in worker.holds]
    where = f"{worker.name} on {worker.host}, pid {worker.pid}, {worker.device}"
    return f"{where}: {'; '.join(held) or 'idle'}"


def _counted(counts: "Counts") -> list[str]:
    """What is not as it should be, or worth knowing; nothing on a quiet run."""
    named = {
        "retried": counts.shards_retried,
        "computed twice": counts.shards_computed_twice,
        "copied": counts.shards_copied,
        "set aside": counts.shards_quarantined,
    }
    lost = f"{_many(counts.workers_lost, 'worker')} lost"
    return [f"{_many(count, 'shard')} {name}" for name, count in named.items() if count] + (
        [lost] if counts.workers_lost else []
    )


def _cost_lines(standing: "Standing") -> list[str]:
    spent = cost_text(standing.cost) or "nothing"
    return [
        f"cost    {spent}",
        f"        {duration(standing.compute_seconds)} of workers' time in what is committed,"
        f" {_many(len(standing.invocations), 'invocation')}",
    ]


def cost_text(cost: "Cost") -> str:
    """`1.25 GPU-hours, 0.75 kWh, money 3.12 (2.5 per GPU-hour)`; what is unknown is left out."""
    parts = [f"{_hours(cost.gpu_hours)} GPU-hours"] if cost.gpu_hours else []
    parts += [f"{_hours(cost.cpu_hours)} CPU-hours"] if cost.cpu_hours else []
    parts += [f"{cost.energy_joules / 3.6e6:.3g} kWh"] if cost.energy_joules is not None else []
    if cost.money is not None:
        price = cost.price_per_gpu_hour
        parts.append(f"money {cost.money:.2f}" + (f" ({price:g} per GPU-hour)" if price else ""))
    return ", ".join(parts)


def _since(moment: float) -> str:
    return duration(max(0.0, time.time() - moment))


def _hours(hours: float) -> str:
    return f"{hours:.4f}" if hours < 1 else f"{hours:.2f}"


def _invocation_lines(invocations: "Sequence[InvocationStanding]") -> list[str]:
    shown = invocations[-MOST_INVOCATIONS:]
    hidden = len(invocations) - len(shown)
    lines = [f"        {hidden} earlier invocations"] if hidden else []
    return lines + [f"        {one.started_at}  {_said(one)}" for one in shown]


def _said(one: "InvocationStanding") -> str:
    """What became of an invocation; of one that noted no end, what it has committed."""
    cost = cost_text(one.cost)
    if one.state == "ended":
        return f"{one.images} images  {one.outcome}" + (f"  ({cost})" if cost else "")
    where = f"pid {one.pid} on {one.host}"
    silence = "" if one.silent_s is None else f"no sign of life for {duration(one.silent_s)}"
    said = {
        "running": f"running, {where}",
        "silent": f"running, but {silence}: {where} may be stopped or hang",
        "killed": f"killed: {where} is gone",
        "lost": f"lost: {silence} from {where}",
        "unknown": "no end noted: still running, or killed",
    }[one.state]
    last = f", last at {one.last_commit_at}" if one.last_commit_at else ""
    return f"{said}; {one.images} images committed{last}" + (f"  ({cost})" if cost else "")


def _short(stage: str) -> str:
    return "features" if stage.startswith("features/") else stage


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
