"""`evalsuite submit`: run a command on a cluster, through the job server of its head."""

import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from evalsuite.cli.options import PATH, parse_tag
from evalsuite.errors import UsageError

if TYPE_CHECKING:
    from evalsuite.runtime.jobs import JobServer

_DRIVEN = ("run", "generate", "sweep", "watch")
"""Commands whose driver starts workers: in a job they do so on the cluster."""
_ASKED = ("evaluate", "t2i")
"""Commands that find the cluster by the job's environment: their workers may not be needed."""
_NOT_IN_A_JOB = ("submit", "jobs")
_LASTING = ("output", "runs", "json_path")
"""Options that name what must outlive the job's own folder."""


class Job(NamedTuple):
    """What is submitted."""

    words: list[str]
    """The command line after `evalsuite`."""
    env: dict[str, str]
    python: str


@click.command(
    context_settings={"allow_interspersed_args": False},
    epilog="Examples:\n\n\b\n"
    "  evalsuite submit -- run --model pixnerd-digits --output /shared/runs/digits\n"
    "  evalsuite submit --spec jobs/pixnerd-xl-256.yaml --detach -- --output /shared/runs/pixnerd",
)
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "--address",
    metavar="URL",
    help="Head's dashboard [default: $RAY_API_SERVER_ADDRESS or http://127.0.0.1:8265].",
)
@click.option("--spec", metavar="NAME|SPEC.yaml", help="A job of jobs/; COMMAND adds options.")
@click.option("--detach", is_flag=True, help="Print the job's id and leave.")
@click.option("--id", "job_id", metavar="NAME", help="Of the job [default: made up by Ray].")
@click.option(
    "--env",
    "env",
    type=parse_tag,
    metavar="KEY=VALUE",
    multiple=True,
    help="A variable of the job; no secret: the dashboard shows it.",
)
@click.option("--python", metavar="PATH", help="Interpreter on the cluster [default: python].")
@click.option(
    "--package",
    type=PATH,
    metavar="FOLDER",
    help="Files to take along: what git tracks or would track there [default: this folder].",
)
@click.option("--no-package", is_flag=True, help="Take none: use the cluster's evalsuite.")
def submit(command: tuple[str, ...], **values: Any) -> None:  # noqa: ANN401 - click passes each option
    """Run COMMAND, such as `run ...`, as a job on a cluster; show its output, exit with its code.

    The job's driver runs on the head and its workers on the cluster (`--address auto` is added, or
    stands for an `evaluate` of samples in its environment).
    It runs in a copy of this folder: files that git ignores, runs/ and .venv stay here, and at most
    100 MiB go along. The copy goes away with the job, so --output must be absolute, on a file
    system that every node mounts, or a URL. If the head is lost, submit the same command again:
    the run goes on from what was committed. Ctrl-C leaves the job running.
    """
    from evalsuite.cli.jobs import follow
    from evalsuite.cli.output import notice
    from evalsuite.runtime.jobs import JobServer

    if values["package"] and values["no_package"]:
        raise UsageError("--package and --no-package exclude each other")
    job = job_of(command, values["spec"], dict(values["env"]), values["python"])
    server = JobServer(values["address"])
    if server.is_open():
        notice(
            f"the job server at {server.address} takes jobs without a token: whoever reaches it"
            " runs code there; start the cluster with RAY_AUTH_MODE=token"
        )
    with tempfile.TemporaryDirectory(prefix="evalsuite-") as folder:
        job_id = _send(server, job, values, Path(folder) / "package.zip")
    if values["detach"]:
        notice(f"submitted: `evalsuite jobs status|logs|stop {job_id}` look after it")
        click.echo(job_id)
        return
    notice(f"job {job_id} at {server.address}")
    follow(server, job_id)


def job_of(
    command: Sequence[str], spec: str | None, env: dict[str, str], python: str | None
) -> Job:
    """The job that a command line and a spec make; it is parsed here, before anything is sent.

    Raises:
        UsageError: neither or both name a command, an option is wrong, or results would be lost.
    """
    from evalsuite.config import JobSpec, is_secret, load_spec
    from evalsuite.runtime.cluster import JOB_ADDRESS

    secret = sorted(name for name in env if is_secret(name))
    if secret:
        raise UsageError(
            f"--env {secret[0]} looks like a secret, which the dashboard would show: set it on the"
            " nodes instead"
        )
    words = list(command)
    interpreter = python or "python"
    if spec is not None:
        job = load_spec(JobSpec, spec)
        if job.waits_for is not None:
            raise UsageError(f"{spec} cannot be submitted yet: it waits for {job.waits_for}")
        if words and not words[0].startswith("-"):
            raise UsageError(
                f"--spec {spec} has a command already: give only options after `--`, not"
                f" {words[0]!r}"
            )
        words = [*job.words, *words]
        env, interpreter = {**job.env, **env}, python or job.python
    if not words:
        raise UsageError("there is nothing to submit: give a command after `--`, or --spec")
    words = _checked(words)
    if words[0] in _ASKED:  # samples of others want workers, a run refuses an --address
        env = {JOB_ADDRESS: "auto", **env}
    return Job(words, env, interpreter)


def parsed(words: Sequence[str]) -> click.Context:
    """A command line after `evalsuite` as its command understands it.

    Raises:
        click.UsageError: it does not.
        UsageError: there is no such command, or it has no place in a job.
    """
    from evalsuite.cli.main import COMMANDS, cli
    from evalsuite.errors import nearest

    name, rest = words[0], list(words[1:])
    if name in _NOT_IN_A_JOB or name not in COMMANDS:
        known = set(COMMANDS) - set(_NOT_IN_A_JOB)
        raise UsageError(f"{name!r} cannot be submitted: {nearest(name, known)}")
    top = click.Context(cli, info_name="evalsuite")
    command: click.Command | None = cli.get_command(top, name)
    context = top
    while True:
        assert command is not None
        context = command.make_context(name, rest, parent=context)
        if not isinstance(command, click.Group):
            return context
        found, command, rest = command.resolve_command(context, rest[:1] + context.args)
        name = str(found)


def _checked(words: list[str]) -> list[str]:
    """The words with what a job adds; results that would go away with the job are refused."""
    from evalsuite.runtime.observing.loggers import parse_target

    params = parsed(words).params
    for name in _LASTING:
        value = params.get(name)
        if value is not None:
            _check_lasting("--json" if name == "json_path" else f"--{name}", str(value))
    for text in params.get("log") or ():
        target = parse_target(text)
        if target.kind != "wandb":
            _check_lasting(f"--log {target.kind}:", target.place)
    if words[0] not in _DRIVEN:
        return words
    if params.get("output") is None:
        raise UsageError(
            f"`{words[0]}` in a job needs --output: an absolute path on a file system that every"
            " node mounts, or a URL"
        )
    if words[0] in {"sweep", "watch"} and params.get("runs") is None:
        raise UsageError(
            f"`{words[0]}` in a job needs --runs too, beside --output: the root of its runs, as"
            " lasting"
        )
    if not all(pattern.startswith("/") for pattern in params.get("pattern") or ()):
        raise UsageError(
            "`watch` in a job needs an absolute pattern: its own folder has no checkpoints"
        )
    return words if params.get("address") else [*words, "--address", "auto"]


def _check_lasting(flag: str, place: str) -> None:
    if not place.startswith("/") and "://" not in place:
        space = "" if flag.endswith(":") else " "
        raise UsageError(
            f"{flag}{space}{place} lies in the job's own folder, which goes away with the job: give"
            " an absolute path on a file system that every node mounts, or a URL"
        )


def _send(server: "JobServer", job: Job, values: dict[str, Any], archive: Path) -> str:
    from evalsuite.cli.output import data_size, notice
    from evalsuite.pipeline.provenance import SUBMITTED_REVISION
    from evalsuite.runtime.package import make_package

    env = dict(job.env)
    package = None
    if not values["no_package"]:
        package = make_package(values["package"] or Path(), archive)
        more = "; left out, since no file of it: " if package.left_out else ""
        notice(
            f"package of {package.num_files} files, {data_size(package.num_bytes)}"
            f"{more}{', '.join(package.left_out[:3])}"
        )
        if package.holds_evalsuite and package.revision:
            env[SUBMITTED_REVISION] = package.revision
    line = shlex.join([job.python, "-m", "evalsuite", *job.words])
    return server.submit(f"exec {line}", package.path if package else None, env, values["job_id"])
