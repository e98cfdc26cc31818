"""gs://, against an emulator that knows neither preconditions nor how to abort an upload.

What it does not know is seen in the requests, which pass a proxy.
"""

import hashlib
import itertools
import json
import logging
import urllib.request
import uuid
from collections.abc import Iterator

import pytest
from flaky_store import Decide, FlakyStore

from evalsuite.artifacts.storage import StoreUrl, open_storage
from evalsuite.artifacts.storage.clients import Patience
from evalsuite.artifacts.storage.gcs import GcsClient, filesystem
from evalsuite.artifacts.storage.objects import ObjectStorage
from evalsuite.artifacts.storage.opening import forget_stores
from evalsuite.errors import StorageError

PART = 2**20


@pytest.fixture(scope="module")
def emulator() -> Iterator[str]:
    from gcp_storage_emulator.server import create_server

    logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)
    server = create_server("127.0.0.1", 0, in_memory=True)
    server.start()
    yield f"http://127.0.0.1:{server._api._httpd.server_port}"
    server.stop()


@pytest.fixture
def proxy(emulator: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FlakyStore]:
    with FlakyStore(emulator) as running:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", running.url)
        filesystem.cache_clear()
        forget_stores()
        yield running
        filesystem.cache_clear()
        forget_stores()


@pytest.fixture
def storage(emulator: str, proxy: FlakyStore) -> ObjectStorage:
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    made = urllib.request.Request(
        f"{emulator}/storage/v1/b?project=any",
        json.dumps({"name": name}).encode(),
        {"Content-Type": "application/json"},
    )
    urllib.request.urlopen(made).close()
    return ObjectStorage(StoreUrl("gs", name, "run"), GcsClient(name), Patience(3.0), PART)


def some_bytes(count: int) -> bytes:
    return hashlib.shake_256(str(count).encode()).digest(count)


@pytest.mark.parametrize("count", [0, 10, PART, 2 * PART + 17])
def test_a_file_of_any_size_arrives_whole(storage: ObjectStorage, count: int) -> None:
    with storage.create("images/x") as target:
        target.write(some_bytes(count))
    assert storage.read("images/x") == some_bytes(count)
    assert b"".join(storage.portions("images/x", count)) == some_bytes(count)
    (found,) = storage.listing()
    assert (found.path, found.num_bytes) == ("images/x", count)


def test_files_listings_and_the_rest(storage: ObjectStorage) -> None:
    assert storage.visible("") == []
    for name in ("b.json", "a.json", ".hidden.json", "deep/x.json"):
        storage.replace(f"receipts/{name}", name.encode())
    assert storage.names("receipts", ".json") == ["a.json", "b.json"]
    assert storage.visible("receipts") == ["a.json", "b.json", "deep"]
    assert storage.folders("receipts") == ["deep"]
    assert (storage.size("receipts/a.json"), storage.size("a.json")) == (6, None)
    assert storage.listed("receipts/a.json") is not None
    assert storage.move("receipts/a.json", "replaced/a.json") is True
    assert storage.move("receipts/a.json", "replaced/a.json") is False
    storage.delete("receipts/a.json")
    assert [one.path for one in storage.listing("replaced")] == ["replaced/a.json"]
    storage.check_writable()


def test_commits_are_conditional(storage: ObjectStorage, proxy: FlakyStore) -> None:
    """One request that the store must refuse when there is an object; 412 is a lost race."""
    assert storage.commit("a.json", b"first") is True
    (sent,) = [r for r in proxy.requests if r.method == "POST"]
    assert "ifGenerationMatch=0" in sent.path
    proxy.decide = lambda method, path: "say:412" if "ifGenerationMatch=0" in path else "pass"
    assert storage.commit("a.json", b"second") is False
    assert storage.commit("a.json", b"first") is True  # its own, as after a lost answer
    with (
        pytest.raises(StorageError, match="exists"),
        storage.create("images/x") as target,
    ):
        target.write(some_bytes(2 * PART))


def test_an_exception_leaves_no_object(storage: ObjectStorage, proxy: FlakyStore) -> None:
    """The upload is given up by a DELETE, to which Google answers 499."""
    proxy.decide = lambda method, path: "say:499" if method == "DELETE" else "pass"

    def fail() -> None:
        with storage.create("images/x") as target:
            target.write(some_bytes(2 * PART + 5))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(storage.listing()) == []
    assert proxy.count("DELETE", "upload") == 1


def nth_upload(count: int, fault: str) -> Decide:
    """The fault for the `count`-th part that is handed in, from 1; all others pass."""
    seen = itertools.count(1)

    def decide(method: str, path: str) -> str:
        return fault if method == "PUT" and next(seen) == count else "pass"

    return decide


@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_308_without_a_range_means_that_nothing_came(
    storage: ObjectStorage, proxy: FlakyStore, at: int
) -> None:
    """Of the first part, another, the last, or the end: it is sent again, nothing is lost."""
    proxy.decide = nth_upload(at, "say:308")
    with storage.create("images/x") as target:
        target.write(some_bytes(2 * PART + 17))
    assert storage.read("images/x") == some_bytes(2 * PART + 17)
    assert proxy.faults() == 1


@pytest.mark.parametrize(
    ("fault", "said"), [("say:308", "kept 0 of"), ("say:499", "aborted"), ("say:204", "by 204")]
)
def test_an_upload_that_the_store_does_not_take_is_not_taken_for_done(
    storage: ObjectStorage, proxy: FlakyStore, fault: str, said: str
) -> None:
    faults = {"PUT": fault, "DELETE": "say:499"}  # the emulator does not know how to give one up
    proxy.decide = lambda method, path: faults.get(method, "pass")
    with (
        pytest.raises(StorageError, match=rf"cannot write gs://.*/images/x: .*{said}"),
        storage.create("images/x") as target,
    ):
        target.write(some_bytes(2 * PART + 17))
    assert storage.size("images/x") is None


def test_refusals_are_one_line(proxy: FlakyStore) -> None:
    storage = open_storage("gs://no-such-bucket/run")
    for action in (
        lambda: storage.exists("manifest.json"),
        lambda: storage.commit("a", b""),
        lambda: storage.names("receipts"),
    ):
        with pytest.raises(StorageError, match="bucket no-such-bucket does not exist"):
            action()
    proxy.decide = lambda method, path: "say:403"
    with pytest.raises(StorageError, match="access is denied: check GOOGLE_APPLICATION"):
        storage.exists("manifest.json")
