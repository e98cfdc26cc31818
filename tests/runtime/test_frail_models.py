"""A user's model that fails on one shard, or on one node; and pixels that contradict others.

All by real workers: the model is a class of its own, plugged in by `python:`.
"""

import hashlib
import json
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from harness import (
    PLAN,
    HostedCluster,
    Outcome,
    attempts,
    bytes_of,
    descendants,
    pixel_hashes,
    receipts,
    wait_for,
)

from evalsuite.artifacts.receipts import digest_of_pixels
from evalsuite.pipeline.worker import ShardWorker, WorkerJob
from evalsuite.runtime.hanging import Limits
from evalsuite.runtime.placement import actor_class
from evalsuite.runtime.workers import GROUPS, Worker, WorkerSize, start_worker

pytestmark = pytest.mark.ray
NUM_SAMPLES = 50
MODEL = '''
"""Its images are its noise; files beside it say where and when it fails."""

import os
import signal
import time
from pathlib import Path

from pydantic import BaseModel

HERE = Path(__file__).parent


class Frail:
    condition, num_classes, size, batch_size, needs_weights = "class", 10, (16, 16), 10, False

    class Settings(BaseModel, extra="forbid"):
        pass

    def wait_for(self, name):
        while not (HERE / name).exists():
            time.sleep(0.05)

    def sleep_once(self, where):
        """The first that comes there hangs, and lets its other threads run."""
        try:
            (HERE / f"sleeps_in_{where}").unlink()
        except FileNotFoundError:
            return
        time.sleep(600)

    def load(self, weights, ema, device, dtype):
        self.sleep_once("load")
        bad_nodes = HERE / "bad_nodes"
        if bad_nodes.exists() and str(os.getppid()) in bad_nodes.read_text().split():
            self.wait_for("begun")
            (HERE / "refused").touch()
            raise RuntimeError("this node's driver is too old")

    def sample(self, noise, conditions, generators, settings):
        (HERE / "begun").touch()
        self.sleep_once("sample")
        if (HERE / "bad_nodes").exists():
            self.wait_for("refused")
        if (HERE / "diverges").exists():
            self.wait_for("stopped")
            return noise * float("nan")
        time.sleep(0.2)
        poison = HERE / "poison"
        if poison.exists() and int(poison.read_text()) in [g.initial_seed() for g in generators]:
            os.kill(os.getpid(), signal.SIGKILL)
        return noise
'''
Generate = Callable[..., Outcome]


@pytest.fixture
def generate(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    call: Callable[..., Outcome],
) -> Generate:
    """`generate` of that model on the test's cluster, into `made`; its module has a name of its
    own.
    """
    several = "three_nodes" in request.fixturenames
    cluster = request.getfixturevalue("three_nodes" if several else "cluster")
    name = "frail_" + hashlib.sha256(request.node.name.encode()).hexdigest()[:8]
    (tmp_path / f"{name}.py").write_text(MODEL)
    model = ("--model", f"python:{name}:Frail", "--trust-remote-code", "--shard-size", 10)
    where = ("--address", cluster.address, "--output", "made", "--num-samples", NUM_SAMPLES)
    return lambda *options: call("generate", *model, *where, *options)


def noise_hashes() -> dict[int, str]:
    """What the model makes where nothing fails."""
    found = {}
    for seed in range(NUM_SAMPLES):
        noise_CHW = torch.randn((3, 16, 16), generator=torch.Generator().manual_seed(seed))
        grey = ((noise_CHW + 1) * 127.5 + 0.5).clamp(0, 255).to(torch.uint8)
        found[seed] = hashlib.sha256(grey.permute(1, 2, 0).numpy().tobytes()).hexdigest()
    return found


def events_of(run: Path, kind: str) -> list[dict]:
    """Lines of the log of the one invocation on a run."""
    (log,) = (run / "attempts").glob("*.log.jsonl")
    events = [json.loads(line) for line in log.read_text().splitlines()]
    return [one for one in events if one["event"] == kind]


def test_a_shard_that_kills_every_worker_is_set_aside_and_the_rest_is_made(
    generate: Generate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes die of sample 25, each a fresh one; without the patch it would be four."""
    monkeypatch.setattr("evalsuite.runtime.board.BACK_OFF_S", 0.1)
    for module in ("board", "driver"):
        monkeypatch.setattr(f"evalsuite.runtime.{module}.MAX_LOSSES", 1)
    (tmp_path / "poison").write_text("25")
    outcome = generate("--num-workers", 1)
    assert outcome.code == 6
    (line,) = outcome.complaints
    assert "set aside after 2 workers failed on them: samples 20..29 (its process died" in line
    expected = {i: digest for i, digest in noise_hashes().items() if not 20 <= i < 30}
    assert pixel_hashes(tmp_path / "made") == expected
    (attempt,) = attempts(tmp_path / "made")
    assert attempt["workers_lost"] == 2
    assert attempt["counts"]["shards_quarantined"] == 1
    assert attempt["exit_code"] == 6


@pytest.mark.slow  # tests/runtime/test_hung.py has a real one that hangs later, and these limits
def test_workers_that_hang_in_their_first_moments_are_replaced(
    generate: Generate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One answers, and never loads; one answers, and never gives its first batch."""
    limits = Limits(silence_s=30, loading_s=8, first_batch_s=5)
    monkeypatch.setattr("evalsuite.runtime.driver.LIMITS", limits)
    (tmp_path / "sleeps_in_load").touch()
    (tmp_path / "sleeps_in_sample").touch()
    outcome = generate("--num-workers", 2)
    assert outcome.code == 0, outcome.stderr
    assert pixel_hashes(tmp_path / "made") == noise_hashes()
    reasons = [one["reason"] for one in events_of(tmp_path / "made", "worker-lost")]
    assert "it did not load in 8 s" in reasons
    assert "it hung: no progress in 5 s" in reasons


def test_a_node_that_cannot_start_a_process_is_left_out(
    generate: Generate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two workers the first gets an environment that its node cannot make."""

    def start(name: str, job: WorkerJob, size: WorkerSize, *, is_ours: bool) -> Worker:
        if name != "worker-0":
            return start_worker(name, job, size, is_ours=is_ours)
        broken = actor_class(ShardWorker, GROUPS).options(
            num_cpus=1, max_restarts=0, runtime_env={"conda": "there-is-no-such-environment"}
        )
        actor = broken.remote(job)
        loading = actor.load.options(concurrency_group="gpu").remote()
        return Worker(name, actor, loading, is_ours=is_ours)

    monkeypatch.setattr("evalsuite.runtime.crew.start_worker", start)
    outcome = generate("--num-workers", 2)
    assert outcome.code == 0, outcome.stderr
    assert pixel_hashes(tmp_path / "made") == noise_hashes()
    (lost,) = events_of(tmp_path / "made", "worker-lost")
    assert lost["worker"] == "worker-0"
    assert lost["reason"].startswith("its node could not start its process: ")


@pytest.mark.slow
def test_a_node_that_cannot_load_the_model_is_left_out(
    generate: Generate, three_nodes: HostedCluster, tmp_path: Path
) -> None:
    """Workers go to all three nodes; what one of them raises while others work is its own."""
    raylets = [
        p.pid for p in descendants(three_nodes.host_pid) if "/raylet" in p.title.split(" ")[0]
    ]
    (tmp_path / "bad_nodes").write_text(str(raylets[0]))
    outcome = generate("--num-workers", 3)
    assert outcome.code == 0, outcome.stderr
    assert pixel_hashes(tmp_path / "made") == noise_hashes()
    (attempt,) = attempts(tmp_path / "made")
    assert attempt["workers_lost"] >= 1
    lost = events_of(tmp_path / "made", "worker-lost")
    assert {"failed in load()" in one["reason"] for one in lost} == {True}
    assert "this node's driver is too old" in lost[0]["traceback"]
    makers = {one["worker"] for one in events_of(tmp_path / "made", "shard-committed")}
    assert makers.isdisjoint(one["worker"] for one in lost)


def test_a_model_that_loads_nowhere_ends_the_run_with_the_workers_line(
    generate: Generate, cluster: HostedCluster, tmp_path: Path
) -> None:
    raylets = [p.pid for p in descendants(cluster.host_pid) if "/raylet" in p.title.split(" ")[0]]
    (tmp_path / "bad_nodes").write_text(" ".join(map(str, raylets)))
    (tmp_path / "begun").touch()
    outcome = generate("--num-workers", 1)
    assert outcome.code == 3
    (line,) = outcome.complaints
    assert "failed in load(): " in line
    assert "this node's driver is too old" in line
    assert receipts(tmp_path / "made") == []


def test_a_signal_is_not_lost_where_the_shard_in_hand_diverges(
    generate: Generate, tmp_path: Path
) -> None:
    """A sweep goes on after a configuration that diverges, and would go on after this one."""
    (tmp_path / "diverges").touch()

    def stop() -> None:
        wait_for(lambda: (tmp_path / "begun").exists())
        os.kill(os.getpid(), signal.SIGTERM)
        (tmp_path / "stopped").touch()

    with ThreadPoolExecutor(1) as team:
        stopping = team.submit(stop)
        outcome = generate("--num-workers", 1)
        stopping.result(60)
    assert outcome.code == 128 + signal.SIGTERM
    (line,) = outcome.complaints
    assert "stopped by SIGTERM; 0 images of this invocation are committed: run the same" in line
    assert "(a worker met: samples 0..9: the " in line
    assert "NaN or infinite" in line
    (attempt,) = attempts(tmp_path / "made")
    assert attempt["exit_code"] == outcome.code


def test_two_pixels_of_one_sample_are_refused(
    run_copy: Path, cluster: HostedCluster, call: Callable[..., Outcome]
) -> None:
    """Another kind of machine made them and kept none; here they are made again for features."""
    (first, *others) = sorted((run_copy / "receipts" / "images").glob("*.json"))
    about = json.loads(first.read_text())
    for path in [*others, *(run_copy / "receipts" / "features").rglob("*.json")]:
        path.unlink()
    about["pixel_sha256"][7] = "ab" * 32
    about["pixels_digest"] = digest_of_pixels(about["pixel_sha256"])
    about |= {"numerics_id": "cd" * 32, "kept": "none"}
    about["numerics"]["model"] = "another processor"
    about["worker"]["host"] = "node-b"
    first.write_text(json.dumps(about))
    claimed = {"numerics_id": about["numerics_id"], "numerics": about["numerics"]}
    (run_copy / "numerics.json").write_text(json.dumps(claimed))
    before = {name: content for name, content in bytes_of(run_copy).items() if "receipts/" in name}
    options = ("--num-samples", 20, "--images", "none", "--extractor", "digits-convnet")
    where = ("--output", run_copy, "--address", cluster.address, "--num-workers", 1)
    outcome = call("generate", *PLAN, *options, *where, "--allow-mixed-numerics")
    assert outcome.code == 3
    (line,) = outcome.complaints
    assert f"sample 7 came out with other pixels than attempt {about['attempt_id']}" in line
    assert "on node-b (another processor)" in line
    after = bytes_of(run_copy)
    assert {name: content for name, content in after.items() if "receipts/" in name} == before
