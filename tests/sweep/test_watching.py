"""Which checkpoints are due, wait or are given up, as a training writes them; no image is made."""

import os
from pathlib import Path

import pytest
import torch
from board_kit import make_record

from evalsuite.cli.watch_view import column_names
from evalsuite.errors import DataError, IncompleteError
from evalsuite.sweep.checkpoints import Lookout
from evalsuite.sweep.watch_directory import WatchDirectory, WatchManifest
from evalsuite.sweep.watching import Measures, Warm, Watching, Work, watch

NOW = 2_000_000_000.0
MANIFEST = WatchManifest(
    model="any", pattern="/any/*.pt", num_samples=10, plan={}, ema="auto", measures=()
)


class Training:
    """Files with times of our choice, and a watch of them."""

    def __init__(self, folder: Path, every: int = 1) -> None:
        self.folder, self.now, self.said = folder / "ckpts", NOW, []
        self.folder.mkdir()
        lookout = Lookout(str(self.folder / "step_*.pt"), 10.0, lambda: self.now)
        work = Work(
            directory=WatchDirectory.create_or_open(folder / "watch", MANIFEST),
            lookout=lookout,
            every=every,
            reads=True,
            request_of=self._refuse,
            make=self._refuse,
            measures=Measures((), 10),
            tell=self._refuse,
            refresh=self._refuse,
            complain=self.said.append,
        )
        self.watching = Watching(work, patience_s=300.0)

    def write(self, step: int, part: float = 1.0) -> None:
        """A checkpoint, or its first part."""
        path = self.folder / f"step_{step}.pt"
        torch.save({"w": torch.arange(1000.0 + step)}, path)
        content = path.read_bytes()
        path.write_bytes(content[: int(part * len(content))])
        os.utime(path, (self.now, self.now))

    def due(self, after_s: float = 0.0) -> list[int]:
        """Steps that are due after so many seconds."""
        self.now += after_s
        return [one.step for one in self.watching.due()]

    @staticmethod
    def _refuse(*_: object) -> None:
        raise DataError("these weights are of another model")


def test_a_half_written_file_waits_until_it_is_whole(tmp_path: Path) -> None:
    training = Training(tmp_path)
    training.write(1, 0.5)
    assert training.due() == []
    assert training.due(11) == []  # it has settled, and cannot be read
    assert "cut short or damaged" in training.watching.waiting["step_1.pt"]
    training.write(1)
    assert training.due(5) == []  # it changed a moment ago
    assert training.due(6) == [1]
    assert training.said == []


def test_a_damaged_file_is_given_up_in_time_and_looked_at_again_when_it_is_replaced(
    tmp_path: Path,
) -> None:
    training = Training(tmp_path)
    training.write(2, 0.9)
    assert training.due(299) == []
    assert training.said == []
    training.due(2)
    (line,) = training.said
    assert "step_2.pt" in line
    training.due(1000)
    assert len(training.said) == 1  # said once
    with pytest.raises(DataError, match=r"1 checkpoint is not scored \(step_2\.pt\)"):
        training.watching.check(once=False)
    training.write(2)
    assert training.due(11) == [2]
    training.watching.check(once=False)


def test_steps_come_in_their_order_and_every_k(tmp_path: Path) -> None:
    training = Training(tmp_path, every=50)
    for step in (1000, 50, 75, 200):
        training.write(step)
    assert training.due(11) == [50, 200, 1000]


def test_what_is_not_complete_counts_at_the_end_of_once_alone(tmp_path: Path) -> None:
    training = Training(tmp_path)
    training.write(1, 0.5)
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        training.now += seconds

    watch(training.watching, poll_s=30.0, once=True, until=None, wait=wait)
    assert waits == [10.0]  # a second look, and no third
    training.watching.check(once=False)
    with pytest.raises(IncompleteError, match=r"step_1\.pt: "):
        training.watching.check(once=True)


def test_a_checkpoint_s_own_fault_does_not_end_the_watch(tmp_path: Path) -> None:
    training = Training(tmp_path)
    training.write(1)
    training.write(2)
    training.now += 11
    watch(training.watching, poll_s=30.0, once=False, until=2, wait=no_wait)
    assert training.said == [
        "step_1.pt: these weights are of another model",
        "step_2.pt: these weights are of another model",
    ]


def test_until_waits_for_earlier_steps_that_are_still_written(tmp_path: Path) -> None:
    """A later one that is half written is none of its business, nor is one that is complete."""
    training = Training(tmp_path)
    training.write(2)
    training.write(3)
    training.now += 11
    training.write(1)
    training.write(9, 0.5)
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        training.now += seconds

    watch(training.watching, poll_s=30.0, once=False, until=2, wait=wait)
    assert waits == [30.0]
    assert [line.partition(":")[0] for line in training.said] == ["step_2.pt", "step_1.pt"]
    training.now += 1000  # by now the half is damaged, and of nobody's concern
    watch(training.watching, poll_s=30.0, once=False, until=2, wait=no_wait)
    assert len(training.said) == 2


def no_wait(seconds: float) -> None:
    raise AssertionError(seconds)


def test_trouble_that_is_no_checkpoint_s_ends_it(tmp_path: Path) -> None:
    training = Training(tmp_path)
    training.write(1)
    training.now += 11

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    training.watching.work = training.watching.work._replace(request_of=full)
    with pytest.raises(OSError, match="no space"):
        watch(training.watching, poll_s=1.0, once=True, until=None, wait=no_wait)


def test_numbers_by_two_protocols_are_never_in_one_column() -> None:
    """As of steps that were scored before and after the file of a reference changed."""
    first, again, other = (
        make_record(value, reference_sha256=digest)
        for value, digest in ((2.0, "aa" * 32), (3.0, "aa" * 32), (4.0, "bb" * 32))
    )
    assert column_names([first, again]) == {first.protocol_id: "fid"}
    assert column_names([first, other]) == {
        one.protocol_id: f"fid:{one.protocol_id}" for one in (first, other)
    }


def test_a_bench_is_kept_warm_for_a_minute() -> None:
    clock = [0.0]
    with Warm(lambda: clock[0]) as warm:
        with warm.bench() as first:
            clock[0] = 100.0
        clock[0] = 159.0
        warm.cool()
        with warm.bench() as second:
            assert second is first
        clock[0] = 220.0
        warm.cool()
        with warm.bench() as third:
            assert third is not first


def test_a_long_pause_does_not_keep_a_bench_open() -> None:
    """Looked at 70 s into a pause of an hour, when its workers must have let go of their GPUs."""
    clock = [0.0]

    def sleep(seconds: float) -> None:
        if clock[0] >= 70.0:
            raise KeyboardInterrupt
        clock[0] += seconds

    with Warm(lambda: clock[0], sleep) as warm:
        with warm.bench() as first:
            pass
        with pytest.raises(KeyboardInterrupt):
            warm.wait(3600.0)
        with warm.bench() as second:
            assert second is not first
        clock[0] = 0.0
        warm.wait(12.0)
        assert clock[0] == 12.0
