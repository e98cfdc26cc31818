"""A worker that stops answering is replaced, and its shards are made by a fresh process."""

import contextlib
import os
import signal
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import RuntimeEnvSetupError, WorkerCrashedError

from evalsuite.artifacts.manifest import Manifest
from evalsuite.artifacts.run_directory import IMAGES, RunDirectory
from evalsuite.errors import EnvironmentProblem, WorkerError
from evalsuite.pipeline.generation import BatchSampler
from evalsuite.pipeline.numerics import resolve_device
from evalsuite.pipeline.plan import PlanOptions, resolve_plan
from evalsuite.pipeline.ranges import ShardTask
from evalsuite.pipeline.stages import OutputFormat
from evalsuite.pipeline.worker import WorkerJob
from evalsuite.runtime.cluster import connected
from evalsuite.runtime.workers import Flight

pytestmark = pytest.mark.ray


def test_stopped_worker_is_replaced(tmp_path: Path) -> None:
    """Also where a piece may take a day, as a command of `--scorer command:` may.

    On a busy machine an honest worker may be silent for seconds too, and is then replaced as well.
    """
    from evalsuite.runtime.driver import Driver, Progress
    from evalsuite.runtime.events import Event
    from evalsuite.runtime.hanging import Limits
    from evalsuite.runtime.signals import StopRequest
    from evalsuite.runtime.team import Team
    from evalsuite.runtime.workers import WorkerSize

    resolved = resolve_plan(
        PlanOptions(model="pixnerd-digits", batch_size=10, sampling={"num_steps": 4})
    )
    manifest = Manifest(
        model="pixnerd-digits",
        plan_id=resolved.plan.plan_id,
        plan=resolved.plan,
        formats={},
        created_at=datetime.now(UTC).isoformat(),
    )
    run = RunDirectory.create_or_open(tmp_path / "run", manifest)
    job = WorkerJob(str(run.root), resolved.materials, (), OutputFormat("none", "parquet"), "cpu")
    tasks = [ShardTask(start, start + 40, (IMAGES,)) for start in range(0, 160, 40)]
    stopped: list[int] = []

    def stop_first_worker(driver: Driver) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            busy = [w for w in driver._crew.workers if w.computed >= 10 and w.flights]
            if busy:
                stopped.append(busy[0].about["pid"])
                os.kill(stopped[0], signal.SIGSTOP)
                return
            time.sleep(0.02)

    with connected(None, 1, use_gpu=False):
        seen: list[Progress] = []
        team = Team("cpu", WorkerSize(1, 0), 1, is_private=True)
        events: list[Event] = []
        driver = Driver(
            job,
            team,
            "hung",
            seen.append,
            StopRequest(),
            events.append,
            Limits(silence_s=5.0, piece_s=86_400.0),
        )
        watcher = threading.Thread(target=stop_first_worker, args=(driver,))
        watcher.start()
        report = driver.run(tasks)
        watcher.join()

    assert stopped
    lost = [event for event in events if event.kind == "worker-lost"]
    assert stopped[0] in {event.pid for event in lost}
    assert {event.reason for event in lost} == {"it hung: no answer"}
    assert report.losses == len(lost)
    assert not Path("/proc", str(stopped[0])).exists()
    receipts = run.receipts(IMAGES)
    assert [(r.start, r.stop) for r in receipts] == [(t.start, t.stop) for t in tasks]
    sampler = BatchSampler(resolved.plan, resolved.materials, resolve_device("cpu"))
    for batch in (0, 7, 15):
        shard = receipts[batch // 4]
        at = batch * 10 - shard.start
        assert list(shard.pixel_sha256[at : at + 10]) == sampler.pixel_hashes(batch)


def test_slow_is_not_hung(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker is measured against its own batches, whatever the others' shards take."""
    from evalsuite.runtime.hanging import Limits
    from evalsuite.runtime.workers import Worker

    now_s = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    worker = Worker("slow", actor=None, loading=None)

    def hung_after(still_s: float, others: list[float]) -> str:
        worker.advanced_s, worker.answered_s = now_s - still_s, now_s
        return Limits().hung(worker, others, others_work=True)

    assert hung_after(10**6, []) == ""  # nothing in hand
    worker.flights = [Flight(ShardTask(0, 64, (IMAGES,)), "one", None)]
    assert hung_after(1790, []) == ""
    assert hung_after(1810, []) == "it hung: no progress in 1800 s"
    assert hung_after(1810, [103.0] * 9) == ""  # ten times slower than they, and once more
    assert hung_after(2070, [103.0] * 9)

    worker.advanced_s = now_s - 412
    worker.take_progress(64)
    assert hung_after(1230, [103.0] * 9) == ""
    assert hung_after(1240, [103.0] * 9) == "it hung: no progress in 1236 s"
    worker.slowest_s = 2.0
    assert hung_after(170, [2000.0]) == ""
    assert hung_after(190, [2000.0]) == "it hung: no progress in 180 s"
    worker.answered_s = now_s - 61
    assert Limits().hung(worker, [], others_work=True) == "it hung: no answer"


def test_loading_has_an_end_where_others_work(monkeypatch: pytest.MonkeyPatch) -> None:
    from evalsuite.runtime.hanging import Limits
    from evalsuite.runtime.workers import Worker

    now_s = 5000.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    worker = Worker("stuck", actor=None, loading=object(), started_s=now_s - 2000)
    assert Limits().hung(worker, [], others_work=False) == ""
    assert Limits().hung(worker, [], others_work=True) == "it did not load in 900 s"
    worker.placed_s = now_s - 890  # it had waited for its place
    worker.answered_s = now_s - 61
    assert Limits().hung(worker, [], others_work=True) == ""  # its process only starts
    worker.has_answered = True
    assert Limits().hung(worker, [], others_work=False) == "it hung: no answer"


def test_a_place_is_waited_for_where_the_cluster_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that comes after half an hour is no fault, also while Ray has given it to nobody
    yet; one that then does not load is, also while another waits, and so is a free machine that
    Ray gives to nobody."""
    from evalsuite.runtime import workers
    from evalsuite.runtime.crew import Crew
    from evalsuite.runtime.team import Team
    from evalsuite.runtime.watch import Node
    from evalsuite.runtime.workers import Worker, WorkerSize

    now_s = 5000.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    asked: list[object] = []
    monkeypatch.setattr(workers, "has_process", lambda actor: bool(asked.append(actor)))
    job: Any = None
    free = Node("there", "there", 8, 1, 8, 1)
    taken = Node("there", "there", 8, 1, 7, 0)
    late = pytest.raises(EnvironmentProblem, match="has not begun for 15 minutes")
    for grows in (True, False):
        crew = Crew(job, Team("cuda", WorkerSize(1, 1), None, is_private=False, grows=grows))
        crew.check_loading(900, [])
        crew.workers = [
            Worker(name, name, loading=object(), started_s=now_s - 2000) for name in ("a", "b")
        ]
        asked.clear()
        for wait_s, nodes in ((3, []), (1000, [taken]), (1, [taken]), (3, [free])):
            now_s += wait_s
            with contextlib.nullcontext() if grows else late:
                crew.check_loading(900, nodes)
            assert bool(crew.waits_for(nodes)) == (grows and nodes != [free])
        assert asked == ["a", "b"] * (2 if grows else 0)  # every two seconds at most
        now_s += 890
        with contextlib.nullcontext() if grows else late:
            crew.check_loading(900, [free])
        now_s += 20
        with late:
            crew.check_loading(900, [free])
        crew.workers[0].placed_s = now_s - 890
        crew.check_loading(900, [taken])
        assert crew.waits_for([taken]) == ""
        now_s += 20
        with late:
            crew.check_loading(900, [taken])


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            RuntimeEnvSetupError("No space left on device"),
            "its node could not start its process: .*No space left on device.*: look at that"
            " node's disk and at runtime_env_setup",
        ),
        (WorkerCrashedError(), "its process died.*: look at the memory, lower --num-workers"),
    ],
)
def test_what_to_do_follows_from_how_workers_were_lost(error: Exception, words: str) -> None:
    from evalsuite.runtime.crew import Crew
    from evalsuite.runtime.faults import loss_of
    from evalsuite.runtime.team import Team
    from evalsuite.runtime.workers import Worker, WorkerSize

    class Gone(Worker):
        def kill(self) -> None:
            """It is gone already."""

    job: Any = None
    crew = Crew(job, Team("cpu", WorkerSize(1, 0), None, is_private=False))
    crew.workers = [Gone(str(i), None, loading=object()) for i in range(4)]
    for worker in crew.workers[:3]:
        crew.lose(worker, loss_of(error))
    with pytest.raises(WorkerError, match=f"loading lost a worker 4 times .{words}"):
        crew.lose(crew.workers[0], loss_of(error))


def test_a_piece_is_given_what_its_user_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command of `--scorer command:` may take a day for its images, and tells nothing till then;
    what has no answer is hung all the same."""
    from evalsuite.runtime.hanging import Limits
    from evalsuite.runtime.workers import Worker

    now_s = 10.0**6
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    worker = Worker("patient", actor=None, loading=None)
    worker.flights = [Flight(ShardTask(0, 256, ("scores/x",)), "one", None)]
    limits = Limits(piece_s=86_400.0)
    for slowest_s in (0.0, 5.0):  # before its first piece, and after quick ones
        worker.slowest_s, worker.answered_s = slowest_s, now_s
        worker.advanced_s = now_s - 86_400
        assert limits.hung(worker, [], others_work=True) == ""
        worker.advanced_s = now_s - 86_700
        assert "no progress in 86580 s" in limits.hung(worker, [], others_work=True)
        worker.advanced_s, worker.answered_s = now_s - 90, now_s - 61
        assert limits.hung(worker, [], others_work=True) == "it hung: no answer"


def test_workers_are_told_how_long_a_command_may_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    from evalsuite.pipeline.prompt_scores import CommandOptions, PromptScorer, score_source
    from evalsuite.runtime import piecework
    from evalsuite.runtime.hanging import Limits
    from evalsuite.runtime.team import Site, Team
    from evalsuite.runtime.workers import WorkerSize
    from evalsuite.runtime.workforce import PieceWork, Workforce

    (tmp_path / "s.py").write_text("")
    command = f"command:{sys.executable} s.py {{images}}"
    source = score_source(command, tmp_path, CommandOptions(None, 7200.0), trust_code=False)
    scorer = PromptScorer(("a cup",), (), source)
    seen: list[Limits] = []

    class Told(Exception):  # noqa: N818 - no fault
        pass

    class Asked:
        report = None

        def __init__(self, *_: object, limits: Limits) -> None:
            seen.append(limits)

        def run(self, tasks: object) -> None:
            raise Told

    monkeypatch.setattr(piecework, "Driver", Asked)
    team = Team("cpu", WorkerSize(1, 0), 1, is_private=True)
    monkeypatch.setattr(piecework, "look_around", lambda *_, **__: Site([], team))
    work, asked = PieceWork([(0, 4)], 4, "scores/x", tmp_path, "", scorer.portion_s), Workforce(1)
    with pytest.raises(Told):
        piecework.drive_pieces(None, work, asked, lambda *_: None, print, print)  # type: ignore[arg-type]
    assert [one.piece_s for one in seen] == [7200.0]
