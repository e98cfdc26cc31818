"""How many workers one driver keeps busy: the real driver and real Ray calls, simulated workers.

Three parts. `driver`: `evalsuite.runtime.driver.Driver` hands the shards of ten million samples to
up to 1,024 virtual workers, which live inside a few async Ray actors and wait instead of computing;
the driver calls them, waits for them and asks their progress as it does with real ones, and they
commit real receipts, which its lookout and its compacting read as in a session. Prints
shards/s, the driver's CPU time for each shard, its memory as it goes on, and the efficiency: the
time that shards take over the time that workers were there. With shards of almost no length it
shows where the driver saturates. The virtual workers share the machine's cores with the driver, so
what is measured is a lower bound.

`array`: shares of one run (`--part i/32`) without a head, each killed every few minutes of
simulated time, with the real planning of ranges and real receipts in a real run directory;
simulated seconds are counted, not waited for. Prints GPU time over the ideal.

`stragglers`: one worker takes ten times as long as the others; with copies of its shards by idle
workers, and without.

    python -m benchmarks.scale --part driver [--workers 1024] [--shard-s 30] [--shards 4096]
    python -m benchmarks.scale --part array [--kill-s 300] [--grace]
    python -m benchmarks.scale --part stragglers --workers 8 --shard-s 1 --shards 80
"""

import argparse
import json
import os
import random
import resource
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import ray

from benchmarks.ledger import new_run
from benchmarks.virtual_workers import (
    Host,
    ManySlots,
    VirtualActor,
    VirtualWorker,
    commit_empty,
)
from evalsuite.artifacts.compacting import keeping_compact
from evalsuite.artifacts.run_directory import IMAGES, RunDirectory
from evalsuite.pipeline.company import Lookout
from evalsuite.pipeline.coverage import (
    Demand,
    covered_ranges,
    default_shard_size,
    missing_images,
    tasks_for,
)
from evalsuite.pipeline.ranges import ShardTask
from evalsuite.runtime import crew as crew_module
from evalsuite.runtime import stragglers as stragglers_module
from evalsuite.runtime.cluster import connected
from evalsuite.runtime.driver import GRACE_S, Driver
from evalsuite.runtime.events import Event
from evalsuite.runtime.signals import StopRequest
from evalsuite.runtime.workers import WorkerSize

MIB = 2**20
NUM_HOSTS = 4


def rss_mib() -> float:
    """Memory of this process now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / MIB, 1)


def drive(
    num_workers: int,
    shard_s: float,
    num_shards: int,
    num_samples: int,
    slow: dict[int, float] | None = None,
) -> dict[str, Any]:
    """Run the driver once; its figures. `slow` says how many times longer a worker takes.

    It has what a session gives it: a run in which workers commit receipts, a lookout that reads
    them, and the thread that compacts them.
    """
    with tempfile.TemporaryDirectory(prefix="scale-") as folder:
        run = new_run(Path(folder) / "run", num_samples // num_shards)
        return _driven(run, num_workers, shard_s, num_shards, num_samples, slow)


def _driven(
    run: RunDirectory,
    num_workers: int,
    shard_s: float,
    num_shards: int,
    num_samples: int,
    slow: dict[int, float] | None,
) -> dict[str, Any]:
    step = num_samples // num_shards
    tasks = [ShardTask(i * step, (i + 1) * step, (IMAGES,)) for i in range(num_shards)]
    memory: list[tuple[int, float]] = []
    hosts = [
        ray.remote(Host)
        .options(max_concurrency=8 * num_workers, num_cpus=0)
        .remote(shard_s, slow or {}, str(run.root))
        for _ in range(NUM_HOSTS)
    ]

    def start(name: str, *_: object, **__: object) -> VirtualWorker:
        number = int(name.rpartition("-")[2])
        actor = VirtualActor(hosts[number % NUM_HOSTS], number)
        return VirtualWorker(name, actor, actor.load.remote())

    polls = 0
    last_s = 0.0

    def listen(_: object) -> None:
        nonlocal polls, last_s
        polls += 1
        if time.monotonic() - last_s > 5:
            last_s = time.monotonic()
            memory.append((len(one.report.commits), rss_mib()))
            print(f"    {memory[-1][0]} shards, {memory[-1][1]} MiB", flush=True)

    ready: dict[str, float] = {}
    ended: list[float] = []

    def observe(event: Event) -> None:
        if event.kind == "worker-ready":
            ready[event.worker] = event.time
        elif event.kind == "shard-committed":
            ended.append(event.time)

    team = ManySlots("cuda", WorkerSize(0, 0), num_workers, is_private=True)
    lookout = Lookout(run, Demand(step * num_shards, None, "none", ()))
    job: Any = None
    one = Driver(job, team, "bench", listen, StopRequest(), observe, lookout=lookout)
    with (
        mock.patch.object(crew_module, "start_worker", start),
        keeping_compact(run, [IMAGES]),
        lookout.looking(),
    ):
        began, cpu = time.monotonic(), time.process_time()
        one.run(tasks)
        took, cpu = time.monotonic() - began, time.process_time() - cpu
    busy_s = sum(ray.get([host.busy.remote() for host in hosts]))
    for host in hosts:
        ray.kill(host)
    ideal = shard_s * -(-num_shards // num_workers)
    return {
        "workers": num_workers,
        "shards": num_shards,
        "samples": num_samples,
        "shard_s": shard_s,
        "seconds": round(took, 2),
        "ideal_seconds": round(ideal, 2),
        "efficiency": round(ideal / took, 4),
        "seconds_until_all_were_ready": round(max(ready.values()) - min(ready.values()), 2),
        "efficiency_once_ready": round(
            num_shards * shard_s / sum(ended[-1] - one for one in ready.values()), 4
        ),
        "busy_share": round(busy_s / (num_workers * took), 4),
        "shards_per_s": round(num_shards / took, 1),
        "shards_per_s_once_ready": round(num_shards / (ended[-1] - max(ready.values())), 1),
        "driver_cpu_s": round(cpu, 2),
        "driver_cpu_ms_per_shard": round(1000 * cpu / num_shards, 2),
        "driver_cpu_share": round(cpu / took, 3),
        "polls": polls,
        "memory_mib": memory,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "losses": one.report.losses,
        "computed_twice": one.report.computed_twice,
        "load_average": [round(load, 1) for load in os.getloadavg()],
    }


def stragglers(num_workers: int, shard_s: float, num_shards: int) -> dict[str, Any]:
    """One worker ten times slower than the others: with copies of its shards and without."""
    found: dict[str, Any] = {"workers": num_workers, "shards": num_shards, "shard_s": shard_s}
    speed = num_workers - 1 + 0.1
    found["ideal_seconds"] = round(num_shards * shard_s / speed, 2)
    for name, hands in (("with_copies", 2), ("without", 1)):
        with mock.patch.object(stragglers_module, "MOST_HANDS", hands):
            one = drive(num_workers, shard_s, num_shards, 100 * num_shards, {0: 10.0})
        found[name] = {key: one[key] for key in ("seconds", "computed_twice", "losses")}
    return found


@dataclass
class Simulated:
    """The GPU time of all tasks of an array, in simulated seconds."""

    gpu_s: float = 0.0
    kills: int = 0
    wall_s: float = 0.0


def array(
    num_samples: int,
    num_parts: int,
    images_per_s: float,
    kill_s: float,
    start_s: float,
    shard_size: int | None,
    batch_size: int,
    seed: int,
    *,
    grace: bool,
) -> dict[str, Any]:
    """Let every share be killed at random moments, and start again, until all is committed.

    Args:
        num_samples: of the run.
        num_parts: tasks of the array.
        images_per_s: of one GPU.
        kill_s: mean simulated seconds between kills of one task.
        start_s: simulated seconds from the start of a process to its first image.
        shard_size: as `--shard-size`; chosen as by a session when None.
        batch_size: of the plan; no shard is smaller.
        seed: of the moments of kills.
        grace: kills are SIGTERM, which lets the shards in hand commit, not SIGKILL.
    """
    chance = random.Random(seed)
    total = Simulated()
    with tempfile.TemporaryDirectory(prefix="scale-") as folder:
        run = new_run(Path(folder) / "run", batch_size)
        for part in range(1, num_parts + 1):
            demand = Demand(num_samples, (part, num_parts), "none", ())
            spent = 0.0
            while tasks := _missing(run, demand, images_per_s, shard_size):
                left = chance.expovariate(1 / kill_s)
                at = start_s
                for task in tasks:
                    took = (task.stop - task.start) / images_per_s
                    if at + took > left:
                        total.kills += 1
                        if grace and at + took <= left + GRACE_S:
                            at += took
                            _commit_once(run, task)
                        else:
                            at = max(left, 0.0)
                        break
                    at += took
                    _commit_once(run, task)
                spent += at
            total.gpu_s += spent
            total.wall_s = max(total.wall_s, spent)
        whole = covered_ranges(run, run.plan, Demand(num_samples, None, "none", ()))
        samples = sum(stop - start for start, stop in whole[IMAGES])
    ideal = samples / images_per_s
    return {
        "samples": samples,
        "parts": num_parts,
        "images_per_s": images_per_s,
        "kill_s": kill_s,
        "start_s": start_s,
        "shard_size": shard_size or "default",
        "batch_size": batch_size,
        "seed": seed,
        "kills": total.kills,
        "gpu_over_ideal": round(total.gpu_s / ideal, 4),
        "slowest_over_ideal": round(total.wall_s / (ideal / num_parts), 4),
    }


def _missing(
    run: RunDirectory, demand: Demand, images_per_s: float, shard_size: int | None
) -> list[ShardTask]:
    """The shards that a session would make, in its order."""
    size = run.plan.batch_size
    covered = covered_ranges(run, run.plan, demand)
    asked = demand.asked(size)
    num_missing = missing_images(covered, asked)
    chosen = shard_size or default_shard_size(num_missing, 1, size, 1 / images_per_s)
    return tasks_for(covered, asked, chosen, size)


def _commit_once(run: RunDirectory, task: ShardTask) -> None:
    assert commit_empty(run, task, "bench-00001"), "a shard was committed twice"


def main() -> None:
    """Print the figures, and keep them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=["driver", "array", "stragglers"], required=True)
    parser.add_argument("--workers", type=int, default=1024)
    parser.add_argument("--shard-s", type=float, default=30.0)
    parser.add_argument("--shards", type=int, default=4096)
    parser.add_argument("--samples", type=int)
    parser.add_argument("--parts", type=int, default=32)
    parser.add_argument("--images-per-s", type=float, default=2.0)
    parser.add_argument("--kill-s", type=float, default=300.0)
    parser.add_argument("--start-s", type=float, default=20.0)
    parser.add_argument("--shard-size", type=int)
    parser.add_argument("--batch-size", type=int, default=4, help="pixnerd-xl-512's by default")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--grace", action="store_true", help="SIGTERM in place of SIGKILL")
    parser.add_argument("--json", type=Path, help="append the figures here")
    given = parser.parse_args()
    if given.part == "driver":
        with connected(None, 1, use_gpu=False):
            samples = given.samples or 500 * given.shards
            figures = drive(given.workers, given.shard_s, given.shards, samples)
    elif given.part == "stragglers":
        with connected(None, 1, use_gpu=False):
            figures = stragglers(given.workers, given.shard_s, given.shards)
    else:
        figures = array(
            given.samples or 50_000,
            given.parts,
            given.images_per_s,
            given.kill_s,
            given.start_s,
            given.shard_size,
            given.batch_size,
            given.seed,
            grace=given.grace,
        )
    words = [word for word in sys.argv[1:] if word != "--json" and word != str(given.json)]
    figures = {"command": f"python -m benchmarks.scale {' '.join(words)}", **figures}
    print(json.dumps(figures, indent=1))
    if given.json:
        before = json.loads(given.json.read_text(encoding="utf-8")) if given.json.exists() else []
        given.json.write_text(json.dumps([*before, figures], indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
