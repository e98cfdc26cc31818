"""Workers and drivers killed at random moments: the bytes come out the same."""

import contextlib
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from harness import (
    NUM_SAMPLES,
    PLAN,
    FinishedRun,
    Process,
    attempts,
    call_main,
    descendants,
    finish,
    pixel_hashes,
    receipts,
    start,
    wait_for,
)
from safetensors.numpy import load_file

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ROUNDS = int(os.environ.get("EVALSUITE_CHAOS_ROUNDS", "3"))
FIRST = int(os.environ.get("EVALSUITE_CHAOS_SEED", str(time.time_ns() % 10**6)))
INVOCATIONS = 12
LINGER_S = 120
"""Ray's agents notice after a minute that their node manager died before they knew it."""
VICTIMS = ("worker", "worker", "worker", "driver", "group", "SIGTERM", "SIGINT")


@pytest.mark.parametrize("seed", range(FIRST, FIRST + ROUNDS))
def test_random_kills(seed: int, tmp_path: Path, digits_run: FinishedRun) -> None:
    """The same command until it ends by itself; each time something is killed meanwhile."""
    chance = random.Random(seed)
    options = ("--num-samples", NUM_SAMPLES, "--extractor", "digits-convnet", "--output", "made")
    run, codes = tmp_path / "made", []
    for _ in range(INVOCATIONS):
        work = ("--shard-size", chance.choice([10, 20, 30]), "--num-workers", chance.choice([1, 2]))
        driver = start("generate", *PLAN, *options, *work, cwd=tmp_path)
        below, victims = disturb(driver, chance)
        outcome = finish(driver)
        codes.append((victims, outcome.code))
        assert "Traceback" not in outcome.stderr, outcome.stderr
        assert outcome.code in allowed(victims), (codes, outcome.stderr)
        wait_for(lambda below=below: not any(process.alive for process in below), LINGER_S)
        if outcome.code == 0:
            break
    else:
        assert call_main("generate", *PLAN, *options[:4], "--output", run).code == 0
    assert attempts(run)[-1]["outcome"] == "complete", codes
    assert merged_hashes(run) == pixel_hashes(digits_run.path), codes
    ours, theirs = features(run), features(digits_run.path)
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        assert array.tobytes() == theirs[name].tobytes(), name


def allowed(victims: list[str]) -> set[int]:
    """Exit codes that these deaths may give; 6 is a worker lost too often.

    SIGABRT is Ray's own, from C++: SIGTERM came in the moment of `ray.init` in which that has set
    a handler.
    """
    codes = {
        "worker": {6},
        "driver": {-signal.SIGKILL},
        "group": {-signal.SIGKILL},
        "SIGTERM": {143, -signal.SIGTERM, -signal.SIGABRT},
        "SIGINT": {130, -signal.SIGINT},
    }
    return {0}.union(*(codes[victim] for victim in victims))


def disturb(driver: subprocess.Popen[str], chance: random.Random) -> tuple[set[Process], list[str]]:
    """Kill something at a random moment, perhaps twice.

    Returns:
        All processes that were seen, and what was killed.
    """
    seen: set[Process] = set()
    victims: list[str] = []
    for _ in range(chance.choice([1, 1, 2])):
        end = time.monotonic() + chance.uniform(0.5, 12)
        while time.monotonic() < end and driver.poll() is None:
            seen |= set(descendants(driver.pid))
            time.sleep(0.1)
        victim = chance.choice(VICTIMS)
        victims.append(victim)
        with contextlib.suppress(ProcessLookupError):
            if victim == "group":
                os.killpg(driver.pid, signal.SIGKILL)
            elif victim == "driver":
                driver.kill()
            elif victim.startswith("SIG"):
                driver.send_signal(getattr(signal, victim))
            elif workers := [p for p in descendants(driver.pid) if "ray::ShardWorker" in p.title]:
                os.kill(chance.choice(workers).pid, signal.SIGKILL)
    seen |= set(descendants(driver.pid))
    return seen, victims


def merged_hashes(run: Path) -> dict[int, str]:
    """Pixel hashes by sample; attempts of two sizes may overlap, and must then agree."""
    hashes: dict[int, str] = {}
    for receipt in receipts(run):
        for index, digest in zip(
            range(receipt["start"], receipt["stop"]), receipt["pixel_sha256"], strict=True
        ):
            assert hashes.setdefault(index, digest) == digest
    return dict(sorted(hashes.items()))


def features(run: Path) -> dict[str, np.ndarray]:
    """All features of a run, in the order of their samples."""
    (extractor,) = (run / "receipts/features").iterdir()
    rows: dict[int, dict[str, np.ndarray]] = {}
    for receipt in receipts(run, f"features/{extractor.name}"):
        arrays = load_file(run / receipt["files"][0]["path"])
        for at, index in enumerate(arrays["sample_index"]):
            rows[int(index)] = {name: array[at] for name, array in arrays.items()}
    return {name: np.stack([rows[i][name] for i in sorted(rows)]) for name in rows[0]}
