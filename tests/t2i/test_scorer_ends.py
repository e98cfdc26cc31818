"""A scorer's command ends with who asked for it: stopped, killed, or no longer wanted."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from harness import environment, finish, is_running, start, wait_for

from evalsuite.pipeline.channel import Channel
from evalsuite.pipeline.external_scorer import run_command
from evalsuite.pipeline.scorer_command import parse_command

sys.path.insert(0, str(Path(__file__).parent))
from prompted_run import make_prompted_run

SLEEPS = "import os, sys, time\nopen(sys.argv[2], 'w').write(f'{os.getpid()}.')\ntime.sleep(600)\n"
CALLS = """import sys
from pathlib import Path
from evalsuite.pipeline.external_scorer import run_command
from evalsuite.pipeline.scorer_command import parse_command
run_command(parse_command(sys.argv[1], Path(".")), Path("."))
"""


def sleeping(folder: Path) -> str:
    """A command that writes its process id into `folder/pid` and sleeps."""
    (folder / "sleeps.py").write_text(SLEEPS)
    return f"command:{sys.executable} {folder / 'sleeps.py'} {{images}} {folder / 'pid'}"


def begun(folder: Path) -> int:
    """The process id, once it is there."""
    path = folder / "pid"
    wait_for(lambda: path.is_file() and path.read_text().endswith("."))
    return int(path.read_text()[:-1])


def test_a_command_ends_when_nobody_reads_its_numbers(tmp_path: Path) -> None:
    """As the thread that computes for one that was stopped, or whose shard another worker made."""
    for give_up in (Channel.abandon, Channel.withdraw):
        channel: Channel[int] = Channel(1)
        command = parse_command(sleeping(tmp_path), tmp_path)

        def work(channel: Channel[int] = channel, command=command) -> None:  # type: ignore[no-untyped-def]
            with channel.feeding():
                run_command(command, tmp_path)

        thread = threading.Thread(target=work)
        thread.start()
        pid = begun(tmp_path)
        assert is_running(pid)
        give_up(channel)
        thread.join(10)
        assert not thread.is_alive()
        assert not is_running(pid)
        (tmp_path / "pid").unlink()


def test_a_command_ends_with_a_signal_to_who_asked(tmp_path: Path) -> None:
    run = make_prompted_run(tmp_path / "run")
    asked = ("t2i", "score", run.root, "--scorer", sleeping(tmp_path), "--device", "cpu")
    process = start(*asked, cwd=tmp_path)
    pid = begun(tmp_path)
    process.send_signal(signal.SIGTERM)
    began_s = time.monotonic()
    outcome = finish(process)
    assert time.monotonic() - began_s < 30
    assert outcome.code == 128 + signal.SIGTERM, outcome.stderr
    assert not is_running(pid)


def test_a_command_ends_though_who_asked_is_killed(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", CALLS, sleeping(tmp_path)],
        cwd=tmp_path,
        env=environment(private=True),
    )
    pid = begun(tmp_path)
    assert is_running(pid)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    wait_for(lambda: not is_running(pid))
