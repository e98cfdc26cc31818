"""The bounded buffer between two threads: order, bound, faults in both directions."""

import threading
import time

import pytest

from evalsuite.pipeline.channel import Channel, Closed


def test_items_arrive_in_order_and_the_buffer_is_bounded() -> None:
    """A producer is never more than the capacity and one in hand ahead."""
    channel: Channel[int] = Channel(3)
    produced: list[int] = []

    def produce() -> None:
        for i in range(20):
            channel.put(i)
            produced.append(i)
        channel.put(None)

    thread = threading.Thread(target=produce)
    thread.start()
    time.sleep(0.3)
    assert len(produced) == 3
    assert list(channel) == list(range(20))
    thread.join(5)
    assert not thread.is_alive()


def test_a_fault_of_the_producer_comes_after_its_items() -> None:
    channel: Channel[int] = Channel(3)
    channel.put(1)
    channel.fail(ValueError("broken"))
    items = iter(channel)
    assert next(items) == 1
    with pytest.raises(ValueError, match="broken"):
        next(items)


def test_a_producer_that_waits_learns_that_nobody_reads() -> None:
    """Also one that comes later."""
    channel: Channel[int] = Channel(1)
    channel.put(0)
    closed = threading.Event()

    def produce() -> None:
        try:
            channel.put(1)
        except Closed:
            closed.set()

    thread = threading.Thread(target=produce)
    thread.start()
    channel.abandon()
    thread.join(5)
    assert closed.is_set()
    with pytest.raises(Closed):
        channel.put(2)
    channel.fail(ValueError("nobody hears it"))
