"""`evalsuite watch`: each new checkpoint of a training is scored once."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from evalsuite.cli.generate import run_options
from evalsuite.cli.options import PLACE, POSITIVE, NumberRange, RememberedCommand
from evalsuite.errors import UsageError, printable

if TYPE_CHECKING:
    from evalsuite.artifacts.records import Record
    from evalsuite.artifacts.run_directory import RunDirectory
    from evalsuite.cli.watch_setup import WatchSetup
    from evalsuite.runtime.observing.loggers import Loggers
    from evalsuite.runtime.session import SessionRequest
    from evalsuite.sweep.watch_directory import CheckpointEntry, WatchDirectory
    from evalsuite.sweep.watching import Warm, Work

NOT_HERE: dict[str, Any] = {"weights": None, "part": None, "benchmark": None, "lock": None}
"""Options of `run` that a watch does not have."""
_SECONDS = NumberRange(min=0.1)


@click.command(
    cls=RememberedCommand,
    epilog="Examples:\n\n\b\n"
    "  evalsuite watch 'ckpts/step_*.pt' --model pixnerd-xl-256 --num-samples 10000\n"
    "  evalsuite watch 'ckpts/*.ckpt' --model pixnerd-xl-256 --every 50000 --log wandb:PROJECT/RUN",
)
@click.argument("pattern", nargs=-1, required=True, metavar="'PATTERN'")
@click.option("--every", type=POSITIVE, metavar="K", help="Only steps that are a multiple of K.")
@click.option("--poll", type=_SECONDS, metavar="SECONDS", help="Between two looks [default: 30].")
@click.option(
    "--settle",
    type=NumberRange(min=0),
    metavar="SECONDS",
    help="A file must not have changed for so long [default: 10].",
)
@click.option("--once", is_flag=True, help="Score what is there, and end.")
@click.option("--until", type=POSITIVE, metavar="STEP", help="End after a checkpoint of that step.")
@click.option("--runs", type=PLACE, help="Root of the runs, named by their plans [default: runs].")
@run_options
def watch(pattern: tuple[str, ...], **values: Any) -> None:  # noqa: ANN401 - click passes each option
    """Score each new, complete checkpoint of a training once, and draw the curve of its steps.

    PATTERN is quoted, such as 'ckpts/step_*.pt'; the step is the number after `step` in the name,
    the only number in it, or what the checkpoint says. Half-written files wait. Every checkpoint
    gets the samples of the same seeds. A watch that was ended goes on when the same command is
    given again. A checkpoint that cannot be scored is one line, and an exit code at the end.
    """
    from evalsuite.cli.output import notice, write_json
    from evalsuite.cli.watch_setup import set_up
    from evalsuite.cli.watch_view import due_lines, table_lines
    from evalsuite.sweep.watching import POLL_S, Warm, Watching
    from evalsuite.sweep.watching import watch as carry_on

    if len(pattern) > 1:
        raise UsageError(
            f"quote the pattern: the shell made {len(pattern)} names of it, and new checkpoints"
            " would not be among them"
        )
    if values["once"] and values["until"] is not None:
        raise UsageError("--once and --until exclude each other")
    if values["every"] and values["until"] is not None and values["until"] % values["every"]:
        raise UsageError(
            f"--until {values['until']} is no multiple of --every {values['every']}, so that step"
            " is never scored: change one of them"
        )
    setup = set_up(pattern[0], {**values, **NOT_HERE})
    if values["dry_run"]:
        for line in due_lines(setup):
            click.echo(line)
        return
    directory = setup.open()
    with _logging_to(setup, directory) as loggers, Warm() as warm:
        work = _work_of(setup, directory, loggers, warm)
        watching = Watching(work)
        work.refresh()
        notice(f"watching {printable(setup.manifest.pattern)}; table in {directory.root}")
        poll_s = POLL_S if values["poll"] is None else values["poll"]
        carry_on(
            watching, poll_s=poll_s, once=values["once"], until=values["until"], wait=warm.wait
        )
    if not watching.scored:
        notice("no new checkpoint was scored")
    for line in table_lines(directory):
        click.echo(line)
    if values["json_path"]:
        write_json(values["json_path"], directory.as_json())
    watching.check(once=values["once"])


@contextlib.contextmanager
def _logging_to(setup: "WatchSetup", directory: "WatchDirectory") -> "Iterator[Loggers]":
    """Loggers on the axis of the training's steps, which go on where an earlier watch ended."""
    from evalsuite.cli.logging_to import opened_loggers, plan_facts
    from evalsuite.sweep.watch_directory import OF_WEIGHTS

    manifest, prepared = setup.manifest, setup.prepared
    fields = plan_facts(prepared.request.resolved.plan)
    about = {
        "model": manifest.model,
        "pattern": manifest.pattern,
        "num_samples": manifest.num_samples,
        **{key: value for key, value in fields.items() if key not in OF_WEIGHTS},
    }
    with opened_loggers(prepared.log, directory.root.name, about, manifest.watch_id) as loggers:
        yield loggers


def _work_of(
    setup: "WatchSetup", directory: "WatchDirectory", loggers: "Loggers", warm: "Warm"
) -> "Work":
    """What the watch is carried out with; nothing is written to stdout while Ray is connected."""
    from evalsuite.cli.output import ProgressView, notice
    from evalsuite.cli.watch_view import scored_line, write_table_and_curve
    from evalsuite.runtime.session import run_session
    from evalsuite.sweep.watching import Measures, Work

    def make(request: "SessionRequest", name: str) -> "RunDirectory":
        notice(f"{name}: {request.demand.num_samples} samples, run {request.root}")
        with warm.bench() as bench, ProgressView() as view:
            return run_session(request, view.show, notice, bench).run

    def tell(entry: "CheckpointEntry", records: "Sequence[Record]") -> None:
        loggers.records(records, entry.step)
        notice(scored_line(entry, records))

    return Work(
        directory=directory,
        lookout=setup.lookout,
        every=setup.every,
        reads=setup.reads,
        request_of=setup.request_of,
        make=make,
        measures=Measures(
            setup.prepared.scoring.measures, setup.prepared.request.demand.num_samples
        ),
        tell=tell,
        refresh=lambda: write_table_and_curve(directory),
        complain=lambda line: notice(printable(line)),
    )


def _without(command: click.Command) -> None:
    """Leave out what a watch does not have; its own directory is another."""
    command.params = [param for param in command.params if param.name not in NOT_HERE]
    for param in command.params:
        if isinstance(param, click.Option) and param.name == "output":
            param.help = "Watch directory [default: watches/MODEL-WATCH]."
        elif isinstance(param, click.Option) and param.name == "num_samples":
            param.help = "Of each checkpoint [default: 50,000 ImageNet, 2,000 digits]."


_without(watch)
