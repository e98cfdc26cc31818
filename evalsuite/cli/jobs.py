"""`evalsuite jobs`: look after jobs that were submitted to a cluster."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

import click

from evalsuite.errors import Interrupted

if TYPE_CHECKING:
    from evalsuite.runtime.jobs import JobServer, JobState

_ADDRESS = click.option(
    "--address",
    metavar="URL",
    help="Head's dashboard [default: $RAY_API_SERVER_ADDRESS or http://127.0.0.1:8265].",
)


@click.group(
    help="List, show, follow or stop submitted jobs.",
    epilog="Examples:\n\n\b\n  evalsuite jobs list\n  evalsuite jobs logs raysubmit_abc --follow",
)
def jobs() -> None:
    """The group of the commands below."""


@jobs.command(
    "list",
    help="The jobs that the cluster remembers, oldest first.",
    epilog="Examples:\n\n\b\n  evalsuite jobs list\n"
    "  evalsuite jobs list --address http://head:8265",
)
@_ADDRESS
def _list(address: str | None) -> None:
    from evalsuite.runtime.jobs import JobServer

    for job in JobServer(address).jobs():
        click.echo(f"{job.job_id}  {_in_words(job)}  {_command(job)}")


@jobs.command(
    "status",
    help="How the job ID stands; exits with 0 whatever that is.",
    epilog="Examples:\n\n\b\n  evalsuite jobs status raysubmit_abc\n"
    "  evalsuite jobs status nightly --address http://head:8265",
)
@click.argument("job_id", metavar="ID")
@_ADDRESS
def _status(job_id: str, address: str | None) -> None:
    from evalsuite.cli.output import duration
    from evalsuite.runtime.jobs import JobServer

    job = JobServer(address).state(job_id)
    click.echo(f"job     {job.job_id}")
    click.echo(f"status  {_in_words(job)}")
    click.echo(f"command {_command(job)}")
    if job.started_s is not None:
        click.echo(f"time    {duration((job.ended_s or time.time()) - job.started_s)}")
    if job.message:
        click.echo(f"        {job.message}")


@jobs.command(
    "logs",
    help="What the job ID has printed so far.",
    epilog="Examples:\n\n\b\n  evalsuite jobs logs raysubmit_abc\n"
    "  evalsuite jobs logs raysubmit_abc --follow",
)
@click.argument("job_id", metavar="ID")
@click.option("--follow", "-f", "following", is_flag=True, help="Go on, and exit with its code.")
@_ADDRESS
def _logs(job_id: str, following: bool, address: str | None) -> None:
    from evalsuite.runtime.jobs import JobServer

    server = JobServer(address)
    server.state(job_id)  # an unknown job is said at once
    if following:
        follow(server, job_id)
    else:
        click.echo(server.logs(job_id), nl=False)


@jobs.command(
    "stop",
    help="Stop the job ID with SIGTERM: shards in hand are committed.",
    epilog="Examples:\n\n\b\n  evalsuite jobs stop raysubmit_abc\n"
    "  evalsuite jobs stop nightly --address http://head:8265",
)
@click.argument("job_id", metavar="ID")
@_ADDRESS
def _stop(job_id: str, address: str | None) -> None:
    from evalsuite.cli.output import notice
    from evalsuite.runtime.jobs import JobServer

    server = JobServer(address)
    state = server.state(job_id)
    if state.ended or not server.stop(job_id):
        notice(f"job {job_id} had ended already: {_in_words(server.state(job_id))}")
    else:
        notice(f"job {job_id} is asked to stop; `evalsuite jobs status {job_id}` shows when it has")


def follow(server: "JobServer", job_id: str) -> NoReturn:
    """Show what a job prints, and exit as it does.

    Raises:
        Interrupted: by a signal; the job goes on.
    """
    try:
        state = server.follow(job_id, _printer())
    except (KeyboardInterrupt, Interrupted) as stopped:
        code = stopped.exit_code if isinstance(stopped, Interrupted) else 130
        raise Interrupted(
            f"no longer following job {job_id}, which goes on: `evalsuite jobs logs {job_id}"
            f" --follow` shows it again, `evalsuite jobs stop {job_id}` ends it",
            code,
        ) from stopped
    raise click.exceptions.Exit(_exit_code(state))


def _printer() -> Callable[[str], None]:
    return lambda text: click.echo(text, nl=False)


def _exit_code(job: "JobState") -> int:
    """The code of its process; 143 for a stopped job; Ray's own failures are errors of ours."""
    from evalsuite.errors import EnvironmentProblem

    if job.status == "SUCCEEDED":
        return 0
    if job.exit_code is not None and job.exit_code != 0:
        return job.exit_code if job.exit_code > 0 else 128 - job.exit_code
    if job.status == "STOPPED":
        raise Interrupted(
            f"job {job.job_id} was stopped: what was committed stays; submit the same command to"
            " go on",
            143,
        )
    raise EnvironmentProblem(f"job {job.job_id} failed: {job.message or 'Ray does not say why'}")


def _in_words(job: "JobState") -> str:
    code = "" if job.exit_code in {None, 0} else f", exit code {job.exit_code}"
    return f"{job.status.lower()}{code}"


def _command(job: "JobState") -> str:
    return job.command.removeprefix("exec ")
