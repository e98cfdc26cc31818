"""A whole run on an object store by the commands: killed, resumed, equal to the run on a disk."""

import hashlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from flaky_store import FlakyStore, one_in
from harness import NUM_SAMPLES, PLAN, FinishedRun, call_in, call_main, start, wait_for
from store_server import S3Server, environment_of, s3_server, speaking_to

from evalsuite.artifacts.run_directory import RunDirectory

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as running:
        yield running


@pytest.fixture
def proxy(server: S3Server) -> Iterator[FlakyStore]:
    with FlakyStore(server.url) as running, speaking_to(running.url):
        yield running


def data_files(run: RunDirectory) -> dict[str, str]:
    """SHA-256 of the committed data files, by stage and range, from their bytes."""
    return {
        f"{stage} {receipt.start}..{receipt.stop}": hashlib.sha256(
            run.storage.read(receipt.files[0].path)
        ).hexdigest()
        for stage in ("images", *run.feature_stages())
        for receipt in run.receipts(stage)
    }


def numbers(run: RunDirectory) -> dict[str, object]:
    """Values of the records."""
    return {one["metric"]: one["value"] for one in run.read_json_folder("results")}


def wait_for_receipts(server: S3Server, bucket: str, count: int) -> None:
    """The store is asked seldom: it is a thread of this process, which the run needs too."""
    wait_for(lambda: sum("receipts/images" in key for key in server.keys(bucket)) >= count, 240)


def test_a_killed_run_resumes_to_the_same_bytes(
    server: S3Server, proxy: FlakyStore, digits_run: FinishedRun, tmp_path: Path
) -> None:
    """The driver is killed; the store fails one request in twenty, in every way."""
    bucket = server.new_bucket()
    url = f"s3://{bucket}/runs/digits"
    options = ("--num-samples", NUM_SAMPLES, "--images", "all", "--num-workers", 1)
    command = ("run", *PLAN, *options, "--shard-size", 20, "--output", url)
    env = environment_of(proxy.url)
    proxy.decide = one_in(20, "refuse", "lose", "cut", "half", seed=3)
    driver = start(*command, cwd=tmp_path, **env)
    wait_for_receipts(server, bucket, 2)
    os.kill(driver.pid, signal.SIGKILL)
    driver.communicate()
    outcome = call_in(tmp_path, *command)
    assert outcome.code == 0, outcome.stderr
    assert f"report  {url}/report/index.html" in outcome.stdout
    assert proxy.faults() > 0
    proxy.decide = lambda method, path: "pass"

    run, local = RunDirectory.open(url), RunDirectory.open(digits_run.path)
    assert data_files(run) == data_files(local)
    assert numbers(run) == pytest.approx(numbers(local), rel=1e-9)
    check_commands(url, server, bucket)
    assert list(tmp_path.iterdir()) == []  # nothing was written to a folder `s3:`


def check_commands(url: str, server: S3Server, bucket: str) -> None:
    """What reads a run, in this process."""
    status = call_main("status", url)
    assert f"images: {NUM_SAMPLES} samples in 10 shards, complete" in status.stdout
    verify = call_main("verify", url, "--num-batches", 1)
    assert (verify.code, "equal" in verify.stdout) == (0, True), verify
    evaluate = call_main("evaluate", url)
    assert (evaluate.code, "digits-FID-200" in evaluate.stdout) == (0, True), evaluate
    compare = call_main("compare", url, url)
    assert (compare.code, "A and B differ in nothing" in compare.stdout) == (0, True), compare
    report = call_main("report", url)
    assert report.stdout.strip() == f"{url}/report/index.html"
    assert b"<html" in server.content(bucket, "runs/digits/report/index.html")
    server.raw.put_object(Bucket=bucket, Key="runs/digits/images/left.parquet", Body=b"half")
    server.raw.create_multipart_upload(Bucket=bucket, Key="runs/digits/images/begun.parquet")
    gc = call_main("gc", url, "--force")
    assert "images/left.parquet" in gc.stdout
    assert "images/begun.parquet  (unfinished upload)" in gc.stdout
    assert server.unfinished(bucket) == []
    assert "runs/digits/images/left.parquet" not in server.keys(bucket)


@pytest.mark.parametrize("command", [("run", *PLAN, "--output"), ("status",), ("evaluate",)])
def test_a_missing_bucket_is_one_line(proxy: FlakyStore, command: tuple[str, ...]) -> None:
    """Before a worker starts."""
    outcome = call_main(*command, "s3://no-such-bucket/run")
    assert outcome.code == 5
    (line,) = outcome.complaints
    assert "bucket no-such-bucket does not exist" in line
