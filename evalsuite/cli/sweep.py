"""`evalsuite sweep`: many settings on the same samples, dropped by rungs."""

from typing import TYPE_CHECKING, Any

import click

from evalsuite.cli.generate import run_options
from evalsuite.cli.options import (
    PLACE,
    POSITIVE,
    SAMPLING_FIELDS,
    RememberedCommand,
)

if TYPE_CHECKING:
    from evalsuite.artifacts.run_directory import RunDirectory
    from evalsuite.cli.sweep_setup import SweepSetup
    from evalsuite.runtime.session import SessionRequest
    from evalsuite.sweep.directory import SweepDirectory
    from evalsuite.sweep.tables import RungTable, SweepResult

LISTS = (
    *SAMPLING_FIELDS,
    *("weights", "ema", "batch_size"),
    *("guide_weights", "guide_model", "guide_ema", "guide_condition"),
)
"""Options that take several values here; see `sweep.axes`."""
_NOT_HERE: dict[str, Any] = {"part": None, "benchmark": None, "shard_format": None, "log": ()}
"""Options of `run` that a sweep does not have."""


def _parse_axis(text: str) -> tuple[str, str]:
    key, equals, values = text.partition("=")
    if key and equals:
        return key, values
    raise click.BadParameter(f"{text!r} is not KEY=VALUES, such as skip_unguided=true,false")


def _parse_rungs(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if all(part.isdecimal() for part in parts):
        return tuple(int(part) for part in parts)
    raise click.BadParameter(f"{text!r} is no list of numbers of samples, such as 2000,8000,50000")


@click.command(
    cls=RememberedCommand,
    epilog="Examples:\n\n\b\n"
    "  evalsuite sweep --model pixnerd-digits --guidance-scale 1:3:0.5 --rungs 500,2000\n"
    "  evalsuite sweep --spec pixnerd-xl-512 --dry-run",
)
@click.option("--spec", metavar="NAME|SPEC.yaml", help="Model, axes, rungs and more from a file.")
@click.option(
    "--rungs",
    type=_parse_rungs,
    metavar="N,N,...",
    help="Samples of each rung; each extends the one before [default: the preset's N; for halving"
    " by FID 2000 and 8000 before it, or a quarter of it].",
)
@click.option(
    "--strategy",
    type=click.Choice(["grid", "halving"]),
    help="halving drops what the leader's paired interval excludes [default: halving].",
)
@click.option("--metric", metavar="NAME", help="What decides [default: fid].")
@click.option(
    "--better", type=click.Choice(["lower", "higher"]), help="[default: the metric's own]."
)
@click.option("--budget", type=POSITIVE, help="Samples that all rungs together may take.")
@click.option(
    "--fresh-replicate",
    type=click.IntRange(0, 428),
    help="Seeds on which the winner is scored again [default: the next replicate].",
)
@click.option("--no-fresh", is_flag=True, help="Do not score the winner on fresh seeds.")
@click.option("--runs", type=PLACE, help="Root of the runs, named by their plans [default: runs].")
@run_options
def sweep(**values: Any) -> None:  # noqa: ANN401 - click passes each option
    """Try every combination of the values that are given, on samples that share their seeds.

    Options of the sampler, --weights, --ema and --set take ranges (START:STOP:STEP, STOP included)
    and lists (1,2,3); --guidance-interval takes LO:HI,LO:HI, and --weights globs. Each rung extends
    the samples of the one before, and no sample is made twice, by this sweep, another, or `run`. A
    sweep that was ended goes on when the same command is given again.

    Below 10 samples per feature dimension settings are ranked by FID extrapolated to infinite N:
    the bias of plain FID there differs from setting to setting.
    """
    from evalsuite.cli.output import notice, write_json
    from evalsuite.cli.sweep_setup import confirm_sweep, set_up
    from evalsuite.cli.sweep_view import plan_lines, result_lines, rung_lines
    from evalsuite.report.sweep_page import write_sweep_report

    setup = set_up({**values, **_NOT_HERE})
    for line in plan_lines(setup):
        (click.echo if values["dry_run"] else notice)(line)
    if values["dry_run"]:
        return
    confirm_sweep(setup, values)
    directory = setup.open()
    result = _conducted(setup, directory, hash_all=values["hash_all"])
    for table in directory.rungs():
        for line in rung_lines(table):
            click.echo(line)
    for line in result_lines(directory, result):
        click.echo(line)
    click.echo(f"sweep   {directory.root}")
    click.echo(f"report  {write_sweep_report(directory)}")
    if values["json_path"]:
        write_json(values["json_path"], directory.as_json())


def _conducted(
    setup: "SweepSetup", directory: "SweepDirectory", *, hash_all: bool
) -> "SweepResult":
    """Carry the sweep out with workers that stay, and say how often networks were loaded."""
    from evalsuite.artifacts.run_directory import RunDirectory
    from evalsuite.cli.output import ProgressView, notice
    from evalsuite.cli.sweep_view import rung_line
    from evalsuite.errors import DivergedError
    from evalsuite.runtime.bench import Bench
    from evalsuite.runtime.session import run_session
    from evalsuite.sweep.conducting import Work, conduct, is_complete

    sessions = images = 0

    def make(request: "SessionRequest", name: str) -> "RunDirectory":
        nonlocal sessions, images
        if not hash_all and is_complete(request):
            return RunDirectory.open(request.root)
        notice(f"{name}: {request.demand.num_samples} samples, run {request.root}")
        sessions += 1
        try:
            with ProgressView() as view:
                done = run_session(request, view.show, notice, bench)
        except DivergedError as error:
            notice(f"{name}: {error}")
            raise
        images += done.images_made
        return done.run

    def tell(table: "RungTable") -> None:
        notice(rung_line(table))

    with Bench() as bench:
        work = Work(directory, setup.trials, setup.fresh, setup.scale, make, tell)
        result = conduct(work)
    if sessions:
        notice(
            f"{images} images made in {sessions} parts, each of one configuration for one rung;"
            f" networks loaded {bench.loads} times, kept {bench.kept} times"
        )
    else:
        notice("nothing was missing")
    return result


def _with_lists(command: click.Command) -> None:
    """Let options take several values, and leave out what a sweep does not have."""
    command.params = [param for param in command.params if param.name not in _NOT_HERE]
    for param in command.params:
        assert isinstance(param, click.Option)
        if param.name in LISTS:
            param.type, param.nargs, param.metavar = click.STRING, 1, "VALUES"
        elif param.name == "settings":
            param.type = click.types.FuncParamType(_parse_axis)
            param.metavar, param.help = "KEY=VALUES", "Any other setting of the sampler."
        elif param.name == "model":
            param.required = False
        elif param.name == "output":
            param.help = "Sweep directory [default: sweeps/MODEL-SWEEP]."
        elif param.name == "num_samples":
            param.help = "Of the last rung; larger rungs are left out."


_with_lists(sweep)
