"""Finding a Ray cluster: one that stands, one that does not, and a private one in spite of both."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from disturb import KilledRun, SpreadRun
from harness import (
    NUM_SAMPLES,
    PLAN,
    FinishedRun,
    HostedCluster,
    Outcome,
    attempts,
    descendants,
    environment,
    pixel_hashes,
)
from ray._common.utils import get_ray_address_file

from evalsuite.errors import EnvironmentProblem, UsageError
from evalsuite.runtime.address import check_address
from evalsuite.runtime.cluster import own_signals

pytestmark = pytest.mark.ray
ALL = ("generate", *PLAN, "--num-samples", NUM_SAMPLES, "--output", "made")


def test_a_run_on_three_nodes_is_a_local_run(
    spread_run: SpreadRun, expected: dict[int, str]
) -> None:
    assert len(spread_run.nodes) == 3
    assert [a["workers"] for a in attempts(spread_run.path)] == [3]
    assert pixel_hashes(spread_run.path) == expected


def test_a_run_on_three_nodes_has_the_numbers_of_a_local_run(
    spread_run: SpreadRun, digits_run: FinishedRun
) -> None:
    assert metrics_of(spread_run.path) == metrics_of(digits_run.path)
    assert "digits-FID-200" in spread_run.outcome.stdout


def metrics_of(run: Path) -> dict[str, float]:
    """Values by name of the result file, which has the protocol in it."""
    return {p.name: json.loads(p.read_text())["value"] for p in (run / "results").glob("*.json")}


def test_more_workers_than_the_cluster_holds(
    three_nodes: HostedCluster, call: Callable[..., Outcome], tmp_path: Path
) -> None:
    outcome = call(*ALL, "--address", three_nodes.address, "--num-workers", 4)
    assert outcome.code == 6
    assert outcome.complaints == [
        f"evalsuite: --num-workers 4: Ray at {three_nodes.address} has 3 CPUs"
    ]
    assert pixel_hashes(tmp_path / "made") == {}


def test_a_directory_of_one_machine_alone(three_nodes: HostedCluster, tmp_path: Path) -> None:
    """The driver's: a file system that only its own mount namespace has."""
    (tmp_path / "own").mkdir()
    words = (*ALL[:-1], "own/made", "--address", three_nodes.address)
    program = 'mount -t tmpfs none own && exec "$@"'
    space = ("unshare", "--map-root-user", "--mount", "sh", "-c", program, "sh")
    done = subprocess.run(
        [*space, sys.executable, "-m", "evalsuite", *map(str, words)],
        cwd=tmp_path,
        env=environment(private=False),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    (line,) = Outcome(done.returncode, done.stdout, done.stderr).complaints
    assert "own/made is not shared: nodes 1" in line
    assert line.endswith("give an --output on a file system that every node mounts")
    assert done.returncode == 6


def test_a_head_that_falls_silent_in_the_set_up_is_said(
    three_nodes: HostedCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is stopped before anything is asked; the limit is a second here."""
    from evalsuite.runtime.cluster import connected

    monkeypatch.setattr("evalsuite.runtime.watch.HEAD_GONE_S", 1.0)
    (head,) = [
        p for p in descendants(three_nodes.host_pid) if "/gcs_server" in p.title.split(" ")[0]
    ]
    with connected(three_nodes.address, None, use_gpu=False) as found:
        from evalsuite.runtime.team import look_around
        from evalsuite.runtime.watch import current_nodes

        began = time.monotonic()
        os.kill(head.pid, signal.SIGSTOP)
        try:
            with pytest.raises(EnvironmentProblem, match="Ray's head has not answered for 1 s"):
                look_around(found, None, "cpu", shared=tmp_path)
        finally:
            os.kill(head.pid, signal.SIGCONT)
        assert time.monotonic() - began < 15
        assert len(current_nodes()) == 3


@pytest.fixture
def read_anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Ray reads its mode and token once for a process: a function that makes it do so again."""
    from ray._raylet import AuthenticationTokenLoader, Config

    def reset() -> None:
        Config.initialize("")
        AuthenticationTokenLoader.instance().reset_cache()

    yield reset
    monkeypatch.undo()
    reset()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, None),
        ({"RAY_AUTH_TOKEN": "0" * 64}, "refuses this token: set RAY_AUTH_MODE=token and"),
        ({"RAY_AUTH_TOKEN": None, "HOME": "/nowhere"}, "wants a token: set RAY_AUTH_MODE=token"),
        ({"RAY_AUTH_MODE": None}, "wants a token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"),
        (
            {"RAY_AUTH_TOKEN": None, "RAY_AUTH_TOKEN_PATH": "/nowhere"},
            "Ray's token cannot be read: RAY_AUTH_TOKEN_PATH is set but file cannot be opened",
        ),
    ],
    ids=["its own", "another", "none", "one that Ray would not show", "none that can be read"],
)
def test_a_head_lets_in_whoever_has_its_token(
    changes: dict[str, str | None],
    words: str | None,
    cluster: HostedCluster,
    read_anew: Callable[[], None],
    call: Callable[..., Outcome],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        for name, value in changes.items():
            patch.delenv(name, raising=False)
            if value is not None:
                patch.setenv(name, value)
        read_anew()
        if words is None:
            assert check_address(cluster.address) == cluster.address
            return
        outcome = call(*ALL, "--address", cluster.address)
    (line,) = outcome.complaints
    assert words in line
    assert "0" * 64 not in outcome.stderr
    assert outcome.code == 6
    assert list(tmp_path.iterdir()) == [], "it was left to Ray"


def test_an_address_where_nothing_listens(call: Callable[..., Outcome]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    began = time.monotonic()
    outcome = call(*ALL, "--address", f"127.0.0.1:{port}")
    assert time.monotonic() - began < 8
    assert outcome.code == 6
    (line,) = outcome.complaints
    assert line.startswith(f"evalsuite: nothing answers at 127.0.0.1:{port} (")


def test_an_address_that_accepts_and_is_silent(call: Callable[..., Outcome]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        began = time.monotonic()
        outcome = call(*ALL, "--address", address)
        assert time.monotonic() - began < 8
    assert outcome.code == 6
    (line,) = outcome.complaints
    assert line.startswith(f"evalsuite: no answer from {address} in 5 s: check the address")


class Silent(BaseHTTPRequestHandler):
    """Writes no log."""

    def log_message(self, *_: object) -> None:
        """Nothing."""


def test_an_address_of_another_service(call: Callable[..., Outcome]) -> None:
    served = HTTPServer(("127.0.0.1", 0), Silent)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    address = f"127.0.0.1:{served.server_port}"
    try:
        outcome = call(*ALL, "--address", address)
    finally:
        served.shutdown()
        served.server_close()
    assert outcome.code == 6
    (line,) = outcome.complaints
    assert line.startswith(f"evalsuite: what answers at {address} is not a head of Ray: check the")


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("ray://127.0.0.1:10001", "ray:// is not supported"),
        ("somewhere", "must be local, auto or host:port"),
        ("127.0.0.1:port", "must be local, auto or host:port"),
        ("http://127.0.0.1:8265", "give host:port of the cluster's head, without http://"),
        ("127.0.0.1:99999", "a port is a number of 1 to 65535"),
    ],
)
def test_addresses_of_another_kind(
    address: str, words: str, call: Callable[..., Outcome], tmp_path: Path
) -> None:
    outcome = call(*ALL, "--address", address)
    assert outcome.code == 2
    (line,) = outcome.complaints
    assert words in line
    assert list(tmp_path.iterdir()) == [], "an address that cannot be left a run behind"


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ("local", "RAY_ADDRESS='local' must be host:port"),
        ("http://127.0.0.1:8265", "RAY_ADDRESS='http://127.0.0.1:8265' is a URL: give host:port"),
        ("ray://127.0.0.1:10001", "RAY_ADDRESS='ray://127.0.0.1:10001': ray:// is not supported"),
    ],
)
def test_auto_names_a_variable_that_names_no_head(
    named: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", named)
    with pytest.raises(UsageError) as caught:
        check_address("auto")
    assert str(caught.value).startswith(f"--address auto: {words}")


def test_space_around_the_address_that_auto_takes_is_none_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", f" {address} ")
    with pytest.raises(EnvironmentProblem, match=f"^nothing answers at {address} "):
        check_address("auto")


def test_an_address_of_ipv6_in_brackets() -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        port = server.getsockname()[1]
    with pytest.raises(EnvironmentProblem, match=rf"nothing answers at \[::1\]:{port} .*refused"):
        check_address(f"[::1]:{port}")


def test_auto_takes_nobodys_private_head(
    call: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray itself would take any head that runs on this machine."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "none"))
    outcome = call(*ALL, "--address", "auto")
    assert outcome.code == 6
    (line,) = outcome.complaints
    assert "--address auto: RAY_ADDRESS names no head, and none was started here" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("variables", [("RAY_TMPDIR", "TMPDIR"), ("TMPDIR",)])
def test_auto_is_the_head_that_was_started_last(
    cluster: HostedCluster,
    variables: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`ray start` notes it below the first of these that is set, for Ray's own `auto` too."""
    for name in ("RAY_ADDRESS", "RAY_TMPDIR", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    for name in variables:
        monkeypatch.setenv(name, str(tmp_path / name))
    noted = Path(get_ray_address_file(None))
    assert noted == tmp_path / variables[0] / "ray" / "ray_current_cluster"
    noted.parent.mkdir(parents=True)
    noted.write_text(cluster.address)
    assert check_address("auto") == cluster.address


def test_auto_shows_the_token_that_ray_start_found(
    cluster: HostedCluster,
    read_anew: Callable[[], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As Ray's own `auto`: `ray start` turns tokens on by itself where there is one.

    Not to a head that another user noted in the folder that all may write to.
    """
    from ray._raylet import AuthenticationMode, get_authentication_mode

    noted = tmp_path / "ray" / "ray_current_cluster"
    noted.parent.mkdir()
    noted.write_text(cluster.address)
    with monkeypatch.context() as patch:
        for name in ("RAY_ADDRESS", "RAY_TMPDIR", "RAY_AUTH_MODE"):
            patch.delenv(name, raising=False)
        patch.setenv("TMPDIR", str(tmp_path))
        patch.setenv("RAY_AUTH_TOKEN", "0" * 64)
        read_anew()
        with pytest.raises(EnvironmentProblem, match="refuses this token"):
            check_address("auto")
        patch.undo()
        patch.setenv("TMPDIR", str(tmp_path))
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.delenv("RAY_TMPDIR", raising=False)
        patch.delenv("RAY_AUTH_MODE")
        read_anew()
        assert get_authentication_mode() is AuthenticationMode.DISABLED
        owner, others = os.getuid(), 54321
        if owner == 0:
            os.chown(noted, others, -1)
        else:
            patch.setattr(os, "getuid", lambda: others)
        with pytest.raises(EnvironmentProblem, match="wants a token: set RAY_AUTH_MODE=token"):
            check_address("auto")
        assert "RAY_AUTH_MODE" not in os.environ
        if owner == 0:
            os.chown(noted, owner, -1)
        else:
            patch.setattr(os, "getuid", lambda: owner)
        assert check_address("auto") == cluster.address
        assert os.environ["RAY_AUTH_MODE"] == "token"
        assert get_authentication_mode() is AuthenticationMode.TOKEN


def test_a_killed_driver_leaves_no_process(killed_run: KilledRun) -> None:
    assert killed_run.num_processes >= 5
    assert killed_run.left == []


def test_a_private_ray_has_no_process_but_those_that_work(killed_run: KilledRun) -> None:
    """It would start one for each core before it is asked, and none of them could be ours."""
    assert killed_run.idle == []


def test_a_private_ray_heeds_no_ray_address(killed_run: KilledRun) -> None:
    """That run's environment had RAY_ADDRESS=192.0.2.1:garbage; it had committed shards."""
    assert killed_run.num_workers == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_whose_exception_is_lost_while_ray_starts_is_heard(number: signal.Signals) -> None:
    """As in a callback after a fork, which reports exceptions and goes on."""
    heard: list[int] = []

    def ours(got: int, frame: object) -> None:
        heard.append(got)
        raise KeyboardInterrupt

    def of_ray(got: int, frame: object) -> None:
        sys.exit(got)

    def start() -> None:
        with own_signals():
            if number == signal.SIGTERM:
                signal.signal(number, of_ray)
            with contextlib.suppress(KeyboardInterrupt, SystemExit):
                signal.raise_signal(number)

    before = signal.signal(number, ours)
    try:
        with pytest.raises(KeyboardInterrupt):
            start()
        assert heard[-1] == number
        assert signal.getsignal(number) is ours
    finally:
        signal.signal(number, before)
