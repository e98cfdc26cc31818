"""`--log`: other people's tools, open for the time of a command."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evalsuite.cli.prepare import Prepared
from evalsuite.errors import Interrupted

if TYPE_CHECKING:
    from evalsuite.config import Plan
    from evalsuite.runtime.observing.loggers import Loggers, LogTarget, Scalar


@contextlib.contextmanager
def logging_to(prepared: Prepared) -> "Iterator[Loggers]":
    """Open the loggers that were asked for, and end them, as failed if the command fails.

    Raises:
        EnvironmentProblem: one cannot be opened.
    """
    request = prepared.request
    with opened_loggers(prepared.log, request.root.name, _about(prepared)) as loggers:
        yield loggers


@contextlib.contextmanager
def opened_loggers(
    targets: "Sequence[LogTarget]",
    name: str,
    about: "Mapping[str, Scalar]",
    series: str | None = None,
) -> "Iterator[Loggers]":
    """As `logging_to`; arguments are those of `Loggers`. A signal is how a series ends."""
    from evalsuite.cli.output import notice
    from evalsuite.runtime.observing.loggers import Loggers

    loggers = Loggers(targets, name, about, notice, series)
    failed = True
    try:
        yield loggers
        failed = False
    except (Interrupted, KeyboardInterrupt):
        failed = series is None
        raise
    finally:
        loggers.close(failed=failed)


def plan_facts(plan: "Plan") -> "dict[str, Scalar]":
    """The plan's fields, flat, for a reader of a log."""
    from evalsuite.artifacts.plan_fields import flat_fields

    return {
        key: value if isinstance(value, str | int | float | bool) else str(value)
        for key, value in flat_fields(plan).items()
        if value is not None
    }


def _about(prepared: Prepared) -> "dict[str, Scalar]":
    """What a reader of the log wants to know of the run."""
    request = prepared.request
    plan = request.resolved.plan
    tags: dict[str, Any] = {f"tags.{key}": value for key, value in request.tags.items()}
    return {
        "model": request.resolved.preset.name,
        "plan_id": plan.plan_id,
        "run": str(request.root),
        "num_samples": request.demand.num_samples,
        **plan_facts(plan),
        **tags,
    }
