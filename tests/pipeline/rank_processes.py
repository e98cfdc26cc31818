"""The ranks of a small training job: processes forked from a server that has torch loaded."""

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

TIMEOUT_S = 120
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["evalsuite.pipeline.scorer", "run_maker", "test_scorer"])


class Raised(NamedTuple):
    """An error that ended a rank."""

    kind: str
    text: str


def on_ranks(
    count: int,
    work: Callable[..., Any],
    folder: Path,
    *arguments: Any,
    backend: str = "gloo",
) -> list[Any]:
    """What `work(rank, *arguments)` gives, or the error it raises, on each of `count` ranks.

    With `count` 0 it is called in one process without torch.distributed.
    """
    store = folder / f"store-{count}-{work.__name__}"
    store.unlink(missing_ok=True)
    started = []
    for rank in range(max(count, 1)):
        ours, theirs = _CONTEXT.Pipe()
        process = _CONTEXT.Process(
            target=_rank,
            args=(theirs, backend, str(store), rank, count, work, arguments),
            daemon=True,
        )
        process.start()
        theirs.close()
        started.append((process, ours))
    found = []
    for process, pipe in started:
        found.append(pipe.recv() if pipe.poll(TIMEOUT_S) else Raised("Timeout", "no end"))
        process.join(TIMEOUT_S)
        assert not process.is_alive()
    return found


def _rank(
    pipe: Connection,
    backend: str,
    store: str,
    rank: int,
    count: int,
    work: Callable[..., Any],
    arguments: Any,
) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    if count:
        dist.init_process_group(backend, f"file://{store}", rank=rank, world_size=count)
    try:
        result = work(rank, *arguments)
    except Exception as error:  # noqa: BLE001 - the test looks at it
        result = Raised(type(error).__name__, str(error))
    pipe.send(result)
    pipe.close()
