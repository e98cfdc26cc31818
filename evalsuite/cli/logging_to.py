"""`--log`: other people's tools, open for the time of a command."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from evalsuite.cli.prepare import Prepared

if TYPE_CHECKING:
    from evalsuite.runtime.observing.loggers import Loggers, Scalar


@contextlib.contextmanager
def logging_to(prepared: Prepared) -> "Iterator[Loggers]":
    """Open the loggers that were asked for, and end them, as failed if the command fails.

    Raises:
        EnvironmentProblem: one cannot be opened.
    """
    from evalsuite.cli.output import notice
    from evalsuite.runtime.observing.loggers import Loggers

    request = prepared.request
    loggers = Loggers(prepared.log, request.root.name, _about(prepared), notice)
    failed = True
    try:
        yield loggers
        failed = False
    finally:
        loggers.close(failed=failed)


def _about(prepared: Prepared) -> "dict[str, Scalar]":
    """What a reader of the log wants to know of the run: the plan's fields, flat."""
    from evalsuite.artifacts.run_directory import flat_fields

    request = prepared.request
    plan = request.resolved.plan
    fields = {
        key: value if isinstance(value, str | int | float | bool) else str(value)
        for key, value in flat_fields(plan).items()
        if value is not None
    }
    tags = {f"tags.{key}": value for key, value in request.tags.items()}
    return {
        "model": request.resolved.preset.name,
        "plan_id": plan.plan_id,
        "run": str(request.root),
        "num_samples": request.demand.num_samples,
        **fields,
        **tags,
    }
