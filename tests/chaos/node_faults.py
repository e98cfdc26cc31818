"""Faults of nodes, heads and drivers, and of those who run beside them."""

import contextlib
import os
import platform
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

from fault_base import KILLED, Driver, Fault, Holding, parent_of, title_of, workers_below
from harness import Process, descendants, finish, is_running, wait_for
from hosts import Host
from phases import ANY
from shim import Rule, Scene

if TYPE_CHECKING:
    from trial import Trial


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
        lives = is_running(pid)
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
        self._came = False
        time.sleep(trial.chance.uniform(0.3, 10))
        victim = trial.chance.choice(["worker", "worker", "driver", "group", "SIGTERM", "SIGINT"])
        workers: list[Process] = []
        if victim == "worker":
            wait_for(lambda: workers_below(driver.pid) or driver.poll() is not None, 400)
            workers = workers_below(driver.pid)
        trial.note(f"{victim} after {len(trial.scene.events())} operations")
        if driver.poll() is None and (workers or victim != "worker"):
            with contextlib.suppress(ProcessLookupError):
                self._do(victim, driver, trial.chance.choice(workers) if workers else None)
                self._came = True

    def _do(self, victim: str, driver: Driver, worker: Process | None) -> None:
        if worker:
            os.kill(worker.pid, signal.SIGKILL)
        elif victim == "group":
            os.killpg(driver.pid, signal.SIGKILL)
        elif victim == "driver":
            driver.kill()
        else:
            driver.send_signal(getattr(signal, victim))

    def struck(self, trial: "Trial") -> list[str]:
        return [ANY] if self._came else []
