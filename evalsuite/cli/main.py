"""The entry point: commands that are imported when they are used, errors in one line."""

import functools
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click

from evalsuite import __version__
from evalsuite.errors import EvalsuiteError, Interrupted, StorageError, nearest
from evalsuite.runtime.signals import stop_code

COMMANDS = {
    "run": ("evalsuite.cli.generate", "run", "Generate images, score them, and leave a report."),
    "generate": ("evalsuite.cli.generate", "generate", "Generate images without scoring."),
    "sweep": ("evalsuite.cli.sweep", "sweep", "Try many settings on the same samples."),
    "watch": ("evalsuite.cli.watch", "watch", "Score each new checkpoint of a training."),
    "evaluate": ("evalsuite.cli.evaluate", "evaluate", "Score a run, an NPZ, a folder or Parquet."),
    "compare": ("evalsuite.cli.compare", "compare", "Differences with intervals, if comparable."),
    "leaderboard": ("evalsuite.cli.leaderboard", "leaderboard", "Results beside claims; checks."),
    "plot": ("evalsuite.cli.plot", "plot", "Plot a metric against a setting, cost or step."),
    "verify-claim": ("evalsuite.cli.verify_claim", "verify_claim", "Is a published FID right?"),
    "why": ("evalsuite.cli.why", "why", "Find why a number does not reproduce."),
    "classes": ("evalsuite.cli.analyse", "classes", "Show which classes push a distance up."),
    "neighbours": ("evalsuite.cli.analyse", "neighbours", "Find the real images nearest to some."),
    "sample": ("evalsuite.cli.sample", "sample", "Make one image again, by its index."),
    "verify": ("evalsuite.cli.verify", "verify", "Check a run's files and recompute some batches."),
    "status": ("evalsuite.cli.status", "status", "Show what a run holds and lacks."),
    "submit": ("evalsuite.cli.submit", "submit", "Run a command as a job on a cluster."),
    "jobs": ("evalsuite.cli.jobs", "jobs", "List, show, follow or stop submitted jobs."),
    "export": ("evalsuite.cli.export", "export", "Write a run's images as ADM NPZ or PNG."),
    "report": ("evalsuite.cli.report", "report", "Write a run's HTML report again."),
    "t2i": ("evalsuite.cli.t2i", "t2i", "Score text to image: GenEval, DPG-Bench, others."),
    "gc": ("evalsuite.cli.gc", "gc", "Remove files that no receipt names."),
    "models": ("evalsuite.cli.catalogue", "models", "List or show model presets."),
    "references": ("evalsuite.cli.references", "references", "List, fetch or build references."),
    "extractors": ("evalsuite.cli.catalogue", "extractors", "List, show or fetch extractors."),
    "protocols": ("evalsuite.cli.catalogue", "protocols", "List or show named protocols."),
    "parity": ("evalsuite.cli.parity", "parity", "Compare TensorFlow's numbers with ours."),
    "selftest": ("evalsuite.cli.selftest", "selftest", "Check published numbers on this machine."),
    "fetch": ("evalsuite.cli.fetch", "fetch", "Bring what an offline run will open."),
    "inspect": ("evalsuite.cli.checkpoint", "inspect_checkpoint", "Say what a checkpoint holds."),
    "convert": ("evalsuite.cli.checkpoint", "convert", "Write a checkpoint's weights safely."),
    "doctor": ("evalsuite.cli.doctor", "doctor", "Say what this machine can do."),
}


_RESUMED = ("run", "generate", "sweep", "watch", "evaluate", "verify-claim", "t2i")
"""Commands that commit what they make piece by piece; all others begin anew."""


class LazyGroup(click.Group):
    """Imports a command's module when the command is used, so that `--help` is quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Names in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import and return a command."""
        if cmd_name not in COMMANDS:
            return None
        module, name, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Name the nearest command when there is no such one."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise click.UsageError(f"no command {args[0]!r}: {nearest(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """One line for each command, without importing it."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry[2]) for name, entry in COMMANDS.items()])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Examples:\n\n\b\n  evalsuite run --model pixnerd-digits\n"
    "  evalsuite evaluate samples.npz --reference digits-16-train",
)
@click.version_option(__version__, prog_name="evalsuite")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """Generate and score images of diffusion models: the same plan, the same pixels and numbers."""
    ctx.obj = {"debug": debug}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; expected errors become one line on stderr and their exit code."""
    if sys.stdout is None:  # closed by the caller: results go nowhere, messages still to stderr
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - for the whole process
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = ["--debug", *(a for a in given if a != "--debug")] if debug else given
    command = next((argument for argument in given if argument in COMMANDS), "")
    _handle_signals(command, given)
    try:
        code: Any = cli.main(args=given, prog_name="evalsuite", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.Exit as error:
        code = error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        code = 2
    except click.ClickException as error:
        where = (
            f" (see `{error.ctx.command_path} --help`)"
            if isinstance(error, click.UsageError) and error.ctx
            else ""
        )
        _complain(f"{' '.join(error.format_message().split())}{where}")
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        _complain(_stopped_by("Ctrl-C", command))
        code = 130
    except EvalsuiteError as error:
        if debug:
            raise
        _complain(str(error))
        code = error.exit_code
    except BrokenPipeError:
        sys.stderr.close()
        code = 141
    except OSError as error:
        if debug:
            raise
        _complain(f"cannot use {error.filename or 'a file'}: {error.strerror or error}")
        code = StorageError.exit_code
    _end(code if isinstance(code, int) else 0)


def _end(code: int) -> NoReturn:
    """Leave, without Ray's own farewell when it waits for a head that is gone."""
    cluster = sys.modules.get("evalsuite.runtime.cluster")
    if cluster is not None and cluster.is_stuck():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _handle_signals(command: str, given: Sequence[str]) -> None:
    is_share = any(word.partition("=")[0] == "--part" for word in given)
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, functools.partial(_terminated, command, is_share))


def _terminated(command: str, is_share: bool, number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - a handler's shape
    name = signal.Signals(number).name
    raise Interrupted(_stopped_by(name, command), stop_code(number, is_share=is_share))


def _stopped_by(cause: str, command: str) -> str:
    stays = "what was committed stays; " if command in _RESUMED else ""
    return f"stopped by {cause}: {stays}run the same command again{' to go on' if stays else ''}"


def _complain(message: str) -> None:
    click.echo(f"evalsuite: {message}", err=True)
