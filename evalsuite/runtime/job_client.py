"""Ray's client of job servers, with an end to every wait: a head may vanish and close nothing."""

import asyncio
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

from evalsuite.errors import EnvironmentProblem, first_line

CONNECT_S = 3.0
ANSWER_S = 10.0
SENDING_S = (30.0, 120.0)
"""Until a piece of a package is taken, and until a head has started its job."""
QUIET_S = 10.0
"""After so long without a word of a log its job is asked for."""


def connected_client(address: str) -> Any:  # noqa: ANN401 - Ray's JobSubmissionClient
    """A client of the server at `address`, whose requests have time-outs; Ray's have none.

    Raises:
        RuntimeError, OSError, RayError, requests.RequestException: it cannot be asked.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from ray.job_submission import JobSubmissionClient
    logging.getLogger("ray.dashboard").setLevel(logging.WARNING)
    for name in ("job.sdk", "dashboard_sdk"):  # each has set a level of its own
        logging.getLogger(f"ray.dashboard.modules.{name}").setLevel(logging.WARNING)

    class Client(JobSubmissionClient):  # type: ignore[misc]  # Ray has no types
        def _do_request(self, method: str, endpoint: str, **more: Any) -> Any:  # noqa: ANN401
            timeout = (CONNECT_S, ANSWER_S) if method == "GET" else SENDING_S
            if isinstance(more.get("data"), bytes):  # in one piece, the time-out is that of all
                more["data"] = io.BytesIO(more["data"])
            return super()._do_request(method, endpoint, timeout=timeout, **more)

    return Client(address)


def tail(client: Any, job_id: str, skip: int) -> Iterator[str]:  # noqa: ANN401 - as above
    """The log from its character `skip` on, until the job ends; "" whenever QUIET_S were silent.

    Raises:
        EnvironmentProblem: the connection breaks.
    """
    import aiohttp

    chunks = client.tail_job_logs(job_id)

    async def chunk() -> str:
        text: str = await anext(chunks)
        return text

    with asyncio.Runner() as runner:
        while True:
            coming = runner.get_loop().create_task(chunk())
            while not runner.run(_came(coming)):
                yield ""
            try:
                text = coming.result()
            except StopAsyncIteration:
                return
            except (RuntimeError, OSError, aiohttp.ClientError) as error:
                raise EnvironmentProblem(
                    f"the log of job {job_id} broke off: {first_line(error)}"
                ) from error
            fresh = text[skip:]
            skip = max(0, skip - len(text))
            if fresh:
                yield fresh


async def _came(coming: "asyncio.Task[str]") -> bool:
    done, _ = await asyncio.wait({coming}, timeout=QUIET_S)
    return bool(done)
