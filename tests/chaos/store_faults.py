"""Faults of an object store: a real S3 server on the loopback behind a proxy that fails."""

import contextlib
import os
import re
import signal
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fault_base import Driver, Fault, workers_below
from flaky_store import FlakyStore, one_in
from phases import ANY, BEFORE_DATA, DATA_TO_RECEIPT, OF_A_SHARD
from store_server import S3Server, environment_of, s3_server

if TYPE_CHECKING:
    from trial import Trial

REQUESTS = {
    BEFORE_DATA: r"/images/{shard}-",
    DATA_TO_RECEIPT: r"/receipts/images/{shard}-",
}
"""The upload of a phase; what comes last is the receipt of the features."""
LAST = r"/receipts/features/[^/]+/{shard}-"


class StoreFault(Fault):
    """A run in a bucket; `decide` says what becomes of each request."""

    is_hosted = False

    def arm(self, trial: "Trial") -> None:
        self._stack = contextlib.ExitStack()
        self._server: S3Server = self._stack.enter_context(s3_server())
        self._proxy = self._stack.enter_context(FlakyStore(self._server.url))
        self._bucket = self._server.new_bucket()
        trial.output = f"s3://{self._bucket}/made"
        trial.env = environment_of(self._proxy.url)
        self._proxy.decide = self.decider(trial)

    def decider(self, trial: "Trial") -> Callable[[str, str], str]:
        """(method, path) to the fault of a request."""
        raise NotImplementedError

    def heal(self, trial: "Trial") -> None:
        self._proxy.decide = lambda method, path: "pass"

    def collect(self, trial: "Trial") -> None:
        """Copy the run from the bucket, behind the product's back, for the checks."""
        for key in self._server.keys(self._bucket):
            target = trial.run / key.removeprefix("made/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(self._server.content(self._bucket, key))
        unfinished = self._server.unfinished(self._bucket)
        trial.note(f"{self._proxy.faults()} of {len(self._proxy.requests)} requests failed")
        assert not unfinished, f"uploads that nobody ended: {unfinished}"
        hidden = [key for key in self._server.keys(self._bucket) if "/." in key]
        assert not hidden, f"temporary objects were left: {hidden}"

    def events(self) -> list[dict[str, Any]]:
        """Uploads of image shards that came through, as the library would have noted them."""
        return [
            {"op": "fsync", "path": found[1]}
            for request in self._proxy.requests
            if request.method == "PUT" and request.fault in {"pass", "lose", "half"}
            if (found := re.search(r"/made/(images/[^?]+)", request.path))
        ]

    def struck(self, trial: "Trial") -> list[str]:
        return [trial.case.phase] if self._proxy.faults() else []

    def end(self, trial: "Trial") -> None:
        self._stack.close()


class StoreIsFlaky(StoreFault):
    """One request in five is refused, lost, cut, answered by a half, or late."""

    name = "object store fails one request in five"
    phases = (ANY,)

    def decider(self, trial: "Trial") -> Callable[[str, str], str]:
        faults = ("refuse", "lose", "cut", "half", "wait:0.5")
        return one_in(5, *faults, seed=trial.chance.randrange(10**6))


class StoreIsSlow(StoreFault):
    """Every request waits."""

    name = "object store is slow"
    phases = (ANY,)

    def decider(self, trial: "Trial") -> Callable[[str, str], str]:
        return lambda method, path: "wait:0.3"


class UploadBroken(StoreFault):
    """The upload of one shard, or of its receipt, loses its connection, once or twice.

    `lose` is the treacherous one: the store has it, and the writer does not know.
    """

    name = "upload loses its connection"
    phases = OF_A_SHARD

    def decider(self, trial: "Trial") -> Callable[[str, str], str]:
        shard = f"{trial.shard():010d}"
        pattern = re.compile(REQUESTS.get(trial.case.phase, LAST).format(shard=shard))
        faults = [trial.chance.choice(["lose", "cut", "refuse"]) for _ in range(2)]
        trial.note(f"{pattern.pattern}: {', '.join(faults)}")
        lock = threading.Lock()

        def decide(method: str, path: str) -> str:
            with lock:
                return (
                    faults.pop() if method == "PUT" and faults and pattern.search(path) else "pass"
                )

        return decide


class WorkerKilledInUpload(StoreFault):
    """SIGKILL to the one worker while the store has half of its upload, or of its receipt."""

    name = "worker killed in an upload"

    def arm(self, trial: "Trial") -> None:
        trial.num_workers = 1
        self._struck = threading.Event()
        super().arm(trial)

    def decider(self, trial: "Trial") -> Callable[[str, str], str]:
        shard = f"{trial.shard():010d}"
        pattern = re.compile(REQUESTS.get(trial.case.phase, LAST).format(shard=shard))
        fault = trial.chance.choice(["lose", "cut"])

        def decide(method: str, path: str) -> str:
            if method != "PUT" or self._struck.is_set() or not pattern.search(path):
                return "pass"
            for worker in workers_below(self._driver.pid):
                os.kill(worker.pid, signal.SIGKILL)
            self._struck.set()
            trial.note(f"killed at {method} {path.partition('?')[0]}, {fault}")
            return fault

        return decide

    def strike(self, trial: "Trial", driver: Driver) -> None:
        self._driver = driver
        driver.wait(timeout=400)
        assert self._struck.is_set(), "no such upload came"
