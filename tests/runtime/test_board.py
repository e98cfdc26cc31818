"""The board of shards: every shard is done or set aside, whatever happens to those who had it."""

import random

import pytest

from evalsuite.pipeline.ranges import ShardTask
from evalsuite.runtime.board import (
    BACK_OFF_S,
    LONGEST_BACK_OFF_S,
    MAX_DEPARTURES,
    MAX_LOSSES,
    Board,
)


class Clock:
    """Seconds that pass when a test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def tasks(count: int) -> list[ShardTask]:
    return [ShardTask(10 * i, 10 * i + 10, ("images",)) for i in range(count)]


def test_shards_are_handed_out_in_order_and_end() -> None:
    board = Board(tasks(3))
    taken = [board.take() for _ in range(3)]
    assert taken == tasks(3)
    assert not board.has_waiting
    assert [board.finish(task) for task in taken] == [True, True, True]
    assert board.num_open == 0


def test_a_lost_shard_waits_longer_each_time_and_is_set_aside() -> None:
    clock = Clock()
    board = Board(tasks(2), clock)
    first = board.take()
    for losses in range(1, MAX_LOSSES + 1):
        assert board.give_back(first, "killed") == "again"
        wait_s = min(BACK_OFF_S * 2 ** (losses - 1), LONGEST_BACK_OFF_S)
        clock.now += wait_s - 0.01
        assert board.num_queued == 2
        other = board.take()
        assert other != first
        board.drop(other)
        clock.now += 0.01
        assert board.num_queued == 2
        assert board.take() == other, "what failed waits behind the others"
        assert board.take() == first
        board.drop(other)
    assert board.give_back(first, "killed again") == "set aside"
    assert [(one.task, one.reason) for one in board.set_aside] == [(first, "killed again")]
    assert board.num_open == 1


def test_nodes_that_leave_are_not_held_against_a_shard() -> None:
    board = Board(tasks(1))
    for _ in range(MAX_DEPARTURES):
        assert board.give_back(board.take(), "its node died", departed=True) == "again"
    assert board.give_back(board.take(), "its node died", departed=True) == "set aside"


def test_the_first_commit_of_two_hands_counts() -> None:
    board = Board(tasks(1))
    task = board.take()
    board.copy(task)
    assert board.hands(task) == 2
    assert board.finish(task)
    assert board.num_open == 0
    assert not board.finish(task)
    assert board.hands(task) == 0


@pytest.mark.parametrize("left", [0, 1, 2])
def test_what_others_have_made_of_a_shard_is_left_out(left: int) -> None:
    board = Board(tasks(2))
    rest = [ShardTask(10 * i + 5, 10 * i + 7, ("images",)) for i in range(left)]
    board.replace(board.take(), rest)
    assert board.num_open == board.num_queued == left + 1
    taken = [board.take() for _ in range(left + 1)]
    assert taken == [*rest, tasks(2)[1]]
    assert [board.finish(task) for task in taken] == [True] * (left + 1)
    assert board.num_open == 0


def test_a_shard_in_two_hands_survives_the_loss_of_one_and_the_withdrawal_of_the_other() -> None:
    board = Board(tasks(1))
    task = board.take()
    board.copy(task)
    assert board.give_back(task, "killed") == "elsewhere"
    assert not board.has_waiting
    board.drop(task)
    assert board.take() == task


@pytest.mark.parametrize("seed", range(20))
def test_no_shard_is_lost_in_any_order_of_events(seed: int) -> None:
    """Random commits, losses, copies and withdrawals; open shards are always in hand or queued."""
    choose, clock = random.Random(seed), Clock()
    board = Board(tasks(30), clock)
    in_hand: list[ShardTask] = []
    done: set[ShardTask] = set()
    while board.num_open:
        clock.now += choose.random()
        if board.has_waiting and choose.random() < 0.6:
            in_hand.append(board.take())
        if not in_hand:
            clock.now += 1
            continue
        task = choose.choice(in_hand)
        what = choose.choice(["finish", "lose", "leave", "copy", "drop"])
        if what == "copy":
            if board.hands(task) < 2 and not board.is_done(task):
                board.copy(task)
                in_hand.append(task)
            continue
        in_hand.remove(task)
        if what == "finish":
            assert board.finish(task) == (task not in done)
            done.add(task)
        elif what == "drop":
            board.drop(task)
        else:
            board.give_back(task, "lost", departed=what == "leave")
        held = {t for t in in_hand if not board.is_done(t)}
        assert len(held) + board.num_queued >= board.num_open
    aside = {one.task for one in board.set_aside}
    assert done | aside == set(tasks(30))
    assert not done & aside
