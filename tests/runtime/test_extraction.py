"""`evaluate` by Ray's workers: the numbers of one process, whoever is killed in the middle."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from harness import HostedCluster, Outcome, descendants, finish, start, wait_for
from PIL import Image

from evalsuite.artifacts.features import FeatureTable
from evalsuite.artifacts.images import pixel_sha256
from evalsuite.artifacts.receipts import digest_of_pixels
from evalsuite.artifacts.samples import open_samples
from evalsuite.config import ExtractorSpec, load_spec
from evalsuite.pipeline.embedding import embed
from evalsuite.pipeline.feature_cache import FeatureCache, Rows
from evalsuite.runtime import extraction
from evalsuite.runtime.cluster import Cluster
from evalsuite.runtime.watch import Node

pytestmark = pytest.mark.ray
COUNT = 420
BATCH = 50
ASKED = ("--reference", "digits-16-train", "--resize", "bicubic:16", "--metrics", "fid,precision")


class Sets(NamedTuple):
    """The same images in four layouts, and what one pass makes of them."""

    folder: Path
    table: FeatureTable
    digest: str


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Sets:
    """Pictures of 200 x 200 that are resized, so that there is some work."""
    folder = tmp_path_factory.mktemp("sets")
    images = np.random.default_rng(8).integers(0, 256, (COUNT, 200, 200, 3), np.uint8)
    (folder / "png").mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / "png" / f"{i:03d}.png", compress_level=1)
    encoded = [path.read_bytes() for path in sorted((folder / "png").iterdir())]
    pq.write_table(pa.table({"image": encoded}), folder / "parquet.parquet", row_group_size=100)
    np.savez(folder / "stored.npz", images)
    np.savez_compressed(folder / "compressed.npz", images[:120])
    samples = open_samples(folder / "stored.npz", resize="bicubic:16")
    hashes = [pixel_sha256(image) for portion in samples.portions(COUNT) for image in portion]
    spec = load_spec(ExtractorSpec, "digits-convnet")
    table = embed(samples, COUNT, spec, torch.device("cpu")).table
    return Sets(folder, table, digest_of_pixels(hashes))


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test alone."""
    monkeypatch.setenv("EVALSUITE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def num_shards(cache: Path) -> int:
    """Committed feature shards."""
    return len(list(cache.glob("features/*/receipts/features/*.json")))


def assert_same(path: Path, sets: Sets) -> dict[str, Any]:
    """The features that were kept have the bits of one pass; gives what was done for them."""
    result = json.loads(path.read_text())
    assert result["records"][0]["samples"]["pixels_digest"] == sets.digest
    (features,) = result["features"]
    folder = Path(features["folder"])
    rows = Rows(COUNT)
    FeatureCache(folder, json.loads((folder / "about.json").read_text())["key"]).fill(rows)
    found = rows.result()
    assert found.pixels_digest == sets.digest
    for ours, theirs in zip(found.table[1:], sets.table[1:], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    return features


def workers_below(pid: int) -> list[int]:
    """Ray's processes of feature workers."""
    return [p.pid for p in descendants(pid) if p.title.startswith("ray::FeatureWorker")]


def test_a_killed_worker_is_replaced_and_then_nothing_to_do(
    cluster: HostedCluster,
    call: Callable[..., Outcome],
    sets: Sets,
    tmp_path: Path,
    cache_folder: Path,
) -> None:
    """SIGKILL to one of two after the first shard, from an NPZ; the second time no image is read
    and Ray is not asked.
    """

    def kill_one() -> None:
        wait_for(lambda: num_shards(cache_folder) >= 1)
        (victim, *_) = workers_below(cluster.host_pid)
        os.kill(victim, signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    path = sets.folder / "stored.npz"
    options = ("--address", cluster.address, "--num-workers", 2, "--json", "out.json")
    outcome = call("evaluate", path, *ASKED, *options)
    killer.join()
    assert outcome.code == 0, outcome.stderr
    made = assert_same(tmp_path / "out.json", sets)
    assert (made["workers"], made["images_extracted"], made["images_kept"]) == (2, COUNT, 0)
    lost = made["workers_lost"]
    assert lost >= 1  # a busy machine may lose an honest one too
    words = "1 worker lost and replaced" if lost == 1 else f"{lost} workers lost and replaced"
    assert words in outcome.stderr
    assert f"images {COUNT}/{COUNT}" in outcome.stderr
    again = call("evaluate", path, *ASKED, "--json", "again.json")
    assert again.code == 0, again.stderr
    made = assert_same(tmp_path / "again.json", sets)
    assert (made["workers"], made["images_extracted"], made["images_kept"]) == (1, 0, COUNT)
    assert f"features of {COUNT} of {COUNT} images are kept from before" in again.stderr
    assert again.stdout == outcome.stdout


@pytest.mark.slow  # of a run it is shown in tests/runtime/test_identity.py, by the same driver
def test_a_killed_driver_is_resumed(
    cluster: HostedCluster,
    call: Callable[..., Outcome],
    sets: Sets,
    tmp_path: Path,
    cache_folder: Path,
) -> None:
    """SIGKILL to a private Ray's driver and all its group after two shards, from Parquet."""
    path = sets.folder / "parquet.parquet"
    driver = start("evaluate", path, *ASKED, "--num-workers", 2, cwd=tmp_path)
    wait_for(lambda: num_shards(cache_folder) >= 2)
    below = descendants(driver.pid)
    os.killpg(driver.pid, signal.SIGKILL)
    assert finish(driver).code == -signal.SIGKILL
    wait_for(lambda: not any(process.alive for process in below), 30)
    done = num_shards(cache_folder)
    assert 2 <= done < 9
    where = ("--address", cluster.address, "--num-workers", 1, "--json", "out.json")
    outcome = call("evaluate", path, *ASKED, *where)
    assert outcome.code == 0, outcome.stderr
    made = assert_same(tmp_path / "out.json", sets)
    assert made["images_kept"] == COUNT - made["images_extracted"]
    assert made["images_kept"] >= (done - 1) * BATCH


def test_a_broken_picture_ends_it_at_once(
    cluster: HostedCluster,
    call: Callable[..., Outcome],
    sets: Sets,
    tmp_path: Path,
    cache_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With one line that names it; what was committed stays. The worker decodes in processes.

    That is what one on a GPU does; the fault comes from one of them.
    """
    monkeypatch.setattr(extraction, "_decoders_of", lambda *_: 2)
    (tmp_path / "png").mkdir()
    for picture in (sets.folder / "png").iterdir():
        (tmp_path / "png" / picture.name).hardlink_to(picture)
    content = (tmp_path / "png" / "221.png").read_bytes()
    (tmp_path / "png" / "221.png").unlink()
    (tmp_path / "png" / "221.png").write_bytes(content[:-500])
    began = time.monotonic()
    outcome = call("evaluate", "png", *ASKED, "--address", cluster.address, "--num-workers", 1)
    assert time.monotonic() - began < 100
    assert outcome.code == 3
    (line,) = [c for c in outcome.complaints if "cannot be read as an image" in c]
    assert "221.png" in line
    assert "lost" not in outcome.stderr
    assert num_shards(cache_folder) >= 1


def test_a_compressed_npz_has_one_reader(
    call: Callable[..., Outcome], sets: Sets, tmp_path: Path
) -> None:
    """Which is this process, and that is said."""
    path = sets.folder / "compressed.npz"
    outcome = call("evaluate", path, *ASKED, "--num-workers", 2, "--json", "out.json")
    assert outcome.code == 0, outcome.stderr
    (features,) = json.loads((tmp_path / "out.json").read_text())["features"]
    assert (features["workers"], features["images_extracted"]) == (1, 120)
    assert "is compressed and can be read by one process only" in outcome.stderr


def test_workers_are_of_no_use_for_a_run(call: Callable[..., Outcome], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "manifest.json").write_text("{}")
    outcome = call("evaluate", "run", "--num-workers", 2)
    assert outcome.code == 2
    assert "--num-workers is of no use for a run" in outcome.stderr


def test_tensorflow_has_one_process(call: Callable[..., Outcome], sets: Sets) -> None:
    options = ("--backend", "tensorflow", "--num-workers", 2)
    outcome = call("evaluate", sets.folder / "compressed.npz", *ASKED, *options)
    assert outcome.code == 2
    assert "--backend tensorflow has one process of this machine" in outcome.stderr


def test_features_are_kept_until_they_are_removed(
    call: Callable[..., Outcome], sets: Sets, cache_folder: Path
) -> None:
    path = sets.folder / "compressed.npz"
    assert call("evaluate", path, *ASKED).code == 0
    assert call("gc", "--cache").stdout.startswith("0 sets of features")
    listed = call("gc", "--cache", "--force", "--dry-run").stdout
    assert "compressed.npz by digits-convnet-" in listed
    assert num_shards(cache_folder) == 3
    assert call("gc", "--cache", "--force").stdout == listed.replace("would be", "were")
    assert num_shards(cache_folder) == 0
    assert call("gc").code == 2
    assert call("gc", "run", "--cache").code == 2


@pytest.mark.parametrize(
    ("address", "nodes", "kind", "expected"),
    [
        ("head:6379", [], "cuda", 1),
        ("head:6379", [(8, 0)], "cuda", 1),
        ("head:6379", [(64, 0), (16, 2), (32, 2)], "cuda", 7),
        ("head:6379", [(2, 4)], "cuda", 1),
        ("head:6379", [(16, 2)], "cpu", 1),
        ("local", [(1, 2)], "cuda", 5),
    ],
)
def test_decoders_are_reckoned_by_the_machines_with_gpus(
    address: str,
    nodes: list[tuple[float, float]],
    kind: str,
    expected: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of which there may be none yet."""
    monkeypatch.setattr(extraction, "num_cores", lambda: 12)
    there = [Node(str(i), "", cpus, gpus, 0, 0) for i, (cpus, gpus) in enumerate(nodes)]
    assert extraction._decoders_of(Cluster(address, 99, 0, 1), there, kind) == expected
