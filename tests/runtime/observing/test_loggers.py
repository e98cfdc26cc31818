"""Loggers: what wandb, TensorBoard and MLflow hold in the end, and that none can harm a run."""

import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from harness import Outcome, environment

from evalsuite.cli.logging_to import opened_loggers
from evalsuite.errors import DataError, EnvironmentProblem, Interrupted, UsageError
from evalsuite.runtime.observing import loggers as loggers_module
from evalsuite.runtime.observing.loggers import Loggers, LogTarget, check_installed, parse_target
from evalsuite.runtime.progress import Progress

PROGRAM = Path(__file__).with_name("logging_somewhere.py")
FID = 43.62519
READER = """
import json, sys
from tensorflow.compat.v1.train import summary_iterator
found = {}
for event in summary_iterator(sys.argv[1]):
    for value in event.summary.value:
        if value.tag != "about/text_summary":
            found.setdefault(value.tag, []).append((event.step, value.simple_value))
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict, str]:
    """The folder that all three wrote to, what the program said, and its connections."""
    folder = tmp_path_factory.mktemp("logged")
    tracing = shutil.which("strace")
    trace = ["strace", "-f", "-qq", "-e", "trace=connect,sendto", "-o", "connections"]
    targets = ["tensorboard:boards", "mlflow:runs#fids", "wandb:project/name"]
    done = subprocess.run(
        [*(trace if tracing else []), sys.executable, str(PROGRAM), *targets],
        env={**environment(private=True), "WANDB_MODE": "offline"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    connections = (folder / "connections").read_text() if tracing else ""
    return folder, json.loads(done.stderr.splitlines()[-1]), connections


def test_tensorboard_files_read_by_tensorflow_itself(logged: tuple[Path, dict, str]) -> None:
    """In a process of its own; the one that wrote them loaded no TensorFlow beside torch."""
    folder, told, _ = logged
    assert told["said"] == []
    assert {"torch", "tensorboardX", "mlflow", "wandb"} <= set(told["loaded"])
    assert not {"tensorflow", "tensorboard"} & set(told["loaded"])
    (file,) = (folder / "boards" / "made").iterdir()
    done = subprocess.run(
        [sys.executable, "-c", READER, str(file)], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert [step for step, _ in found["progress/images_done"]] == [10, 90]
    (name,) = [tag for tag in found if tag.endswith("/digits-FID-90")]
    assert found[name] == [[90, pytest.approx(FID)]]
    assert found[f"{name}_standard_error"] == [[90, pytest.approx(0.731)]]


def test_mlflow_and_wandb_hold_the_same(logged: tuple[Path, dict, str]) -> None:
    folder, _, _ = logged
    metrics = [p for p in (folder / "runs").rglob("digits-FID-90") if p.is_file()]
    (metric,) = [
        p for p in metrics if "run_name: made\n" in (p.parents[2] / "meta.yaml").read_text()
    ]
    _, value, step = metric.read_text().split()
    assert (float(value), int(step)) == (FID, 90)
    about = (metric.parents[2] / "meta.yaml").read_text()
    assert re.search(r"run_name: made\n", about)
    assert re.search(r"status: 3\n", about)  # FINISHED
    files = (folder / "wandb").glob("offline-run-*/run-*.wandb")
    (content,) = [c for c in (f.read_bytes() for f in files) if b"progress/images_done" in c]
    assert b"digits-FID-90" in content
    assert b"43.62519" in content


def test_a_series_goes_on_at_its_own_steps(logged: tuple[Path, dict, str]) -> None:
    """Steps in the order in which they were scored, over two invocations, in one place."""
    folder, _, _ = logged
    series = [p for p in (folder / "runs").rglob("tags/evalsuite_watch") if p.is_file()]
    (tag,) = series  # one run of MLflow for both
    (metric,) = [p for p in tag.parents[1].rglob("digits-FID-*") if "error" not in p.name]
    assert [line.split()[2] for line in metric.read_text().splitlines()] == ["200", "100", "300"]
    assert len(list((folder / "boards" / "watched").iterdir())) == 2
    joined = list((folder / "wandb").glob("offline-run-*-name/run-name.wandb"))
    content = b"".join(path.read_bytes() for path in joined)
    assert joined  # PROJECT/RUN names the run of the training by its id
    assert b"evalsuite/train_step" in content
    assert re.search(rb"evalsuite/[^\x00]{0,40}digits-FID-", content)


def test_nothing_leaves_the_machine(logged: tuple[Path, dict, str]) -> None:
    """With WANDB_MODE=offline and a file store: no connection off this machine, no name asked."""
    _, _, connections = logged
    if not connections:
        pytest.skip("strace is not installed")
    inet = [line for line in connections.splitlines() if "AF_INET" in line]
    assert [line for line in inet if "127.0.0.1" not in line and "::1" not in line] == []


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("wandb:pixnerd", LogTarget("wandb", "pixnerd")),
        ("wandb:pixnerd/first", LogTarget("wandb", "pixnerd", "first")),
        ("tensorboard:/data/boards", LogTarget("tensorboard", "/data/boards")),
        ("mlflow:http://host:5000#fid", LogTarget("mlflow", "http://host:5000", "fid")),
        ("mlflow:runs", LogTarget("mlflow", "runs")),
    ],
)
def test_targets(text: str, target: LogTarget) -> None:
    assert parse_target(text) == target


@pytest.mark.parametrize("text", ["wandb", "wandb:", "wandb:/x", "neptune:x", "mlflow:#x", ""])
def test_targets_that_cannot_be(text: str) -> None:
    with pytest.raises(UsageError, match=r"--log"):
        parse_target(text)


def test_a_missing_package_is_named_before_any_work(
    monkeypatch: pytest.MonkeyPatch, call: Callable[..., Outcome]
) -> None:
    monkeypatch.setitem(loggers_module._PACKAGES, "wandb", "no_such_package")
    with pytest.raises(EnvironmentProblem, match=r"no_such_package .*evalsuite\[wandb\]"):
        check_installed([LogTarget("wandb", "p")])
    outcome = call("run", "--model", "pixnerd-digits", "--num-samples", 10, "--log", "wandb:p")
    assert outcome.code == 6
    assert len(outcome.stderr.splitlines()) == 1
    assert not Path("runs").exists()


class Stubborn:
    """A logger that fails, or never answers."""

    def __init__(self, *, waits: bool) -> None:
        self.waits, self.calls, self.forever = waits, 0, threading.Event()

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.calls += 1
        if self.waits:
            self.forever.wait()
        raise ConnectionError("the server is gone\nand much more")

    def close(self, *, failed: bool) -> None:
        raise ConnectionError("still gone")


@pytest.mark.parametrize("waits", [False, True])
def test_a_logger_that_fails_or_hangs_harms_nothing(
    waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line, once; and what it cannot take is let go."""
    stubborn, said = Stubborn(waits=waits), []
    monkeypatch.setitem(loggers_module._OPENERS, "wandb", lambda *_: stubborn)
    monkeypatch.setattr(loggers_module, "EVERY_S", 0.0)
    monkeypatch.setattr(loggers_module, "CLOSING_S", 0.2 if waits else 60.0)
    loggers = Loggers([LogTarget("wandb", "p")], "made", {}, said.append)
    for done in range(300):
        loggers.progress(Progress(done, 300, 1, 0, loading=False))
    loggers.close(failed=False)
    stubborn.forever.set()
    if waits:
        assert stubborn.calls >= 1
        assert any("does not" in line for line in said)
    else:
        assert said == ["--log wandb:p failed, the run goes on: the server is gone"]


class Ended:
    """A logger that keeps how it was ended."""

    def __init__(self) -> None:
        self.failed: bool | None = None

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Nothing is logged here."""

    def close(self, *, failed: bool) -> None:
        self.failed = failed


@pytest.mark.parametrize(
    ("series", "error", "failed"),
    [
        ("ab12", Interrupted("stopped by SIGTERM"), False),
        ("ab12", KeyboardInterrupt(), False),
        ("ab12", DataError("damaged"), True),
        (None, Interrupted("stopped by SIGTERM"), True),
    ],
)
def test_a_signal_is_the_end_of_a_series_and_no_failure(
    series: str | None, error: BaseException, failed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = Ended()
    monkeypatch.setitem(loggers_module._OPENERS, "wandb", lambda *_: ended)
    targets = [LogTarget("wandb", "p")]
    with pytest.raises(type(error)), opened_loggers(targets, "made", {}, series):
        raise error
    assert ended.failed is failed


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "boards").write_text("a file")
    target = LogTarget("tensorboard", str(tmp_path / "boards"))
    with pytest.raises(EnvironmentProblem, match=r"--log tensorboard:.*boards"):
        Loggers([target], "made", {}, lambda _: None)
