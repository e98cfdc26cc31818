"""The benchmark of the evaluator runs, and what it says of processes is so."""

import asyncio
import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from benchmarks.adm_route import frechet_by_sqrtm, statistics_of
from benchmarks.contestants import Contestant, Timing, ratio
from benchmarks.evaluation_inputs import random_features, write_sparse_images
from benchmarks.evaluation_tables import compared
from benchmarks.ledger import new_run
from benchmarks.virtual_workers import Host
from benchmarks.watching import Usage, observe
from evalsuite.artifacts.run_directory import IMAGES
from evalsuite.artifacts.samples import open_samples
from evalsuite.metrics.frechet import frechet_distance
from evalsuite.metrics.moments import moments_of
from evalsuite.pipeline.channel import NotWantedError
from evalsuite.pipeline.ranges import ShardTask
from evalsuite.pipeline.worker import CommitReport

ROOT = Path(__file__).resolve().parent.parent
MIB = 2**20


def run(*words: str) -> str:
    command = [sys.executable, "-m", "benchmarks.evaluation", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True
    ).stdout


def test_help_names_every_part() -> None:
    shown = run("--help")
    for part in ("features", "frechet", "neighbours", "end", "memory", "gpu"):
        assert part in shown


def test_a_small_frechet_distance_alternates_with_scipy(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    options = ["--dim", "64", "--frechet-samples", "200,40", "--rounds", "2"]
    shown = run("--parts", "frechet", *options, "--json", str(out))
    assert "D = 64, 40 samples" in shown
    kept = json.loads(out.read_text(encoding="utf-8"))
    assert [len(result["rows"]) for result in kept["results"]] == [3, 3]
    assert all(len(r) == 2 for result in kept["results"] for r in result["rounds"].values())
    assert {"torch", "numpy", "scipy"} <= set(kept["versions"])
    assert str(tmp_path) not in out.read_text(encoding="utf-8")


@pytest.mark.parametrize(("count", "tolerance"), [(200, 1e-5), (40, 5e-5)])
def test_both_routes_compute_the_same_distance(count: int, tolerance: float) -> None:
    a, b = random_features(count, 64, 1, shift=0.1), random_features(200, 64, 2)
    ours = frechet_distance(moments_of(a), moments_of(b))
    assert frechet_by_sqrtm(statistics_of(a), statistics_of(b)) == pytest.approx(
        ours, rel=tolerance
    )


def test_time_and_memory_of_a_process_below_another_are_counted() -> None:
    below = (
        "import time; held = bytearray(200 << 20); began = time.process_time()\n"
        "while time.process_time() - began < 1: pass"
    )
    above = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {below!r}])"
    process = subprocess.Popen([sys.executable, "-c", above])
    usage, code = observe([process.pid], process.wait)
    assert code == 0
    assert 1 <= usage.cpu_s < 3
    assert usage.wall_s >= 1
    assert 200 * MIB < usage.peak_bytes < 300 * MIB


def test_a_contestant_answers_each_round_and_is_gone_afterwards() -> None:
    code = (
        "import os; from benchmarks.contestants import serve; print('noise');"
        "serve(lambda: {'pid': os.getpid()})"
    )
    with Contestant("two", [[sys.executable, "-c", code]] * 2) as way:
        first, second = way.run().result, way.run().result
    assert first == second
    assert len({answer["pid"] for answer in first}) == 2
    for answer in first:
        with pytest.raises(ProcessLookupError):
            os.kill(answer["pid"], 0)


def test_a_contestant_that_fails_ends_the_benchmark() -> None:
    with (
        pytest.raises(SystemExit, match=r"^broken ended with exit code 3"),
        Contestant("broken", [[sys.executable, "-c", "raise SystemExit(3)"]]),
    ):
        pass


def test_a_ratio_compares_rounds_one_by_one() -> None:
    def timing(name: str, *walls: float) -> Timing:
        return Timing(name, [Usage(wall, 2 * wall, 10, 5) for wall in walls])

    slow, ours = timing("slow", 2, 30, 2), timing("ours", 1, 10, 1)
    assert ratio(slow, ours) == (2, 2)
    table = compared("title", {"ours": ours, "slow": slow}, "ours", images=4)
    assert [row["x s"] for row in table.rows] == [1, 2]
    assert table.rows[1]["images/s"] == 2
    assert "title" in table.text()


def test_sparse_images_are_read_as_they_were_drawn_and_take_no_space(tmp_path: Path) -> None:
    path = write_sparse_images(tmp_path / "sparse.npz", 20, 256, 1)
    samples = open_samples(path)
    images = next(samples.read(3, 4))
    assert samples.num_images == 20
    assert images[0, :8].std() > 60
    assert not images[0, 8:].any()
    assert path.stat().st_blocks * 512 < path.stat().st_size / 4


def test_watching_costs_little() -> None:
    began = time.process_time()
    observe([os.getpid()], partial(time.sleep, 1))
    assert time.process_time() - began < 0.2


def test_a_virtual_worker_commits_receipts_and_skips_what_was_withdrawn(tmp_path: Path) -> None:
    """As a real one: a shard that is withdrawn before it begins is not computed."""
    run = new_run(tmp_path / "run", 10)
    first, second = ShardTask(0, 10, (IMAGES,)), ShardTask(10, 20, (IMAGES,))

    async def work() -> tuple[CommitReport, int, float]:
        host = Host(0.05, {}, str(run.root))
        await host.load(0)
        await host.withdraw(0, "b")
        for task, attempt_id in ((first, "a"), (second, "b")):
            await host.compute(0, task, attempt_id)
        report = await host.commit(0, first, "a")
        with pytest.raises(NotWantedError) as unwanted:
            await host.commit(0, second, "b")
        return report, unwanted.value.num_computed, await host.busy()

    report, computed, busy_s = asyncio.run(work())
    assert (report.committed, report.discarded) == ((IMAGES,), ())
    assert computed == 0
    assert busy_s < 0.09
    assert [(one.start, one.stop, one.attempt_id) for one in run.receipts(IMAGES)] == [(0, 10, "a")]
