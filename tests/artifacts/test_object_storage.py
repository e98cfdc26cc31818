"""Object stores, against a real S3 server: exclusive commits, uploads that are whole or not there.

Faults come from a real HTTP proxy before the server.
"""

import hashlib
import os
import socket
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from artifact_builder import make_manifest, make_plan, make_receipt
from flaky_store import FlakyStore, one_in
from store_server import S3Server, s3_server, speaking_to

from evalsuite.artifacts.receipts import commit_receipt, read_receipts
from evalsuite.artifacts.run_directory import RunDirectory, is_run
from evalsuite.artifacts.storage import FileEntry, Storage, StoreUrl, open_storage, s3
from evalsuite.artifacts.storage.clients import Patience
from evalsuite.artifacts.storage.objects import ObjectStorage
from evalsuite.artifacts.storage.s3 import S3Client
from evalsuite.errors import CorruptionError, EvalsuiteError, StorageError, UsageError
from evalsuite.pipeline.shard_files import Maker, ShardFile, commit_file

NUMERICS = {"numerics_id": "0" * 64, "numerics": {"torch": "2"}}
PART = 5 * 2**20
"""The smallest part that S3 takes."""


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as running:
        yield running


@pytest.fixture
def proxy(server: S3Server) -> Iterator[FlakyStore]:
    """Before the server; this process speaks to it."""
    with FlakyStore(server.url) as running, speaking_to(running.url):
        yield running


@pytest.fixture
def bucket(server: S3Server) -> str:
    return server.new_bucket()


@pytest.fixture
def storage(proxy: FlakyStore, bucket: str) -> Storage:
    return open_storage(f"s3://{bucket}/deep/run")


def in_parts(bucket: str) -> ObjectStorage:
    """With uploads in small parts, and a patience of its own."""
    return ObjectStorage(StoreUrl("s3", bucket, "run"), S3Client(bucket), Patience(), PART)


def some_bytes(count: int) -> bytes:
    return hashlib.shake_256(str(count).encode()).digest(count)


def write(storage: Storage, path: str, content: bytes) -> FileEntry:
    """A data file, in uneven portions."""
    with storage.create(path) as target:
        for at in range(0, len(content), 1_234_567):
            target.write(content[at : at + 1_234_567])
    return FileEntry(path, target.num_bytes, target.sha256)


def one_line(error: pytest.ExceptionInfo[Any], *parts: str) -> None:
    text = str(error.value)
    assert "\n" not in text
    for part in parts:
        assert part in text


def test_the_first_commit_wins(storage: Storage, server: S3Server, bucket: str) -> None:
    assert storage.commit("receipts/images/a.json", b"first") is True
    assert storage.commit("receipts/images/a.json", b"second") is False
    assert storage.read("receipts/images/a.json") == b"first"
    assert server.keys(bucket) == ["deep/run/receipts/images/a.json"]


def test_of_many_committers_one_wins(proxy: FlakyStore, bucket: str) -> None:
    """Each with a session of its own, as in as many processes."""
    storages = [in_parts(bucket) for _ in range(8)]
    start = threading.Barrier(len(storages))

    def commit(place: int) -> bool:
        start.wait()
        return storages[place].commit("receipt.json", str(place).encode())

    for _ in range(3):
        with ThreadPoolExecutor(len(storages)) as team:
            won = list(team.map(commit, range(len(storages))))
        assert sum(won) == 1
        assert storages[0].read("receipt.json") == str(won.index(True)).encode()
        storages[0].delete("receipt.json")


def test_files_listings_and_the_rest(storage: Storage) -> None:
    """As on a disk: sorted, hidden files left out, nothing where nothing is."""
    assert storage.visible("") == storage.names("receipts") == storage.folders("receipts") == []
    for name in ("b.json", "a.json", "c.txt", ".hidden.json", "deep/x.json"):
        storage.replace(f"receipts/{name}", name.encode())
    assert storage.names("receipts", ".json") == ["a.json", "b.json"]
    assert storage.visible("") == ["receipts"]
    assert storage.visible("receipts") == ["a.json", "b.json", "c.txt", "deep"]
    assert storage.folders("receipts") == ["deep"]
    found = list(storage.listing())
    assert [(one.path, one.num_bytes) for one in found] == [
        (f"receipts/{name}", len(name))
        for name in (".hidden.json", "a.json", "b.json", "c.txt", "deep/x.json")
    ]
    assert list(storage.listing("receipts/deep")) == [found[-1]]
    assert (storage.size("receipts/a.json"), storage.size("receipts")) == (6, None)
    assert (storage.exists("receipts/a.json"), storage.exists("a.json")) == (True, False)
    assert storage.move("receipts/a.json", "receipts/deep/x.json") is True
    assert storage.move("receipts/a.json", "receipts/z.json") is False
    assert storage.read("receipts/deep/x.json") == b"a.json"
    storage.delete("receipts/b.json")
    storage.delete("receipts/b.json")
    assert storage.names("receipts") == ["c.txt"]
    storage.check_writable()
    assert len(list(storage.listing())) == 3
    assert storage.free_bytes() is None
    with pytest.raises(StorageError, match="no such file"):
        storage.read("receipts/b.json")


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/passwd", "", "."])
def test_paths_never_leave_the_root(storage: Storage, path: str) -> None:
    for action in (storage.read, storage.delete, storage.size, storage.create(path).__enter__):
        with pytest.raises(CorruptionError, match="would leave the run directory"):
            action(path) if action.__name__ != "__enter__" else action()


@pytest.mark.parametrize("count", [0, 1, PART - 1, PART, PART + 1, 2 * PART, 2 * PART + 12_345])
def test_a_file_of_any_size_arrives_whole(
    proxy: FlakyStore, server: S3Server, bucket: str, count: int
) -> None:
    """In parts from one part on, which is all that is held in memory."""
    storage, content = in_parts(bucket), some_bytes(count)
    entry = write(storage, "images/x", content)
    assert entry == ("images/x", count, hashlib.sha256(content).hexdigest())
    assert server.content(bucket, "run/images/x") == content == storage.read_checked(entry)
    assert proxy.count("PUT", "partNumber") == (-(-count // PART) if count >= PART else 0)
    with pytest.raises(StorageError, match="File exists"):
        write(storage, "images/x", some_bytes(count + 3))
    assert server.content(bucket, "run/images/x") == content
    assert server.unfinished(bucket) == []


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("count", [10, 2 * PART + 10])
def test_an_exception_leaves_nothing(
    proxy: FlakyStore, server: S3Server, bucket: str, error: type[BaseException], count: int
) -> None:
    """s3fs's own files would commit what was written so far."""

    def fail(storage: Storage) -> None:
        with storage.create("images/x") as target:
            target.write(some_bytes(count))
            assert server.keys(bucket) == []
            raise error

    with pytest.raises(error):
        fail(in_parts(bucket))
    assert server.keys(bucket) == server.unfinished(bucket) == []
    assert proxy.count("PUT", "images/x?") == proxy.count("DELETE") * 2


def test_an_upload_that_the_store_refuses_leaves_nothing(
    proxy: FlakyStore, server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For longer than anyone waits."""
    storage = ObjectStorage(
        StoreUrl("s3", bucket, "run"), S3Client(bucket), Patience(longest_s=1.0), PART
    )
    proxy.decide = lambda method, path: "refuse" if "partNumber=2" in path else "pass"
    with pytest.raises(StorageError) as caught:
        write(storage, "images/x", some_bytes(2 * PART + 10))
    one_line(caught, f"s3://{bucket}/run/images/x", "SlowDown", "what was committed stays")
    assert server.keys(bucket) == server.unfinished(bucket) == []


def test_what_a_killed_process_leaves_is_found(
    proxy: FlakyStore, server: S3Server, bucket: str
) -> None:
    storage = in_parts(bucket)
    held = storage.create("images/x")
    held.__enter__().write(some_bytes(PART + 1))
    assert storage.unfinished() == ["images/x"]
    storage.abort_unfinished()
    assert storage.unfinished() == server.unfinished(bucket) == []


def test_one_request_in_five_fails(proxy: FlakyStore, server: S3Server, bucket: str) -> None:
    """Before, on the way, and after it was carried out: nobody notices but the clock."""
    proxy.decide = one_in(5, "refuse", "lose", "cut", "half", seed=4)
    storage, content = in_parts(bucket), some_bytes(2 * PART + 7)
    entry = write(storage, "images/x", content)
    for place in range(12):
        assert storage.commit(f"receipts/{place:02}.json", str(place).encode()) is True
        assert storage.commit(f"receipts/{place:02}.json", b"rival") is False
        assert storage.read(f"receipts/{place:02}.json") == str(place).encode()
    assert storage.names("receipts", ".json") == [f"{place:02}.json" for place in range(12)]
    assert storage.read_checked(entry) == content
    assert storage.move("receipts/00.json", "replaced/00.json") is True
    assert server.unfinished(bucket) == []
    assert len(server.keys(bucket)) == 13
    assert proxy.faults() > 5
    assert {request.fault for request in proxy.requests} == {
        "pass", "refuse", "lose", "cut", "half",
    }  # fmt: skip


def once(fault: str, method: str, holding: str) -> Any:
    """The first such request gets the fault."""
    left = [fault]

    def decide(asked: str, path: str) -> str:
        return left.pop() if left and asked == method and holding in path else "pass"

    return decide


def test_a_commit_whose_answer_is_lost_is_ours(storage: Storage, proxy: FlakyStore) -> None:
    """The second try meets the object that the first one made."""
    proxy.decide = once("lose", "PUT", "a.json")
    assert storage.commit("a.json", b"ours") is True
    assert proxy.count("PUT") == 2


def test_a_commit_that_a_rival_overtakes_is_his(
    storage: Storage, proxy: FlakyStore, server: S3Server, bucket: str
) -> None:
    """The first try never arrived; before the second one there is another object."""

    def decide(method: str, path: str) -> str:
        if method != "PUT" or proxy.count("PUT"):
            return "pass"
        server.raw.put_object(Bucket=bucket, Key="deep/run/a.json", Body=b"his")
        return "cut"

    proxy.decide = decide
    assert storage.commit("a.json", b"ours") is False
    assert storage.read("a.json") == b"his"


@pytest.mark.parametrize(
    ("fault", "method", "holding"),
    [
        ("lose", "POST", "uploadId"),
        ("half", "POST", "uploadId"),
        ("lose", "PUT", "partNumber=2"),
        ("cut", "PUT", "partNumber=1"),
        ("lose", "POST", "uploads"),
    ],
)
def test_an_upload_survives_a_broken_connection(
    proxy: FlakyStore, server: S3Server, bucket: str, fault: str, method: str, holding: str
) -> None:
    storage, content = in_parts(bucket), some_bytes(2 * PART + 10)
    proxy.decide = once(fault, method, holding)
    entry = write(storage, "images/x", content)
    assert storage.read_checked(entry) == content
    assert proxy.faults() == 1
    left_over = 1 if (fault, holding) == ("lose", "uploads") else 0
    assert len(server.unfinished(bucket)) == left_over  # nobody learned its name: `gc` finds it


def test_a_store_that_is_too_slow_is_asked_again(
    proxy: FlakyStore, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "READ_S", 1.0)
    s3.filesystem.cache_clear()
    storage = in_parts(bucket)
    proxy.decide = once("wait:3", "PUT", "a.json")
    assert storage.commit("a.json", b"ours") is True
    assert proxy.count("PUT") == 2


def test_what_a_store_does_not_offer_is_asked_once(proxy: FlakyStore, storage: Storage) -> None:
    proxy.decide = lambda method, path: "say:501" if method == "PUT" else "pass"
    with pytest.raises(StorageError, match="501"):
        storage.commit("a.json", b"ours")
    assert proxy.count("PUT") == 1


def fill(server: S3Server, bucket: str, count: int) -> None:
    """Objects behind the server's back, which takes no time."""
    from moto.s3.models import s3_backends

    backend = s3_backends["123456789012"]["aws"]
    for place in range(count):
        backend.put_object(bucket, f"run/receipts/images/{place:06}.json", b"12345")


def test_a_listing_is_one_request_for_a_thousand_files(
    proxy: FlakyStore, server: S3Server, bucket: str
) -> None:
    """With sizes: neither names nor sizes are asked one by one, broken pages are asked again."""
    fill(server, bucket, 1_200)
    storage = in_parts(bucket)
    assert len(storage.names("receipts/images", ".json")) == 1_200
    assert [request.method for request in proxy.requests] == ["GET"] * 2
    files = list(storage.listing())
    assert (len(files), {one.num_bytes for one in files}) == (1_200, {5})
    assert len(proxy.requests) == 4
    stamps = storage.stamps("receipts/images", ".json")
    assert [one.num_bytes for one in stamps.values()] == [5] * 1_200
    assert len(proxy.requests) == 6
    proxy.decide = once("half", "GET", "continuation")
    assert list(storage.listing()) == files


def test_committed_objects_are_checked(storage: Storage, server: S3Server, bucket: str) -> None:
    """By size, then by every byte; a listing tells other bytes of equal size by the ETag."""
    entry = write(storage, "images/x", b"content")
    assert storage.fault_of(entry) is None
    before = storage.stamps("images")["x"]
    server.raw.put_object(Bucket=bucket, Key="deep/run/images/x", Body=b"CONTENT")
    after = storage.stamps("images")["x"]
    assert (after.num_bytes, after.version != before.version) == (7, True)
    assert "SHA-256 differs" in str(storage.fault_of(entry))
    with pytest.raises(CorruptionError, match="is corrupted"):
        storage.read_checked(entry)
    server.raw.put_object(Bucket=bucket, Key="deep/run/images/x", Body=b"cut")
    assert "has 3 bytes, not 7" in str(storage.fault_of(entry))
    storage.delete("images/x")
    with pytest.raises(CorruptionError, match="is missing"):
        storage.read_checked(entry)


def test_an_object_that_may_not_be_looked_at_is_not_missing(
    storage: Storage, proxy: FlakyStore
) -> None:
    """A HEAD is refused without words, and what counts as missing is made again and deleted."""
    entry = write(storage, "images/a", b"pixels")
    for status in (403, 400):
        proxy.decide = lambda method, _, s=status: f"say:{s}" if method == "HEAD" else "pass"
        with pytest.raises(StorageError) as refused:
            storage.fault_of(entry)
        one_line(refused, "access is denied")
        assert storage.size("images") is None  # another key begins with it
    proxy.decide = lambda method, path: "pass"
    assert storage.fault_of(entry) is None


def test_a_run_lies_in_a_store(proxy: FlakyStore, bucket: str) -> None:
    """Manifest, numerics, receipts with their losers' files, and JSON."""
    url = f"s3://{bucket}/runs/a"
    place = StoreUrl("s3", bucket, "runs/a")
    assert not is_run(place)
    with pytest.raises(UsageError, match="is not a run directory"):
        RunDirectory.open(url)
    run = RunDirectory.create_or_open(url, make_manifest(make_plan()))
    assert is_run(place)
    assert str(run.root) == url
    again = RunDirectory.create_or_open(url, make_manifest(make_plan(), created_at="later"))
    assert again.manifest == run.manifest == RunDirectory.open(url).manifest
    with pytest.raises(UsageError, match="holds a run of another plan"):
        RunDirectory.create_or_open(url, make_manifest(make_plan(batch_size=8)))
    with pytest.raises(UsageError, match="holds other files and no run"):
        RunDirectory.create_or_open(f"s3://{bucket}/runs", make_manifest(make_plan()))
    first, second = make_receipt(0, 8, attempt="a0"), make_receipt(0, 8, attempt="a1")
    for receipt in (first, second):
        write(run.storage, receipt.files[0].path, b"data")
    won = [commit_receipt(run.storage, receipt) for receipt in (first, second)]
    assert won == [True, False]
    (kept,) = read_receipts(run.storage, first.stage, first.plan_id)
    assert kept == first
    assert [one.path for one in run.storage.listing("images")] == [first.files[0].path]
    run.write_json("results/a.json", {"value": 1})
    assert run.read_json_folder("results") == [{"value": 1}]


def committed_under(proxy: FlakyStore, bucket: str, *faults: str) -> tuple[Storage, bool, int]:
    """What `commit_file` leaves when PUTs of a receipt get these faults in turn, and then the last.

    Gives whether the file and how many receipts are there then.
    """
    left = list(faults)

    def decide(method: str, path: str) -> str:
        if method != "PUT" or "/receipts/" not in path:
            return "pass"
        return left.pop(0) if len(left) > 1 else left[0]

    proxy.decide = decide
    storage = ObjectStorage(StoreUrl("s3", bucket, "run"), S3Client(bucket), Patience(0.5, 0.5))
    maker = Maker("a0", 1.0, dict.fromkeys(("host", "pid", "device"), "x") | NUMERICS)
    file = ShardFile("1" * 64, "features", 0, ["2" * 64], b"content", ".x")
    with pytest.raises(StorageError):
        commit_file(storage, file, maker, keep_hashes=True)
    receipts = read_receipts(storage, "features", "1" * 64)
    return storage, len(storage.names("features")) == 1, len(receipts)


@pytest.mark.parametrize(
    ("faults", "is_kept", "num_receipts"),
    [
        (["say:403"], False, 0),
        (["lose", "say:403"], True, 1),
        (["lose", "cut"], True, 1),
        (["cut"], True, 0),
    ],
)
def test_no_receipt_is_left_without_its_file(
    proxy: FlakyStore, bucket: str, faults: list[str], is_kept: bool, num_receipts: int
) -> None:
    """Refused; written and refused; written and not answered; lost, or on its way for ever."""
    storage, is_there, found = committed_under(proxy, bucket, *faults)
    assert (is_there, found) == (is_kept, num_receipts)
    for receipt in read_receipts(storage, "features", "1" * 64):
        assert storage.read_checked(receipt.files[0].entry) == b"content"


def refused(url: str) -> pytest.ExceptionInfo[EvalsuiteError]:
    """What the first look at a place says."""
    with pytest.raises(EvalsuiteError) as caught:
        RunDirectory.create_or_open(url, make_manifest(make_plan()))
    assert isinstance(caught.value, StorageError)
    return caught


def test_a_missing_bucket_is_named(proxy: FlakyStore) -> None:
    one_line(refused("s3://no-such-bucket/run"), "bucket no-such-bucket does not exist")
    assert len(proxy.requests) < 4


@pytest.mark.parametrize("status", [301, 307])
def test_a_redirect_to_nowhere_is_said(proxy: FlakyStore, bucket: str, status: int) -> None:
    """The endpoint of another region, of a store that does not name the right one."""
    proxy.decide = lambda method, path: f"say:{status}"
    said = refused(f"s3://{bucket}/run")
    one_line(
        said, f"bucket {bucket} is in another region than us-east-1", proxy.url, "AWS_ENDPOINT"
    )
    assert len(proxy.requests) < 4
    with pytest.raises(StorageError, match="redirects to a place that it does not name"):
        open_storage(f"s3://{bucket}/run").read("manifest.json")


def test_a_name_that_is_no_bucket(proxy: FlakyStore) -> None:
    one_line(refused("s3://not a bucket!/run"), "is not the name of a bucket")


def test_missing_credentials(server: S3Server, bucket: str, tmp_path: Path) -> None:
    nothing = {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}
    files = {"AWS_CONFIG_FILE": str(tmp_path), "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path)}
    with speaking_to(server.url, **nothing, **files):
        one_line(refused(f"s3://{bucket}/run"), "no credentials", "AWS_ACCESS_KEY_ID")


def test_wrong_credentials(server: S3Server, bucket: str) -> None:
    """The server looks at keys and signatures for the time of this test."""

    def check_after(actions: str) -> None:
        plain = {"Content-Type": "text/plain"}
        asked = f"{server.url}/moto-api/reset-auth"
        urllib.request.urlopen(urllib.request.Request(asked, actions.encode(), plain)).close()

    check_after("0")
    try:
        with speaking_to(server.url):
            one_line(refused(f"s3://{bucket}/run"), "credentials are not accepted", "AWS_")
    finally:
        check_after("inf")


def test_an_endpoint_where_nothing_listens(bucket: str) -> None:
    """Is given up soon, as it never answered; one that answered is waited for."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        with speaking_to(f"http://127.0.0.1:{held.getsockname()[1]}"):
            one_line(refused(f"s3://{bucket}/run"), "the store does not answer")


def test_s3fs_is_named_when_it_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "s3fs", None)
    with speaking_to("http://127.0.0.1:9"), pytest.raises(EvalsuiteError, match=r"evalsuite\[s3\]"):
        open_storage("s3://bucket/run")
    assert os.environ.get("AWS_ENDPOINT_URL") is None


def test_a_page_in_place_of_a_manifest_asks_for_a_look_at_the_endpoint(storage: Storage) -> None:
    storage.replace("manifest.json", b"<html></html>")
    with pytest.raises(CorruptionError) as caught:
        RunDirectory.open(storage.root)
    one_line(caught, "is not JSON: check that a store answers at its endpoint, or restore it from")
