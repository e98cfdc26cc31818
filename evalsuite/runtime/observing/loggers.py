"""Loggers of other people's tools, behind one small interface; each package is imported when used.

`wandb:PROJECT[/RUN]`, `tensorboard:DIR`, `mlflow:URI[#EXPERIMENT]`. They are told progress now and
then and the records at the end; those of a series (a training that is watched) are told the records
of each training step, and go on where its earlier invocations ended. What goes wrong at the start
is an error in one line, before any work; what goes wrong later (a server that is gone) never ends a
run. They have a thread of their own, so that a slow server holds nothing up.
"""

import contextlib
import functools
import importlib.util
import os
import queue
import secrets
import textwrap
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from evalsuite.artifacts.records import Record
from evalsuite.errors import EnvironmentProblem, UsageError, first_line
from evalsuite.runtime.progress import Progress

Scalar = str | int | float | bool
_LONGEST_REASON = 160  # characters: urllib3 alone says 400
EVERY_S = 10.0
"""Progress is logged at most so often."""
CLOSING_S = 60.0
_MOST_WAITING = 100
_TRAIN_STEP = "evalsuite/train_step"
"""Axis of a series in wandb, whose own step is that of who trains, and never goes back."""
_SERIES_TAG = "evalsuite_watch"


class LogTarget(NamedTuple):
    """Where to log to, as `--log` names it."""

    kind: str
    place: str
    name: str | None = None
    """Of a run in wandb, of an experiment in MLflow."""


class Logger(Protocol):
    """What each of them can do."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Note values at a step: images, samples scored, or the training step of a series."""

    def close(self, *, failed: bool) -> None:
        """End; everything is on its way when it returns."""


def parse_target(text: str) -> LogTarget:
    """Read the value of `--log`.

    Raises:
        UsageError: it names no logger or no place.

    >>> parse_target("mlflow:http://host:5000#fid")
    LogTarget(kind='mlflow', place='http://host:5000', name='fid')
    """
    kind, _, place = text.partition(":")
    if kind not in _OPENERS or not place:
        raise UsageError(
            f"--log {text}: give wandb:PROJECT[/RUN], tensorboard:DIR or mlflow:URI[#EXPERIMENT]"
        )
    if kind == "tensorboard":
        return LogTarget(kind, place)
    place, _, name = place.partition("/" if kind == "wandb" else "#")
    if not place:
        raise UsageError(f"--log {text}: names no {'project' if kind == 'wandb' else 'URI'}")
    return LogTarget(kind, place, name or None)


def check_installed(targets: Sequence[LogTarget]) -> None:
    """Refuse loggers whose package is missing, before any work.

    Raises:
        EnvironmentProblem: a package is not installed; the line says how to install it.
    """
    for target in targets:
        if importlib.util.find_spec(_PACKAGES[target.kind]) is None:
            raise EnvironmentProblem(
                f"--log {target.kind}: {_PACKAGES[target.kind]} is not installed: pip install"
                f" 'evalsuite[{target.kind}]'"
            )


class Loggers:
    """All loggers of an invocation."""

    def __init__(
        self,
        targets: Sequence[LogTarget],
        run_name: str,
        about: Mapping[str, Scalar],
        notice: Callable[[str], None],
        series: str | None = None,
    ) -> None:
        """Open them.

        Args:
            targets: where to.
            run_name: the run directory's name.
            about: what is known of the run: plan, model, settings.
            notice: is told, once for each, that a logger fails.
            series: identity of a training whose checkpoints are logged one by one, at their steps:
                every invocation of it logs into the same place. None of a single run.

        Raises:
            EnvironmentProblem: a package is missing, or a place cannot be used.
        """
        self._notice = notice
        self._open: dict[str, Logger] = {}
        self._said: set[str] = set()
        self._logged_s, self._most_done = float("-inf"), 0
        self._queue: queue.Queue[tuple[Mapping[str, float], int] | None] = queue.Queue(
            _MOST_WAITING
        )
        self._thread = threading.Thread(target=self._drain, name="evalsuite-loggers", daemon=True)
        for target in targets:
            key = f"{target.kind}:{target.place}"
            try:
                self._open[key] = _OPENERS[target.kind](target, run_name, about, series)
            except Exception as error:
                self._end(failed=True)
                if isinstance(error, EnvironmentProblem):
                    raise
                said = textwrap.shorten(first_line(error), _LONGEST_REASON, placeholder=" ...")
                raise EnvironmentProblem(f"--log {key}: {said}") from error
        self._thread.start()

    def progress(self, standing: Progress) -> None:
        """Log how far the images are, every few seconds and at the end; never waits."""
        now = time.monotonic()
        at_end = standing.images_done == standing.images_total > self._most_done
        if not self._open or (now - self._logged_s < EVERY_S and not at_end):
            return
        self._logged_s = now
        self._most_done = max(self._most_done, standing.images_done)
        values: dict[str, float] = {
            "progress/images_done": self._most_done,
            "progress/images_total": standing.images_total,
            "progress/workers": standing.workers,
            "progress/workers_lost": standing.losses,
        }
        if standing.images_per_second is not None:
            values["progress/images_per_second"] = standing.images_per_second
        with contextlib.suppress(queue.Full):  # the next one says more
            self._queue.put_nowait((values, self._most_done))

    def records(self, records: Sequence[Record], step: int) -> None:
        """Log final numbers, by protocol and name, with their standard errors, and the cost.

        Args:
            records: of one run.
            step: the number of samples; of a series the training step.
        """
        values: dict[str, float] = {}
        for record in records:
            values |= _values_of(record)
        if values and self._open:
            self._put((values, max(step, self._most_done)))

    def close(self, *, failed: bool) -> None:
        """End all of them, within a minute."""
        self._put(None)
        self._thread.join(timeout=CLOSING_S)
        if self._thread.is_alive():
            self._notice("--log: a logger does not end; what it still held is lost")
            return
        self._end(failed=failed)

    def _put(self, item: tuple[Mapping[str, float], int] | None) -> None:
        try:
            self._queue.put(item, timeout=CLOSING_S)
        except queue.Full:
            self._notice("--log: a logger does not take more; what it was told last is lost")

    def _drain(self) -> None:
        while (item := self._queue.get()) is not None:
            for key, logger in self._open.items():
                self._guard(key, functools.partial(logger.log, *item))

    def _end(self, *, failed: bool) -> None:
        for key, logger in self._open.items():
            self._guard(key, functools.partial(logger.close, failed=failed))
        self._open.clear()

    def _guard(self, key: str, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # noqa: BLE001 - a tool that watches must not end the work
            if key not in self._said:
                self._said.add(key)
                self._notice(f"--log {key} failed, the run goes on: {first_line(error)}")


def _values_of(record: Record) -> dict[str, float]:
    name = f"{record.protocol_name or record.protocol_id}/{record.display}"
    values = {
        name: record.value,
        f"{name}_standard_error": record.standard_error,
        **{f"cost/{key}": record.cost.get(key) for key in ("gpu_hours", "energy_joules", "money")},
    }
    return {key: value for key, value in values.items() if value is not None}


class _TensorBoard:
    """Event files by tensorboardX: torch's own writer loads TensorFlow where it is installed."""

    def __init__(
        self,
        target: LogTarget,
        run_name: str,
        about: Mapping[str, Scalar],
        series: str | None,  # noqa: ARG002 - another file in the same folder goes on
    ) -> None:
        from tensorboardX import SummaryWriter

        folder = Path(target.place) / run_name
        suffix = f".{secrets.token_hex(4)}"  # two writers of one second had one file otherwise
        self._writer = SummaryWriter(str(folder), flush_secs=10, filename_suffix=suffix)
        text = "\n".join(f"    {key}: {value}" for key, value in about.items())
        self._writer.add_text("about", text, 0)

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self, *, failed: bool) -> None:  # noqa: ARG002 - event files know no outcome
        self._writer.close()


class _Wandb:
    """Weights & Biases; WANDB_MODE=offline keeps all of it in ./wandb, without a connection."""

    def __init__(
        self,
        target: LogTarget,
        run_name: str,
        about: Mapping[str, Scalar],
        series: str | None,
    ) -> None:
        os.environ.setdefault(
            "WANDB_ERROR_REPORTING", "false"
        )  # else it asks for a host offline too
        os.environ.setdefault("WANDB_SILENT", "true")  # stdout is for results
        import wandb

        settings: dict[str, Any] = {
            "console": "off",
            "disable_git": True,
            "disable_code": True,
            "x_disable_stats": True,
        }
        wanted: dict[str, Any]
        self._in_series = series is not None
        if series is None:
            wanted = {"name": target.name or run_name, "group": run_name, "config": dict(about)}
        elif target.name is None:
            wanted = {"id": f"watch-{series[:16]}", "resume": "allow", "name": run_name}
            wanted["config"] = dict(about)
        else:  # somebody else's run, which may be at work: a second writer, that does not end it
            wanted = {"id": target.name, "config": {"evalsuite": dict(about)}}
            settings |= {"x_primary": False, "x_update_finish_state": False}
            settings |= {} if os.environ.get("WANDB_MODE") else {"mode": "shared"}
        self._run: Any = wandb.init(
            project=target.place, settings=wandb.Settings(**settings), **wanted
        )
        if self._in_series:
            self._run.define_metric(_TRAIN_STEP)
            self._run.define_metric("evalsuite/*", step_metric=_TRAIN_STEP)

    def log(self, values: Mapping[str, float], step: int) -> None:
        if not self._in_series:
            self._run.log(dict(values), step=step)
            return
        named = {f"evalsuite/{name}": value for name, value in values.items()}
        self._run.log({**named, _TRAIN_STEP: step})

    def close(self, *, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


class _MLflow:
    """MLflow by its client; newer versions must be told that a file store is meant."""

    def __init__(
        self,
        target: LogTarget,
        run_name: str,
        about: Mapping[str, Scalar],
        series: str | None,
    ) -> None:
        if "://" not in target.place or target.place.startswith("file:"):
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        from mlflow.entities import Metric
        from mlflow.tracking import MlflowClient

        client = MlflowClient(target.place)
        experiment = target.name or "evalsuite"
        known = client.get_experiment_by_name(experiment)
        place = known.experiment_id if known else client.create_experiment(experiment)
        self._client, self._metric = client, Metric
        tags = {} if series is None else {_SERIES_TAG: series}
        before = client.search_runs([place], f"tags.{_SERIES_TAG} = '{series}'") if series else ()
        if before:
            self._id: str = before[0].info.run_id
            client.update_run(self._id, status="RUNNING")
            return
        self._id = client.create_run(place, run_name=run_name, tags=tags).info.run_id
        for key, value in about.items():
            client.log_param(self._id, key, value)

    def log(self, values: Mapping[str, float], step: int) -> None:
        now_ms = int(1000 * time.time())
        metrics = [self._metric(name, value, now_ms, step) for name, value in values.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def close(self, *, failed: bool) -> None:
        self._client.set_terminated(self._id, "FAILED" if failed else "FINISHED")


Opener = Callable[[LogTarget, str, Mapping[str, Scalar], str | None], Logger]
"""(target, run name, what is known of it, identity of a series or None) to an open logger."""
_OPENERS: dict[str, Opener] = {
    "wandb": _Wandb,
    "tensorboard": _TensorBoard,
    "mlflow": _MLflow,
}
_PACKAGES = {"wandb": "wandb", "tensorboard": "tensorboardX", "mlflow": "mlflow"}
