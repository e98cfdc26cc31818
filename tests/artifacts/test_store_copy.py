"""Samples of an object store: copied once, whole or not there, copied anew when they change."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from flaky_store import FlakyStore
from store_server import S3Server, s3_server, speaking_to

from evalsuite.artifacts.samples import local_samples, open_samples
from evalsuite.artifacts.samples.store_copy import copies, remove_copy
from evalsuite.artifacts.storage import StoreUrl, objects
from evalsuite.errors import DataError, StorageError


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as running:
        yield running


@pytest.fixture
def proxy(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FlakyStore]:
    monkeypatch.setenv("EVALSUITE_CACHE", str(tmp_path / "cache"))
    with FlakyStore(server.url) as running, speaking_to(running.url):
        yield running


@pytest.fixture
def bucket(server: S3Server) -> str:
    return server.new_bucket()


def upload_npz(server: S3Server, bucket: str, key: str, count: int, folder: Path) -> None:
    images = np.arange(count * 8 * 8 * 3, dtype=np.uint32).astype(np.uint8)
    np.savez(folder / "made.npz", arr_0=images.reshape(count, 8, 8, 3))
    server.raw.upload_file(str(folder / "made.npz"), bucket, key)


def test_a_path_is_itself(tmp_path: Path) -> None:
    assert local_samples(tmp_path) is tmp_path


def test_an_npz_is_copied_once_by_ranges(
    server: S3Server, proxy: FlakyStore, bucket: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(objects, "RANGE_BYTES", 1000)
    upload_npz(server, bucket, "theirs/x.npz", 20, tmp_path)
    place, said = StoreUrl("s3", bucket, "theirs/x.npz"), []
    copy = local_samples(place, said.append)
    assert copy.name == "x.npz"
    assert open_samples(copy).num_images == 20
    assert copy.read_bytes() == server.content(bucket, "theirs/x.npz")
    size = copy.stat().st_size
    assert proxy.count("GET", "/x.npz") == -(-size // 1000)
    assert local_samples(place, said.append) == copy
    assert len(said) == 1
    upload_npz(server, bucket, "theirs/x.npz", 21, tmp_path)
    assert open_samples(local_samples(place)).num_images == 21
    assert [one.num_bytes > size // 2 for one in copies()] == [True, True]
    for one in copies():
        remove_copy(one)
    assert copies() == []


def test_a_folder_keeps_its_shape(
    server: S3Server, proxy: FlakyStore, bucket: str, tmp_path: Path
) -> None:
    for place, name in enumerate(("a/", "a/deep/", "a/.hidden/")):
        shard = f"{name}{3 * place:010d}-{3 * place + 3:010d}-x.npz"
        upload_npz(server, bucket, shard, 3, tmp_path)
    copy = local_samples(StoreUrl("s3", bucket, "a"))
    assert sorted(p.relative_to(copy).as_posix() for p in copy.rglob("*.npz")) == [
        "0000000000-0000000003-x.npz",
        "deep/0000000003-0000000006-x.npz",
    ]
    assert open_samples(copy).num_images == 6


def test_what_breaks_off_leaves_no_copy(
    server: S3Server, proxy: FlakyStore, bucket: str, tmp_path: Path
) -> None:
    """And the next call brings it."""
    upload_npz(server, bucket, "x.npz", 20, tmp_path)
    place = StoreUrl("s3", bucket, "x.npz")
    proxy.decide = lambda method, path: "say:403" if "/x.npz" in path else "pass"
    with pytest.raises(StorageError, match="access is denied"):
        local_samples(place)
    assert [one.num_bytes for one in copies()] == [0]
    proxy.decide = lambda method, path: "pass"
    assert open_samples(local_samples(place)).num_images == 20


def test_nothing_there_is_said(proxy: FlakyStore, bucket: str) -> None:
    for key in ("nothing", "nothing.npz"):
        with pytest.raises(DataError, match="holds no samples"):
            local_samples(StoreUrl("s3", bucket, key))
    with pytest.raises(StorageError, match="does not exist"):
        local_samples(StoreUrl("s3", "no-such-bucket", "x.npz"))
