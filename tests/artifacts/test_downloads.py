"""Downloads from a real server: checked, resumed, whole under their name or not there."""

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from file_server import Site, serving
from harness import environment, small_disk

from evalsuite.artifacts.downloads import cached_file, cached_path, fetch_file
from evalsuite.config import FilePlace
from evalsuite.errors import (
    CorruptionError,
    DataError,
    EnvironmentProblem,
    EvalsuiteError,
    StorageError,
    UsageError,
)

CONTENT = np.random.default_rng(0).bytes(3 * 2**20 + 17)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own."""
    monkeypatch.setenv("EVALSUITE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def site() -> Iterator[Site]:
    with serving(Site({"a.npz": CONTENT})) as site:
        yield site


def place(
    site: Site, sha256: str | None = SHA256, num_bytes: int | None = len(CONTENT)
) -> FilePlace:
    return FilePlace(
        url=f"{site.url}a.npz", filename="a.npz", sha256=sha256, num_bytes=num_bytes, note="a note"
    )


def left_in(cache: Path) -> list[str]:
    """Names of all files below the cache but for locks and digests."""
    files = [p.name for p in cache.rglob("*") if p.is_file() and p.parent.name != "digests"]
    return sorted(name for name in files if not name.endswith(".lock"))


def test_a_file_comes_once(site: Site, cache: Path) -> None:
    wanted = place(site)
    assert cached_file(wanted) is None
    told: list[tuple[int, int | None]] = []
    path = fetch_file(wanted, progress=lambda done, total: told.append((done, total)))
    assert path == cached_path(wanted) == cached_file(wanted) == cache / "files" / SHA256 / "a.npz"
    assert path.read_bytes() == CONTENT
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert fetch_file(wanted) == path
    assert site.requests == [("a.npz", None)]
    assert left_in(cache) == ["a.npz"]


def test_other_bytes_are_refused_and_removed(site: Site, cache: Path) -> None:
    site.files["a.npz"] = CONTENT[:-1] + b"!"
    with pytest.raises(CorruptionError, match=r"removed \(a note\)") as caught:
        fetch_file(place(site))
    assert SHA256 in str(caught.value)
    assert hashlib.sha256(site.files["a.npz"]).hexdigest() in str(caught.value)
    assert left_in(cache) == []
    site.files["a.npz"] = CONTENT
    assert fetch_file(place(site)).read_bytes() == CONTENT


def test_another_length_is_seen_before_the_body(site: Site, cache: Path) -> None:
    site.files["a.npz"] = CONTENT + b"more"
    with pytest.raises(CorruptionError, match=f"serves {len(CONTENT) + 4} bytes, not"):
        fetch_file(place(site))
    assert left_in(cache) == []


@pytest.mark.parametrize("tells_length", [True, False])
def test_a_broken_transfer_goes_on_in_the_same_call(site: Site, tells_length: bool) -> None:
    """From where it broke off, as long as each try brings something."""
    site.tells_length = tells_length
    site.break_after = [1_500_000, 700_000]
    assert fetch_file(place(site)).read_bytes() == CONTENT
    assert [asked is None for _, asked in site.requests] == [True, False, False]
    asked = [int((text or "0").removeprefix("bytes=").rstrip("-")) for _, text in site.requests]
    assert asked == sorted(set(asked))


def test_a_broken_transfer_goes_on_in_the_next_call(site: Site, cache: Path) -> None:
    """The rest only, and nothing stands under the name before."""
    site.break_after = [1_500_000, 0]
    with pytest.raises(EnvironmentProblem, match="what has come stays") as caught:
        fetch_file(place(site))
    assert "\n" not in str(caught.value)
    assert cached_file(place(site)) is None
    assert left_in(cache) == [".a.npz.part"]
    site.requests.clear()
    assert fetch_file(place(site)).read_bytes() == CONTENT
    ((_, asked),) = site.requests
    assert asked is not None
    assert int(asked.removeprefix("bytes=").rstrip("-")) > 1_000_000


def test_a_server_that_does_not_resume_sends_all_again(site: Site) -> None:
    site.ranges = False
    site.break_after = [1_500_000]
    assert fetch_file(place(site)).read_bytes() == CONTENT


@pytest.mark.parametrize("num_bytes", [len(CONTENT), None])
@pytest.mark.parametrize(
    "left",
    [
        pytest.param(b"stale" * 1000, id="of another file"),
        pytest.param(CONTENT + b"much", id="too long"),
        pytest.param(CONTENT[:-1] + b"!", id="other bytes"),
        pytest.param(CONTENT, id="whole"),
    ],
)
def test_what_an_older_download_left_is_checked(
    site: Site, left: bytes, num_bytes: int | None
) -> None:
    """A part of another file, one that is too long, a whole one: right bytes come of all."""
    path = cached_path(place(site))
    path.parent.mkdir(parents=True)
    path.with_name(".a.npz.part").write_bytes(left)
    assert fetch_file(place(site, num_bytes=num_bytes)).read_bytes() == CONTENT


def test_a_file_without_a_published_hash(site: Site, cache: Path) -> None:
    """Only when it is asked for; then its digest is kept, and holds from then on."""
    wanted = place(site, None, None)
    with pytest.raises(UsageError, match="--allow-unverified"):
        fetch_file(wanted)
    assert site.requests == []
    path = fetch_file(wanted, allow_unverified=True)
    assert cached_file(wanted) == path == fetch_file(wanted)
    assert left_in(cache) == ["a.npz", "a.npz.sha256"]
    path.write_bytes(CONTENT + b"!")
    with pytest.raises(CorruptionError, match="has changed since"):
        cached_file(wanted)
    path.unlink()
    site.files["a.npz"] = b"another release"
    with pytest.raises(CorruptionError, match=r"kept in a\.npz\.sha256"):
        fetch_file(wanted, allow_unverified=True)


def test_a_part_without_a_hash_is_not_resumed(site: Site) -> None:
    """Nothing would notice if its rest came from another version."""
    wanted = place(site, None, None)
    site.break_after = [1_500_000, 0]
    with pytest.raises(EnvironmentProblem):
        fetch_file(wanted, allow_unverified=True)
    site.requests.clear()
    assert fetch_file(wanted, allow_unverified=True).read_bytes() == CONTENT
    assert site.requests == [("a.npz", None)]


def test_a_changed_file_is_fetched_again(site: Site) -> None:
    path = fetch_file(place(site))
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(CorruptionError, match="has changed since it was fetched"):
        cached_file(place(site))
    assert fetch_file(place(site)).read_bytes() == CONTENT


@pytest.mark.parametrize("status", [403, 404, 500])
def test_a_server_that_refuses(site: Site, status: int) -> None:
    site.status = status
    with pytest.raises(EnvironmentProblem, match=rf"the server answers {status}") as caught:
        fetch_file(place(site))
    assert "\n" not in str(caught.value)
    assert len(site.requests) == 1


def test_a_server_that_is_down(cache: Path) -> None:
    with serving(Site()) as gone:
        pass
    with pytest.raises(EnvironmentProblem, match=r"a\.npz cannot be fetched.*cannot be reached"):
        fetch_file(place(gone))


@pytest.mark.parametrize("name", ["../a.npz", "a/b.npz", "..", "", "/etc/a"])
def test_names_that_leave_the_cache(site: Site, name: str) -> None:
    with pytest.raises(DataError, match="not the name of a file"):
        cached_path(FilePlace(url=f"{site.url}a.npz", filename=name))


def test_a_cache_that_cannot_be_written(site: Site, cache: Path) -> None:
    cache.write_text("a file")
    with pytest.raises(StorageError, match="a file stands where a directory is needed"):
        fetch_file(place(site))


def test_a_disk_that_is_too_small_is_seen_before_the_body(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_disk(tmp_path / "disk", "2m") as disk:
        monkeypatch.setenv("EVALSUITE_CACHE", str(disk))
        with pytest.raises(StorageError, match=r"bytes free, but a\.npz needs 3,145,745 more"):
            fetch_file(place(site))
        assert not any(path.stat().st_size for path in disk.rglob("*") if path.is_file())


def test_two_processes_download_once(site: Site, cache: Path) -> None:
    """The second waits for the first and finds the file."""
    wanted = place(site)
    program = (
        "import sys\nfrom evalsuite.artifacts.downloads import fetch_file\n"
        "from evalsuite.config import FilePlace\n"
        f"place = FilePlace.model_validate_json({wanted.model_dump_json()!r})\n"
        "print(fetch_file(place).stat().st_size)"
    )
    env = environment(private=True, EVALSUITE_CACHE=str(cache))
    both = [
        subprocess.Popen(
            [sys.executable, "-c", program], env=env, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    assert [process.communicate(timeout=60)[0].strip() for process in both] == [
        str(len(CONTENT))
    ] * 2
    assert len(site.requests) == 1
    assert left_in(cache) == ["a.npz"]


def test_every_failure_is_one_of_ours(site: Site) -> None:
    """Also that of a URL which no client understands."""
    for url in ("nonsense", "ftp://127.0.0.1/a", "http://"):
        with pytest.raises(EvalsuiteError, match=r"a\.npz cannot be fetched"):
            fetch_file(FilePlace(url=url, filename="a.npz", sha256=SHA256))
