"""Random faults in many small real runs: `make chaos`, or `python tests/chaos/campaign.py --help`.

Every trial is a real `evalsuite generate` of 80 samples of the digits model in eight shards. It is
disturbed, continued by the same command, and compared with the undisturbed run: SHA-256 of every
sample, bytes of every feature. All of a trial follows from `--seed` and its number, so
`--seed S --only N` repeats one. The log is JSON lines, one for each trial.
"""

import argparse
import json
import os
import queue
import random
import secrets
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from checks import truth_of
from fault_base import Fault
from faults import FAULTS
from harness import PLAN, finish, start
from hosts import Host
from phases import COMPACTION
from shim import preloaded
from summary import LEAST_FAULTS, shortfalls, summary
from trial import NUM_SAMPLES, SHARD, Case, LongRun, Trial

NUM_LONG = 3000
"""Three hundred shards; receipts are compacted from 256 on."""


def combinations() -> list[tuple[type[Fault], str]]:
    """A round: every fault in every phase that it hits, and those of compaction twice.

    Four faults alone strike there.
    """
    return [
        (fault, phase)
        for fault in FAULTS
        for phase in fault.phases
        for _ in range(2 if phase == COMPACTION else 1)
    ]


def case_of(seed: int, number: int, allowed: set[str]) -> Case:
    """Trial `number` of a seed; a round of trials has every combination, in random order."""
    every = [c for c in combinations() if not allowed or c[0].name in allowed]
    around, place = divmod(number, len(every))
    order = list(every)
    random.Random(f"{seed}/round {around}").shuffle(order)
    fault, phase = order[place]
    return Case(number, seed, fault(), phase)


class Lane:
    """A thread that makes one trial after another, with a cluster of its own when one needs it."""

    def __init__(self, campaign: "Campaign") -> None:
        self._campaign = campaign
        self._host: Host | None = None
        self.thread = threading.Thread(target=self._work)

    def _work(self) -> None:
        campaign = self._campaign
        while time.monotonic() < campaign.deadline:
            try:
                number = campaign.numbers.get_nowait()
            except queue.Empty:
                break
            case = case_of(campaign.seed, number, campaign.allowed)
            trial = Trial(case, campaign.root, campaign.truth, self.host, campaign.long_run)
            record = trial.execute()
            campaign.keep(record)
            if not record["ok"]:
                self._end_host()
            elif not campaign.keeps_runs:
                shutil.rmtree(trial.scene.folder, ignore_errors=True)
        self._end_host()

    def host(self) -> Host:
        """The lane's cluster, started when first asked for."""
        if self._host is None:
            self._host = Host(self._campaign.root)
        self._host.refill()
        return self._host

    def _end_host(self) -> None:
        if self._host:
            self._host.end()
        self._host = None


class Campaign:
    """Many trials in a few lanes, and what came of them."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.seed: int = options.seed
        self.allowed = set(options.fault or ())
        self.keeps_runs: bool = options.keep
        self.deadline = time.monotonic() + 60 * options.minutes
        self.numbers: queue.Queue[int] = queue.Queue()
        for number in options.only or range(options.trials):
            self.numbers.put(number)
        self.root = Path(options.folder or tempfile.mkdtemp(prefix="chaos-"))
        self.root.mkdir(parents=True, exist_ok=True)
        self._log: Path = options.log
        self._lock = threading.Lock()
        self.records: list[dict[str, Any]] = []
        self.truth = truth_of(self._undisturbed("undisturbed", NUM_SAMPLES))
        self._long: LongRun | None = None

    def long_run(self) -> LongRun:
        """The complete run that is long enough to be compacted, made when first asked for."""
        with self._lock:
            if self._long is None:
                path = self._undisturbed("long", NUM_LONG)
                self._long = LongRun(path, NUM_LONG, truth_of(path))
            return self._long

    def _undisturbed(self, name: str, num_samples: int) -> Path:
        folder = self.root / name
        folder.mkdir(exist_ok=True)
        if not (folder / "made" / "README.md").exists():
            options = ("--num-samples", num_samples, "--shard-size", SHARD)
            where = ("--extractor", "digits-convnet", "--output", folder / "made")
            outcome = finish(start("generate", *PLAN, *options, *where, cwd=folder), 1800)
            if outcome.code:
                sys.exit(f"the undisturbed run failed: {outcome.stderr}")
        return folder / "made"

    def keep(self, record: dict[str, Any]) -> None:
        """Write a trial's line, and say it."""
        with self._lock:
            self.records.append(record)
            with self._log.open("a", encoding="utf-8") as log:
                log.write(json.dumps(record) + "\n")
            verdict = "ok  " if record["ok"] else "FAIL"
            text = f"{record['trial']:4} {verdict} {record['seconds']:5.0f} s  {record['fault']}"
            say(f"{text}, {record['phase']}, codes {record['codes']} {'; '.join(record['notes'])}")
            if not record["ok"]:
                say(f"     {record['problem'][:2000]}")
                again = f"--seed {self.seed} --only {record['trial']}"
                names = "".join(f" --fault '{name}'" for name in sorted(self.allowed))
                say(f"     again: python tests/chaos/campaign.py {again}{names} --keep")

    def run(self, num_lanes: int) -> None:
        """Work until all trials are made or the time is over."""
        lanes = [Lane(self) for _ in range(num_lanes)]
        for lane in lanes:
            lane.thread.start()
        try:
            _await(lanes)
        except KeyboardInterrupt:
            say("ends after the trials in hand")
            self.deadline = 0.0
            _await(lanes)


def _await(lanes: list[Lane]) -> None:
    """Wait without `join`, which a second time would not wait after Ctrl-C (Python 3.11)."""
    while any(lane.thread.is_alive() for lane in lanes):
        time.sleep(0.5)


def main() -> None:
    """Run a campaign; exit code 1 when a trial failed, or a whole campaign hit too little."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=120, help="how many [%(default)s]")
    parser.add_argument("--minutes", type=float, default=90, help="begin none after [%(default)s]")
    parser.add_argument("--lanes", type=int, default=2, help="trials at a time [%(default)s]")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    parser.add_argument("--only", type=int, nargs="+", metavar="N", help="these trials alone")
    parser.add_argument("--fault", action="append", metavar="NAME", help="these faults alone")
    parser.add_argument("--log", type=Path, default=Path("chaos.jsonl"), help="[%(default)s]")
    parser.add_argument("--folder", help="where runs lie [a temporary directory]")
    parser.add_argument("--keep", action="store_true", help="keep the runs of good trials too")
    options = parser.parse_args()
    options.log = options.log.absolute()
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    say(f"seed {options.seed}, log {options.log}")
    campaign = Campaign(options)
    say(f"runs below {campaign.root}; the library: {preloaded(campaign.root)['LD_PRELOAD']}")
    began = time.monotonic()
    campaign.run(options.lanes)
    took_s = time.monotonic() - began
    say(f"\nSeed {options.seed}, {options.lanes} lanes, {took_s / 60:.0f} minutes:")
    for line in summary(campaign.records):
        say(line)
    whole = not (options.only or options.fault) and options.trials >= LEAST_FAULTS
    few = shortfalls(campaign.records) if whole else []
    if few:
        say(f"too few: {'; '.join(few)} (--trials and --minutes give it more)")
    sys.exit(1 if few or any(not r["ok"] for r in campaign.records) else 0)


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
