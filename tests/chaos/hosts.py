"""Ray clusters that a campaign keeps for many runs, because a start is what takes long."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from harness import REPOSITORY, Process, descendants, environment, wait_for
from shim import preloaded


class Host:
    """A cluster of several nodes with one CPU each, whose workers are ruled by `shim.c`."""

    def __init__(self, root: Path, num_nodes: int = 3) -> None:
        """Start it and wait until it stands.

        Args:
            root: below which the scenes lie.
            num_nodes: node managers, all on this machine.
        """
        self._folder = tempfile.TemporaryDirectory(prefix="es-", ignore_cleanup_errors=True)
        self.num_nodes = num_nodes
        self._process = subprocess.Popen(
            [
                *(sys.executable, REPOSITORY / "tests" / "cluster_host.py"),
                *(str(num_nodes), self._folder.name),
            ],
            env=environment(private=False, **preloaded(root)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        assert self._process.stdout
        self.address = self._process.stdout.readline().strip()
        if not self.address:
            raise RuntimeError("the cluster did not start")

    @property
    def processes(self) -> list[Process]:
        """Everything below the host."""
        return descendants(self._process.pid)

    def named(self, word: str) -> list[Process]:
        """Its processes whose program is called so."""
        return [p for p in self.processes if word in Path(p.title.split(" ")[0]).name]

    def refill(self) -> None:
        """Add nodes in place of those that were killed."""
        for _ in range(self.num_nodes - len(self.named("raylet"))):
            assert self._process.stdin
            assert self._process.stdout
            self._process.stdin.write("add\n")
            self._process.stdin.flush()
            self._process.stdout.readline()

    def end(self) -> None:
        """Take it down, with all that is left of it."""
        below = self.processes
        self._process.kill()
        self._process.wait()
        end_all(below)
        self._folder.cleanup()


def end_all(processes: list[Process]) -> None:
    """Kill processes that still run, by their own numbers, and wait until they are gone."""
    for process in processes:
        if process.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
    wait_for(lambda: not any(process.alive for process in processes), 30)
