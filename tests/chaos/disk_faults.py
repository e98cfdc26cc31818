"""Faults of file systems: full, read-only, without power, seen late."""

import errno
import os
import signal
import subprocess
from typing import TYPE_CHECKING

from fault_base import KILLED, Driver, Fault, Holding
from harness import descendants
from hosts import end_all
from machines import mounted, tmpfs
from phases import BEFORE_DATA, COMPACTION, DATA_TO_RECEIPT, POINTS, Point
from power import cut

if TYPE_CHECKING:
    from trial import Trial


ALWAYS = 100  # of a hundred cases


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


class MountDies(Fault):
    """From a moment on nothing that a writer does to its file succeeds, not even its removal."""

    name = "mount dies"
    phases = (BEFORE_DATA,)
    codes = frozenset({5})

    def arm(self, trial: "Trial") -> None:
        pattern = f"images/{trial.shard():010d}-*"
        for op in ("fsync", "unlink"):
            trial.arm(Point(op, "before", pattern), "errno", ALWAYS, lasts=True)


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

    def struck(self, trial: "Trial") -> list[str]:
        refused = bool(trial.outcomes) and trial.outcomes[0].code == 5
        return [trial.case.phase] if refused else []

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


class DelayedVisibility(Fault):
    """An NFS-like mount: files of other processes are seen seconds later; and a worker dies."""

    name = "delayed visibility"

    def arm(self, trial: "Trial") -> None:
        milliseconds = trial.chance.randrange(1000, 4000)
        trial.note(f"{milliseconds} ms")
        trial.scene.delay(milliseconds)
        trial.arm(trial.point(), "kill")
