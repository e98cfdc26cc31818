"""The faults: each a small class that says which phases it hits, and how it is brought about.

`arm` sets rules before the command starts, `strike` acts while it runs, `heal` ends what would last
(a mount, a dead cluster) before the same command runs again.
"""

import contextlib
import errno
import os
import platform
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import Process, descendants, finish, wait_for
from hosts import Host, end_all
from machines import memory_in_use, memory_limited, mounted, tmpfs
from phases import ANY, BEFORE_DATA, COMPACTION, DATA_TO_RECEIPT, OF_A_SHARD, POINTS, Point
from power import cut
from shim import Rule, Scene

if TYPE_CHECKING:
    from trial import Trial

Driver = subprocess.Popen[str]
KILLED = -signal.SIGKILL


class Fault:
    """What can go wrong in one run."""

    name = ""
    phases: tuple[str, ...] = OF_A_SHARD
    codes: frozenset[int] = frozenset({0})
    """Exit codes of the disturbed command that are right."""
    is_hosted = True
    """Whether it strikes a run on a standing cluster, and not one with a private Ray."""
    must_meet = True
    counts_rules = False
    """Whether each rule that was met is a fault of its own."""

    def arm(self, trial: "Trial") -> None:
        """Before the command starts."""

    def strike(self, trial: "Trial", driver: Driver) -> None:
        """While it runs."""

    def heal(self, trial: "Trial") -> None:
        """When it has ended; twice does no harm."""

    def collect(self, trial: "Trial") -> None:
        """When the run is complete: bring it to `trial.run` if it is elsewhere."""

    def events(self) -> list[dict[str, Any]]:
        """Operations that the library could not see."""
        return []

    def end(self, trial: "Trial") -> None:
        """When all was checked."""


class WorkerKilled(Fault):
    """SIGKILL to a worker, up to three times in one run."""

    name = "worker killed"
    counts_rules = True

    def arm(self, trial: "Trial") -> None:
        shards = trial.chance.sample(range(10, 80, 10), trial.chance.choice([1, 2, 3]))
        for place, shard in enumerate(shards):
            phase = trial.chance.choice(OF_A_SHARD) if place else None
            trial.arm(trial.point(phase, shard), "kill")


class WorkerTruncates(Fault):
    """A worker cuts its data file to a half and dies before the receipt."""

    name = "worker truncates its file and dies"
    phases = (DATA_TO_RECEIPT,)

    def arm(self, trial: "Trial") -> None:
        folder = trial.chance.choice(["images", "features/*"])
        pattern = f"{folder}/{trial.shard():010d}-*"
        trial.arm(Point("fsync", trial.chance.choice(["before", "after"]), pattern), "truncate")


class Holding(Fault):
    """Faults that strike while a worker waits at a moment of its shard."""

    def arm(self, trial: "Trial") -> None:
        trial.arm(trial.point(), "hold")

    def strike(self, trial: "Trial", driver: Driver) -> None:
        held = trial.wait_met(trial.rules[0], driver)
        self.strike_at(trial, driver, held["pid"])
        trial.scene.release(trial.rules[0])

    def strike_at(self, trial: "Trial", driver: Driver, pid: int) -> None:
        """Act; the worker `pid` waits."""
        raise NotImplementedError


class WorkerOutOfMemory(Holding):
    """The kernel ends a worker whose memory group is full."""

    name = "worker out of memory"

    def strike_at(self, trial: "Trial", driver: Driver, pid: int) -> None:
        with memory_limited(pid, 64 * 2**20) as group:
            trial.note("killed by the kernel" if group else "no memory group here: SIGKILL")
            trial.scene.release(trial.rules[0], "eat" if group else "kill")
            wait_for(lambda: not is_alive(pid), 60)


class MonitorKills(Holding):
    """Ray's memory monitor ends a worker that takes more than the machine is said to have."""

    name = "memory monitor kills a worker"
    phases = (BEFORE_DATA, DATA_TO_RECEIPT)
    is_hosted = False

    def arm(self, trial: "Trial") -> None:
        trial.num_workers = 1
        threshold = memory_in_use() + 0.05
        trial.env = {
            "RAY_memory_usage_threshold": f"{threshold:.3f}",
            "RAY_memory_monitor_refresh_ms": "100",
        }
        super().arm(trial)

    def strike_at(self, trial: "Trial", driver: Driver, pid: int) -> None:
        logs = Path(session_of(parent_of(pid)), "logs")
        with memory_limited(pid, 4 * 2**30):
            trial.scene.release(trial.rules[0], "eat")
            wait_for(lambda: not is_alive(pid), 120)
        said = [
            line
            for log in logs.glob("raylet*")
            for line in log.read_text(errors="replace").splitlines()
            if "memory" in line.lower() and "kill" in line.lower()
        ]
        trial.note(f"the monitor said: {said[0][:160]}" if said else "the monitor said nothing")


class WorkerStopped(Fault):
    """SIGSTOP to a worker: it neither dies nor answers."""

    name = "worker stopped"

    def arm(self, trial: "Trial") -> None:
        trial.arm(trial.point(), "stop")

    def strike(self, trial: "Trial", driver: Driver) -> None:
        event = trial.wait_met(trial.rules[0], driver)
        outcome_at = time.monotonic()
        driver.wait(timeout=400)
        trial.note(f"the command ended {time.monotonic() - outcome_at:.0f} s after the stop")
        if is_alive(event["pid"]):
            trial.note("the stopped worker was left")
            with contextlib.suppress(ProcessLookupError):
                os.kill(event["pid"], signal.SIGKILL)


class NodeManagerKilled(Holding):
    """SIGKILL to a raylet; its worker lives on for a while and commits late."""

    name = "node manager killed"
    codes = frozenset({0, 6})

    def strike_at(self, trial: "Trial", driver: Driver, pid: int) -> None:
        raylet = parent_of(pid)
        assert "raylet" in title_of(raylet), title_of(raylet)
        shard = trial.scene.events()
        held = next(e["path"] for e in shard if e.get("rule") == trial.rules[0])
        first = Path(held).name.lstrip(".").split("-")[0]
        os.kill(raylet, signal.SIGKILL)

        def others_did() -> bool:
            return driver.poll() is not None or any(
                e["op"] == "link"
                and e["path"].startswith(f"receipts/images/{first}")
                and e["pid"] != pid
                for e in trial.scene.events()
            )

        end = time.monotonic() + 40
        while not others_did() and time.monotonic() < end:
            time.sleep(0.1)
        lives = is_alive(pid)
        trial.note(f"the worker {'lived on' if lives else 'had ended'} when its shard was done")
        trial.scene.release(trial.rules[0])


class OnlyNodeKilled(Holding):
    """SIGKILL to the one raylet of a private Ray: its workers may end all before they are ended."""

    name = "the only node manager killed"
    codes = frozenset({0, 6})
    is_hosted = False

    def strike_at(self, trial: "Trial", driver: Driver, pid: int) -> None:
        os.kill(parent_of(pid), signal.SIGKILL)


class DriverKilled(Holding):
    """SIGKILL to the driver, or to all of its process group; the worker may commit after it."""

    name = "driver killed"
    codes = frozenset({KILLED})

    def strike_at(self, trial: "Trial", driver: Driver, pid: int) -> None:
        if trial.chance.random() < 0.5:
            os.killpg(driver.pid, signal.SIGKILL)
        else:
            driver.kill()
        time.sleep(trial.chance.uniform(0, 2))


class PrivateDriverKilled(DriverKilled):
    """The same with a private Ray, which must not outlive it."""

    name = "driver of a private Ray killed"
    is_hosted = False


class HeadKilled(Holding):
    """SIGKILL to the head's control store; the run goes on when a cluster is back."""

    name = "head killed"
    codes = frozenset({6})
    is_hosted = False  # the cluster is this trial's own

    def arm(self, trial: "Trial") -> None:
        trial.host = Host(trial.root, 2)
        super().arm(trial)

    def strike_at(self, trial: "Trial", driver: Driver, pid: int) -> None:
        assert trial.host
        (head,) = trial.host.named("gcs_server")
        os.kill(head.pid, signal.SIGKILL)
        trial.scene.release(trial.rules[0])
        began = time.monotonic()
        driver.wait(timeout=400)
        trial.note(f"the command ended {time.monotonic() - began:.0f} s after the head")
        trial.host.end()
        trial.host = None

    def heal(self, trial: "Trial") -> None:
        if trial.host is None:
            trial.host = Host(trial.root, 2)

    def end(self, trial: "Trial") -> None:
        if trial.host:
            trial.host.end()


class StorageRefuses(Fault):
    """One operation fails: no space, no quota, an input-output error, a read-only system."""

    name = "storage refuses"
    phases = (BEFORE_DATA, DATA_TO_RECEIPT)
    codes = frozenset({5})

    def arm(self, trial: "Trial") -> None:
        points = [p for p in POINTS[trial.case.phase] if p.when == "before"]
        point = trial.chance.choice(points)
        shard = f"{trial.shard():010d}"
        code = trial.chance.choice([errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
        trial.note(errno.errorcode[code])
        trial.arm(point._replace(pattern=point.pattern.format(shard=shard)), "errno", code)


class DiskFull(Fault):
    """A file system of 150 kB, which the run fills; later it has grown."""

    name = "disk full"
    phases = (BEFORE_DATA,)
    codes = frozenset({5})

    def arm(self, trial: "Trial") -> None:
        trial.run.mkdir()
        if not tmpfs(trial.run, "150k"):
            trial.note("no mount here: ENOSPC by the library")
            point = Point("write", "before", f"images/{trial.shard():010d}-*")
            trial.arm(point, "errno", errno.ENOSPC)

    def heal(self, trial: "Trial") -> None:
        if os.path.ismount(trial.run):
            subprocess.run(["mount", "-o", "remount,size=64m", trial.run], check=True)

    def end(self, trial: "Trial") -> None:
        subprocess.run(["umount", "-l", trial.run], capture_output=True, check=False)


class ReadOnly(Holding):
    """The directory becomes read-only under the worker."""

    name = "read-only directory"
    phases = (BEFORE_DATA,)
    codes = frozenset({5})

    def arm(self, trial: "Trial") -> None:
        trial.arm(Point("create", "before", f"images/{trial.shard():010d}-*"), "hold")

    def strike_at(self, trial: "Trial", driver: Driver, pid: int) -> None:
        if not mounted(trial.run / "images", read_only=True):
            trial.note("no mount here: EROFS by the library")
            trial.arm(Point("create", "before", "images/*"), "errno", errno.EROFS)

    def heal(self, trial: "Trial") -> None:
        subprocess.run(["umount", "-l", trial.run / "images"], capture_output=True, check=False)


class PowerCut(Holding):
    """All processes die at once, and what was not flushed is lost."""

    name = "power cut"
    codes = frozenset({KILLED})
    is_hosted = False

    def strike_at(self, trial: "Trial", driver: Driver, pid: int) -> None:
        below = descendants(driver.pid)
        os.killpg(driver.pid, signal.SIGKILL)
        end_all(below)
        strict = trial.chance.random() < 0.5
        losses = cut(trial.run, trial.scene.events(), trial.chance, strict=strict)
        kind = "strict" if strict else "usual"
        trial.note(f"a {kind} file system lost {[tuple(loss) for loss in losses]}")

    def heal(self, trial: "Trial") -> None:
        trial.host = trial.host or trial.hosts()


class InCompaction(Fault):
    """Faults of the command that compacts the receipts of a long run, which needs no Ray for it."""

    phases = (COMPACTION,)
    is_hosted = False
    action = "kill"
    codes = frozenset({KILLED})

    def arm(self, trial: "Trial") -> None:
        trial.take_long_run()
        trial.arm(trial.point(), self.action)


class KilledInCompaction(InCompaction):
    """SIGKILL while a segment is written."""

    name = "killed in compaction"


class TruncatesSegment(InCompaction):
    """A segment is cut to a half, and its writer dies."""

    name = "segment truncated"

    def arm(self, trial: "Trial") -> None:
        trial.take_long_run()
        trial.arm(Point("fsync", trial.chance.choice(["before", "after"]), "ledger/*"), "truncate")


class CompactionRefused(InCompaction):
    """The cache cannot be written: the command does without."""

    name = "compaction refused"
    codes = frozenset({0})

    def arm(self, trial: "Trial") -> None:
        trial.take_long_run()
        points = [point for point in POINTS[COMPACTION] if point.when == "before"]
        code = trial.chance.choice([errno.ENOSPC, errno.EROFS, errno.EIO])
        trial.note(errno.errorcode[code])
        trial.arm(trial.chance.choice(points), "errno", code)


class PowerCutInCompaction(InCompaction):
    """What was not flushed of the ledger is lost."""

    name = "power cut in compaction"
    action = "hold"

    def strike(self, trial: "Trial", driver: Driver) -> None:
        trial.wait_met(trial.rules[0], driver)
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
        losses = cut(trial.run, trial.scene.events(), trial.chance, strict=True)
        trial.note(f"lost {[tuple(loss) for loss in losses]}")


class TwoDrivers(Holding):
    """The same command by mistake a second time, while a worker of the first is in a shard."""

    name = "two drivers"

    def arm(self, trial: "Trial") -> None:
        trial.num_workers = 1
        super().arm(trial)

    def strike_at(self, trial: "Trial", driver: Driver, pid: int) -> None:
        second = trial.begin()
        outcome = finish(second)
        trial.note(f"the second ended with {outcome.code} {outcome.complaints[-1:]}")
        assert outcome.code in {0, 2, 6}, outcome.stderr
        assert "Traceback" not in outcome.stderr, outcome.stderr
        told = f"(process {driver.pid} on {platform.node()}) makes samples of this share too"
        assert told in outcome.stderr or "nothing was missing" in outcome.stderr, outcome.stderr


class DelayedVisibility(Fault):
    """An NFS-like mount: files of other processes are seen seconds later; and a worker dies."""

    name = "delayed visibility"

    def arm(self, trial: "Trial") -> None:
        milliseconds = trial.chance.randrange(1000, 4000)
        trial.note(f"{milliseconds} ms")
        trial.scene.delay(milliseconds)
        trial.arm(trial.point(), "kill")


class Neighbours(Fault):
    """Two private clusters on one machine, and RAY_ADDRESS of a third; one user's run is killed."""

    name = "neighbours and a stray RAY_ADDRESS"
    is_hosted = False

    def arm(self, trial: "Trial") -> None:
        self.other = Scene(trial.root / f"trial-{trial.case.number:04d}-other")
        trial.arm(trial.point(), "hold")
        self.other.arm("hold", Rule(*trial.point(), "hold"))

    def strike(self, trial: "Trial", driver: Driver) -> None:
        stray = trial.hosts().address if trial.chance.random() < 0.5 else "192.0.2.1:6379"
        trial.note(f"RAY_ADDRESS={stray}")
        other = trial.begin(self.other, RAY_ADDRESS=stray)
        held = trial.wait_met(trial.rules[0], driver)
        assert held["pid"] in {p.pid for p in descendants(driver.pid)}, "a worker of another's Ray"
        wait_for(lambda: self.other.met("hold") or other.poll() is not None, 400)
        below = descendants(other.pid)
        pids = {e["pid"] for e in self.other.events() if e["path"].startswith("images/")}
        assert pids <= {p.pid for p in below}, "a worker of another's Ray"
        os.killpg(other.pid, signal.SIGKILL)
        finish(other)
        wait_for(lambda: not any(p.alive for p in below), 120)
        trial.scene.release(trial.rules[0])


class RandomMoment(Fault):
    """A worker, the driver or its group is killed, or told to end, at any moment at all."""

    name = "kill or signal at a random moment"
    phases = (ANY,)
    is_hosted = False
    codes = frozenset({0, KILLED, 130, 143, -signal.SIGINT, -signal.SIGTERM, -signal.SIGABRT})
    """SIGABRT is Ray's own, from C++: SIGTERM while `ray.init` has set a handler of its own."""

    def strike(self, trial: "Trial", driver: Driver) -> None:
        time.sleep(trial.chance.uniform(0.3, 10))
        victim = trial.chance.choice(["worker", "worker", "driver", "group", "SIGTERM", "SIGINT"])
        trial.note(f"{victim} after {len(trial.scene.events())} operations")
        with contextlib.suppress(ProcessLookupError):
            if victim == "group":
                os.killpg(driver.pid, signal.SIGKILL)
            elif victim == "driver":
                driver.kill()
            elif victim.startswith("SIG"):
                driver.send_signal(getattr(signal, victim))
            elif workers := workers_below(driver.pid):
                os.kill(trial.chance.choice(workers).pid, signal.SIGKILL)


def workers_below(pid: int) -> list[Process]:
    """The worker processes of the Ray below a process."""
    return [p for p in descendants(pid) if p.title.startswith("ray::ShardWorker")]


def parent_of(pid: int) -> int:
    """The process that started another."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def session_of(raylet: int) -> str:
    """The session directory of a node manager, which its command line names."""
    found = re.search(r"--session[_-]dir=(\S+)", title_of(raylet))
    assert found, title_of(raylet)
    return found[1]


def title_of(pid: int) -> str:
    """A process's command line."""
    return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


FAULTS: tuple[type[Fault], ...] = (
    WorkerKilled,
    WorkerTruncates,
    WorkerOutOfMemory,
    MonitorKills,
    WorkerStopped,
    NodeManagerKilled,
    OnlyNodeKilled,
    DriverKilled,
    PrivateDriverKilled,
    HeadKilled,
    StorageRefuses,
    DiskFull,
    ReadOnly,
    PowerCut,
    KilledInCompaction,
    TruncatesSegment,
    CompactionRefused,
    PowerCutInCompaction,
    TwoDrivers,
    DelayedVisibility,
    Neighbours,
    RandomMoment,
)
