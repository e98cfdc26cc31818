"""Slurm's scripts: stand-ins for `srun`, `scontrol` and `hostname` start real processes."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import (
    NUM_SAMPLES,
    PLAN,
    REPOSITORY,
    Outcome,
    attempts,
    environment,
    finish,
    pixel_hashes,
    receipts,
    wait_for,
)

pytestmark = [pytest.mark.ray, pytest.mark.slow]
SCRIPTS = REPOSITORY / "cluster" / "slurm"
NODES = {"node1": "198.51.100.1", "node2": "198.51.100.2"}
OPTIONS = (*PLAN, "--num-samples", str(NUM_SAMPLES), "--shard-size", "10", "--images", "all")


def program(path: Path, text: str) -> None:
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def bin_dir(tmp_path: Path) -> Path:
    """`evalsuite` of this checkout, and an `scontrol` that notes what is queued again."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program(folder / "evalsuite", f'exec {sys.executable} -m evalsuite "$@"')
    shown = "\\n".join(NODES)
    program(
        folder / "scontrol",
        f'if [ "$1" = show ]; then printf "{shown}\\n"; else echo "$@" >> {tmp_path}/queued; fi',
    )
    return folder


def started(script: str, bin_dir: Path, *words: str, **env: str) -> "subprocess.Popen[str]":
    path = f"{bin_dir}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.Popen(
        ["bash", str(SCRIPTS / script), *words],
        cwd=bin_dir.parent,
        env=environment(private=True, PATH=path, SLURM_JOB_ID="40", **env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def task(number: int, count: int, **env: str) -> dict[str, str]:
    ids = {"SLURM_ARRAY_JOB_ID": "40", "SLURM_ARRAY_TASK_ID": str(number)}
    return {**ids, "SLURM_ARRAY_TASK_COUNT": str(count), **env}


def test_a_job_array(
    bin_dir: Path, tmp_path: Path, call: Callable[..., Outcome], expected: dict[int, str]
) -> None:
    """One task out of time, one alone, then the rest in an array of another size."""
    run = tmp_path / "made"
    words = (*OPTIONS, "--num-workers", "1", "--output", str(run))
    first = started("array.sh", bin_dir, *words, **task(1, 3))
    wait_for(lambda: len(receipts(run)) >= 2)
    first.send_signal(signal.SIGUSR1)
    outcome = finish(first)
    assert outcome.code == 85, outcome.stderr
    assert "share 1/3 is not complete: queued again" in outcome.stdout
    assert (tmp_path / "queued").read_text() == "requeue 40_1\n"
    assert attempts(run)[-1]["exit_code"] == 85
    assert 0 < len(pixel_hashes(run)) < 60

    said = call("evaluate", run)
    assert said.code == 4
    assert "of 3 shares --array=1-3 are missing" in said.complaints[-1]

    second = finish(started("array.sh", bin_dir, *words, **task(2, 1, EVALSUITE_PARTS="3")))
    assert second.code == 0, second.stderr
    said = call("evaluate", run)
    assert said.code == 4
    assert "sbatch --array=1,3 --export=ALL,EVALSUITE_PARTS=3" in said.complaints[-1], (
        said.complaints
    )

    rest = finish(started("array.sh", bin_dir, *words, **task(1, 1)))
    assert rest.code == 0, rest.stderr
    assert pixel_hashes(run) == expected
    assert call("evaluate", run).code == 0


@contextlib.contextmanager
def two_hosts() -> Iterator[dict[str, str]]:
    """Two network namespaces that reach each other, by the names of the nodes; skips without."""
    spaces = {name: f"es-{os.getpid()}-{name}" for name in NODES}
    first, second = spaces.values()
    commands = [
        *(f"ip netns add {space}" for space in spaces.values()),
        f"ip link add es0 netns {first} type veth peer name es0 netns {second}",
        *(f"ip -n {space} addr add {NODES[name]}/24 dev es0" for name, space in spaces.items()),
        *(f"ip -n {space} link set {dev} up" for space in spaces.values() for dev in ("lo", "es0")),
    ]
    try:
        for command in commands:
            if subprocess.run(command.split(), capture_output=True, check=False).returncode:
                pytest.skip("this machine does not let tests make network namespaces")
        yield spaces
    finally:
        for space in spaces.values():
            subprocess.run(["ip", "netns", "del", space], capture_output=True, check=False)


def test_one_ray_cluster_for_one_job(
    bin_dir: Path, tmp_path: Path, expected: dict[int, str]
) -> None:
    """Two nodes with addresses, processes and /tmp/ray of their own, and `ray symmetric-run`."""
    run = tmp_path / "made"
    program(bin_dir / "hostname", 'echo "$NODE_IP"')
    Path("/tmp/ray").mkdir(exist_ok=True)
    with two_hosts() as spaces:
        cases = " ".join(
            f"{name}) space={space} ip={NODES[name]} ;;" for name, space in spaces.items()
        )
        program(
            bin_dir / "srun",
            f"""nodes="{" ".join(NODES)}"
while [[ $1 == --* ]]; do [[ $1 == --nodelist=* ]] && nodes=${{1#*=}}; shift; done
worst=0; pids=()
for node in $nodes; do
  case $node in {cases} esac
  mkdir -p {tmp_path}/tmp-$node
  NODE_IP=$ip ip netns exec $space unshare --pid --fork --kill-child --mount-proc \\
    bash -c 'mount --bind {tmp_path}/tmp-'$node' /tmp/ray && "$@"' bash "$@" &
  pids+=($!)
done
for pid in "${{pids[@]}}"; do wait $pid; code=$?; (( code > worst )) && worst=$code; done
exit $worst""",
        )
        env = {
            "SLURM_JOB_NODELIST": "node[1-2]",
            "SLURM_JOB_NUM_NODES": "2",
            "RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT": "120",
        }
        words = ("generate", *OPTIONS, "--output", str(run))
        outcome = finish(started("ray.sh", bin_dir, *words, **env), 500)
    assert outcome.code == 0, outcome.stdout + outcome.stderr
    assert pixel_hashes(run) == expected
    assert attempts(run)[-1]["workers"] == 2 * len(os.sched_getaffinity(0))
