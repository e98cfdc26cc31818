"""Jobs on a real head: submitted, followed, looked at, stopped, refused."""

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import (
    NUM_SAMPLES,
    PLAN,
    REPOSITORY,
    Outcome,
    attempts,
    call_in,
    pixel_hashes,
    run_cli,
    wait_for,
)
from heads import Head
from holding_line import HoldingLine

from evalsuite.errors import EnvironmentProblem
from evalsuite.runtime.jobs import GONE_S, JobServer

pytestmark = pytest.mark.ray
Submit = Callable[..., Outcome]


def test_a_submitted_run_makes_the_pixels_of_a_local_one(
    head: Head, tmp_path: Path, expected: dict[int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """This very checkout is the package; the log comes to stdout, and the revision is noted."""
    run = tmp_path / "made"
    words = ("generate", *PLAN, "--num-samples", 20, "--num-workers", 1, "--output", run)
    submit = ("submit", "--address", head.address, "--env", "RAY_ADDRESS_NOTE=1", "--")
    monkeypatch.setenv("RAY_ADDRESS", "nowhere:1")
    outcome = call_in(REPOSITORY, *submit, *words)
    assert outcome.code == 0, outcome.stdout + outcome.stderr
    assert f"run directory {run}" in outcome.stdout
    assert "evalsuite: package of " in outcome.stderr
    hashes = pixel_hashes(run)
    assert len(hashes) == 20
    assert hashes.items() <= expected.items()
    (attempt,) = attempts(run)
    head_commit = ["git", "-C", str(REPOSITORY), "rev-parse", "HEAD"]
    revision = subprocess.run(head_commit, capture_output=True, text=True, check=True).stdout
    assert attempt["git"]["revision"] == revision.strip()
    assert len(hashes) < NUM_SAMPLES


def test_the_exit_code_is_the_jobs(at_head: Submit) -> None:
    """The job's own line says what is wrong."""
    submit = ("submit", "--id", "twice", "--no-package", "--", "evaluate", "/nowhere/at-all")
    outcome = at_head(*submit)
    assert outcome.code == 3
    assert "evalsuite: /nowhere/at-all does not exist" in outcome.stdout
    assert len(outcome.complaints) == 1  # the job's id
    outcome = at_head(*submit)
    assert outcome.code == 2
    assert outcome.complaints[-1].endswith("the cluster has a job of that name: give another --id")


def test_a_detached_job_is_looked_at_and_stopped(at_head: Submit) -> None:
    """The preset is a file of the package."""
    slow = ("sample", "--model", "./mine.yaml", "--num-steps", 4000, "--index", 0, "--yes")
    outcome = at_head("submit", "--detach", "--id", "slow", "--", *slow)
    assert outcome.code == 0, outcome.stderr
    assert outcome.stdout == "slow\n"
    log = wait_for(lambda: at_head("jobs", "logs", "slow").stdout.partition("computing ")[2], 180)
    assert str(log).startswith("one batch")
    status = at_head("jobs", "status", "slow")
    assert "status  running\n" in status.stdout
    assert "command python -m evalsuite sample" in status.stdout
    assert at_head("jobs", "stop", "slow").code == 0
    followed = at_head("jobs", "logs", "slow", "--follow")
    assert followed.code == 143
    assert "evalsuite: stopped by SIGTERM" in followed.stdout
    assert "status  stopped" in at_head("jobs", "status", "slow").stdout
    assert "slow  stopped" in at_head("jobs", "list").stdout
    assert "had ended already" in at_head("jobs", "stop", "slow").stderr


def test_a_job_that_nobody_knows(at_head: Submit) -> None:
    for verb in ("status", "logs", "stop"):
        outcome = at_head("jobs", verb, "nobody")
        assert outcome.code == 2
        (line,) = outcome.complaints
        assert "knows no such job" in line


def test_whoever_follows_a_job_that_the_head_has_forgotten_is_told(head: Head) -> None:
    """As of a head that was started anew: it answers, and knows nothing of the job."""
    began = time.monotonic()
    with pytest.raises(EnvironmentProblem, match="forgotten its jobs: whether job lost goes"):
        JobServer(head.address).follow("lost", lambda text: None)
    assert time.monotonic() - began < GONE_S / 2


def test_whoever_follows_a_job_of_a_machine_that_vanishes_is_told(
    head: Head, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connections stay open, and nothing comes through them any more."""
    for module, name, seconds in (
        ("jobs", "GONE_S", 2.0),
        ("job_client", "ANSWER_S", 1.0),
        ("job_client", "QUIET_S", 0.5),
    ):
        monkeypatch.setattr(f"evalsuite.runtime.{module}.{name}", seconds)
    said: list[str] = []

    def write(text: str) -> None:
        said.append(text)
        line.hold()

    with HoldingLine(head.address) as line:
        server = JobServer(line.url)
        job_id = server.submit("echo begun; sleep 120", None, {}, None)
        began = time.monotonic()
        with pytest.raises(EnvironmentProblem, match="does not answer any more: whether job"):
            server.follow(job_id, write)
        assert len(said) == 1
        assert time.monotonic() - began < 90
        with pytest.raises(EnvironmentProblem, match="cannot list the jobs"):
            server.jobs()
    assert JobServer(head.address).stop(job_id)


def test_another_token_is_refused(head: Head, tmp_path: Path) -> None:
    """In a process of its own: Ray reads the token once."""
    words = ("jobs", "list", "--address", head.address)
    outcome = run_cli(*words, cwd=tmp_path, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="0" * 64)
    assert outcome.code == 6
    (line,) = outcome.complaints
    assert "refuses this token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN" in line


@pytest.mark.parametrize(
    "key", ["ray_version", pytest.param("python_version", marks=pytest.mark.slow)]
)
def test_a_cluster_of_another_version(head: Head, tmp_path: Path, key: str) -> None:
    """What the head says of itself is overwritten for a moment; nothing is made.

    In a process of its own: one whose connection Ray refused would end with the head.
    """
    with other_version(head, key):
        words = ("generate", *PLAN, "--num-samples", 20, "--output", "made")
        outcome = run_cli(*words, "--address", head.gcs, cwd=tmp_path)
    assert outcome.code == 6
    (line,) = outcome.complaints
    assert "9.9.9" in line
    assert "install the same" in line
    assert not pixel_hashes(tmp_path / "made")


def other_version(head: Head, key: str) -> "OtherVersion":
    return OtherVersion(head.gcs, key)


class OtherVersion:
    """The cluster's own account of its versions, with one of them changed."""

    def __init__(self, gcs: str, key: str) -> None:
        from ray._raylet import GcsClient

        self._client, self._key = GcsClient(address=gcs), key

    def __enter__(self) -> None:
        self._before = self._client.internal_kv_get(b"CLUSTER_METADATA", b"cluster")
        changed = {**json.loads(self._before), self._key: "9.9.9"}
        self._put(json.dumps(changed).encode())

    def __exit__(self, *exc: object) -> None:
        self._put(self._before)

    def _put(self, value: bytes) -> None:
        self._client.internal_kv_put(b"CLUSTER_METADATA", value, True, b"cluster")
