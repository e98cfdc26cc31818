"""Judging by workers: with one killed, and on an object store: the same rows."""

import os
import signal
import sys
import threading
from pathlib import Path

import pytest
from harness import HostedCluster, call_main, descendants, wait_for
from store_server import s3_server, speaking_to

from evalsuite.artifacts.run_directory import RunDirectory
from evalsuite.artifacts.storage import open_storage
from evalsuite.pipeline.row_file import read_rows

sys.path.insert(0, str(Path(__file__).parent))
from drawn_run import Drawn


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    """Not to be changed but by verdicts."""
    return Drawn(tmp_path_factory.mktemp("drawn"))


@pytest.fixture(scope="module")
def expected(drawn: Drawn, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Verdicts that one process gave; the stage is taken away again."""
    content = drawn.judged(
        drawn.run.root, tmp_path_factory.mktemp("one") / "v.jsonl", "--num-workers", 1
    )
    take_away(drawn.run)
    return content


def take_away(run: RunDirectory) -> None:
    """All that was judged."""
    for file in list(run.storage.listing()):
        if file.path.startswith(("detections/", "receipts/detections/", "verdicts/")):
            run.storage.delete(file.path)


@pytest.mark.ray
def test_workers_give_the_rows_of_one_process_whoever_is_killed(
    cluster: HostedCluster, drawn: Drawn, expected: bytes, tmp_path: Path
) -> None:
    """Two workers of a cluster, one of them killed after the first shard."""
    command = ("t2i", "geneval", drawn.run.root, "--metadata", drawn.metadata)
    command += ("--detector", "shapes", "--address", cluster.address, "--num-workers", 2)
    receipts = Path(str(drawn.run.root)) / "receipts" / "detections"

    def kill_one() -> None:
        wait_for(lambda: len(list(receipts.glob("*/*.json"))) >= 1)
        below = descendants(cluster.host_pid)
        workers = [p for p in below if p.title.startswith("ray::JudgeWorker")]
        os.kill(workers[0].pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    outcome = call_main(*command, "--output", tmp_path / "v.jsonl")
    killer.join()
    assert outcome.code == 0, outcome.stderr
    assert (tmp_path / "v.jsonl").read_bytes() == expected
    assert "80 of 80 images are to be judged" in outcome.stderr
    take_away(drawn.run)


def test_a_run_on_an_object_store_is_judged_there(
    drawn: Drawn, expected: bytes, tmp_path: Path
) -> None:
    with s3_server() as server, speaking_to(server.url):
        root = f"s3://{server.new_bucket()}/run"
        store = open_storage(root)
        for file in drawn.run.storage.listing():
            store.replace(file.path, drawn.run.storage.read(file.path))
        assert drawn.judged(root, tmp_path / "v.jsonl", "--num-workers", 1) == expected
        (name,) = store.names("verdicts")
        assert store.read(f"verdicts/{name}") == expected
        summed = call_main("t2i", "summary", f"{root}/verdicts/{name}")
        assert summed.code == 0, summed.stderr
        header, rows = read_rows(open_storage(root).path(f"verdicts/{name}"))
        assert header["source"] == drawn.run.manifest.plan_id
        right = [row["correct"] for row in rows]
        assert all(right[i] for i in range(len(right)) if i % 3)
        assert not all(right)
