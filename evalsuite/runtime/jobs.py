"""Jobs on a cluster through the job server of its head: submit, follow, look at, stop.

The server is Ray's dashboard. It is asked by HTTP with the token of this environment, as Ray's own
tools do it (RAY_AUTH_MODE=token with RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token).
"""

import contextlib
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from evalsuite.errors import EnvironmentProblem, EvalsuiteError, UsageError, first_line
from evalsuite.runtime.address import token_problem
from evalsuite.runtime.cluster import check_auth_mode
from evalsuite.runtime.job_client import ANSWER_S, CONNECT_S, connected_client, tail
from evalsuite.runtime.reaching import reach

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
ADDRESS_VARIABLE = "RAY_API_SERVER_ADDRESS"
OLDEST_RAY = (2, 50)
"""As pyproject.toml has it: the job runs by the cluster's Ray."""
AGENT_S = 20.0
"""A head that has just started gets so long until its agent takes jobs."""
GONE_S = 20.0
"""A head that does not answer for so long is given up by whoever follows a job."""
STOP_WAIT_S = 45
"""Time between SIGTERM and SIGKILL of a stopped job: its shards in hand may commit."""
SUBMISSION = "evalsuite_submission"
"""In a job's metadata: a random token, by which a submission knows its own job."""
_PORTS = {"http": 80, "https": 443}
_LOG_FOLLOWS = ", last available logs"
_ENDED = {"SUCCEEDED", "FAILED", "STOPPED"}


class _NoAgentError(EnvironmentProblem):
    """The head runs, but nothing there starts jobs yet."""


@dataclass(frozen=True)
class JobState:
    """A job as its server sees it."""

    job_id: str
    status: str
    """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
    command: str
    message: str
    exit_code: int | None
    """Of its process; negative where a signal ended it."""
    started_s: float | None
    ended_s: float | None

    @property
    def ended(self) -> bool:
        """Whether its process is gone."""
        return self.status in _ENDED


class JobServer:
    """The job server at an address."""

    def __init__(self, address: str | None) -> None:
        """Connect.

        Args:
            address: `http://HOST:8265` of the head; RAY_API_SERVER_ADDRESS or this machine if None.

        Raises:
            UsageError: an address of another kind.
            EnvironmentProblem: nothing answers there, it is no job server, it refuses our token,
                or its Ray is too old.
        """
        check_auth_mode()
        self.address = (address or os.environ.get(ADDRESS_VARIABLE) or DEFAULT_ADDRESS).rstrip("/")
        _check_listening(self.address)
        os.environ[ADDRESS_VARIABLE] = self.address  # Ray prefers it to RAY_ADDRESS and arguments
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        self.ray_version = self._check_server()
        with self._explained("connect"):
            self._client = connected_client(self.address)

    def submit(
        self,
        command: str,
        package: Path | None,
        env: Mapping[str, str],
        job_id: str | None,
    ) -> str:
        """Hand a job over; gives its id.

        Args:
            command: a shell command.
            package: the archive that becomes its working directory.
            env: variables of the job and its workers.
            job_id: its name; one is made up when None.
        """
        runtime_env: dict[str, Any] = {
            "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S), **env}
        }
        if package is not None:
            runtime_env["working_dir"] = str(package)
        deadline = time.monotonic() + AGENT_S
        while True:
            try:
                with self._explained("submit the job"):
                    return self._hand_over(command, runtime_env, job_id or _new_id())
            except _NoAgentError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(1)

    def _hand_over(self, command: str, runtime_env: dict[str, Any], job_id: str) -> str:
        """Submit once; a head whose answer does not come in time may have taken the job."""
        import requests

        token = secrets.token_hex(8)
        try:
            given: str = self._client.submit_job(
                entrypoint=command,
                runtime_env=runtime_env,
                submission_id=job_id,
                metadata={SUBMISSION: token},
            )
        except requests.Timeout:
            if not self._has_taken(job_id, token):
                raise
            return job_id
        return given

    def _has_taken(self, job_id: str, token: str) -> bool:
        """Whether the head has the job of this very submission, asked for a while."""
        import requests

        deadline = time.monotonic() + ANSWER_S
        while True:
            with contextlib.suppress(RuntimeError, OSError, requests.RequestException):
                metadata = self._client.get_job_info(job_id).metadata or {}
                return metadata.get(SUBMISSION) == token
            if time.monotonic() > deadline:
                return False
            time.sleep(0.5)

    def state(self, job_id: str) -> JobState:
        """How a job stands.

        Raises:
            UsageError: the cluster knows no such job.
        """
        with self._explained(f"ask for job {job_id}"):
            return _state_of(self._client.get_job_info(job_id))

    def jobs(self) -> list[JobState]:
        """The submitted jobs that the cluster remembers, oldest first."""
        with self._explained("list the jobs"):
            found = [_state_of(one) for one in self._client.list_jobs() if one.submission_id]
        return sorted(found, key=lambda job: job.started_s or 0.0)

    def logs(self, job_id: str) -> str:
        """All that a job has printed so far."""
        with self._explained(f"read the log of job {job_id}"):
            text: str = self._client.get_job_logs(job_id)
        return text

    def stop(self, job_id: str) -> bool:
        """Send SIGTERM to a job's process; whether it was running."""
        with self._explained(f"stop job {job_id}"):
            stopped: bool = self._client.stop_job(job_id)
        return stopped

    def follow(self, job_id: str, write: Callable[[str], None]) -> JobState:
        """Pass on what a job prints until it ends; gives how it ended.

        A connection that breaks is made again, and nothing is passed on twice.

        Raises:
            EnvironmentProblem: the head does not answer for GONE_S, or has forgotten the job.
        """
        written, gone_since = 0, None
        while True:
            written, broken = self._pass_on(job_id, written, write)
            try:
                state = self.state(job_id)
                if state.ended and broken is not None:
                    raise broken  # its last words may come yet
                gone_since = None
            except EnvironmentProblem as error:
                gone_since = gone_since or time.monotonic()
                if time.monotonic() - gone_since > GONE_S:
                    raise self._lost(job_id, "does not answer any more") from error
                time.sleep(1)
                continue
            except UsageError as error:  # it was known
                raise self._lost(job_id, "was started anew and has forgotten its jobs") from error
            if state.ended:
                return state
            time.sleep(0.2 if broken is None else 1)

    def _pass_on(
        self, job_id: str, written: int, write: Callable[[str], None]
    ) -> tuple[int, EvalsuiteError | None]:
        """Pass on the log after so many characters; gives how many there are, and what broke it."""
        try:
            for text in tail(self._client, job_id, written):
                if text:
                    written += len(text)
                    write(text)
                elif self.state(job_id).ended:  # the connection is gone, and nobody said so
                    raise EnvironmentProblem(f"the log of job {job_id} stands still")
        except (EnvironmentProblem, UsageError) as error:
            return written, error
        return written, None

    def _lost(self, job_id: str, how: str) -> EnvironmentProblem:
        return EnvironmentProblem(
            f"the head at {self.address} {how}: whether job {job_id} goes on is not known; when the"
            " cluster is back, submit the same command with the same --output: what was committed"
            " stays"
        )

    def is_open(self) -> bool:
        """Whether it takes requests without a token."""
        import requests

        answer = requests.get(f"{self.address}/api/version", timeout=(CONNECT_S, ANSWER_S))
        return answer.status_code == 200

    def _check_server(self) -> str:
        """That a job server of a Ray which is new enough answers; gives its version."""
        import requests
        from ray._private.authentication.http_token_authentication import (
            get_auth_headers_if_auth_enabled,
        )

        url = f"{self.address}/api/version"
        try:
            headers = get_auth_headers_if_auth_enabled({})
            answer = requests.get(url, headers=headers, timeout=(CONNECT_S, ANSWER_S))
            _check_admitted(self.address, answer.status_code)
            version = str(answer.json()["ray_version"])
        except (requests.RequestException, ValueError, KeyError, TypeError) as error:
            raise EnvironmentProblem(
                f"what answers at {self.address} is no job server of Ray: give the address of the"
                " head's dashboard, http://HOST:8265 by default"
            ) from error
        numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
        if numbers < OLDEST_RAY:
            oldest = ".".join(map(str, OLDEST_RAY))
            raise EnvironmentProblem(
                f"the cluster at {self.address} runs Ray {version}: evalsuite needs {oldest} or"
                " newer there"
            )
        return version

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """Turn what the client raises into one line."""
        import requests
        from ray.exceptions import RayError

        try:
            yield
        except (RuntimeError, ValueError, OSError, RayError, requests.RequestException) as error:
            text = first_line(error)
            if "No available agent" in text:
                raise _NoAgentError(
                    f"cannot {what}: the head at {self.address} has no agent that starts jobs; if"
                    " another Ray runs on that machine, start the head with a"
                    " --dashboard-agent-listen-port of its own"
                ) from error
            if "does not exist" in text:
                raise UsageError(
                    f"cannot {what}: the cluster at {self.address} knows no such job (a cluster"
                    " that was started anew has forgotten its jobs): see `evalsuite jobs list`"
                ) from error
            if "already exists" in str(error):
                raise UsageError(
                    f"cannot {what}: the cluster has a job of that name: give another --id"
                ) from error
            raise EnvironmentProblem(f"cannot {what} at {self.address}: {text}") from error


def _new_id() -> str:
    """As Ray makes them up; known here, so that the job can be asked for."""
    return f"raysubmit_{secrets.token_hex(8)}"


def _state_of(details: Any) -> JobState:  # noqa: ANN401 - Ray's JobDetails
    def seconds(milliseconds: int | None) -> float | None:
        return None if milliseconds is None else milliseconds / 1000

    return JobState(
        job_id=details.submission_id or details.job_id,
        status=str(getattr(details.status, "value", details.status)),
        command=details.entrypoint,
        message=" ".join((details.message or "").partition(_LOG_FOLLOWS)[0].split()),
        exit_code=details.driver_exit_code,
        started_s=seconds(details.start_time),
        ended_s=seconds(details.end_time),
    )


def _check_admitted(address: str, status: int) -> None:
    if status not in {401, 403}:
        return
    raise token_problem(address, refused=status == 403)


def _check_listening(address: str) -> None:
    """Something takes connections there, found out within CONNECT_S, names included.

    Raises:
        UsageError: no http address.
        EnvironmentProblem: nothing does.
    """
    try:
        parts = urlsplit(address)
        port = parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        port = None
    if port is None or parts.scheme not in _PORTS or not parts.hostname:
        raise UsageError(
            f"--address {address!r} must be http://HOST:PORT of the head's dashboard, such as"
            f" {DEFAULT_ADDRESS}"
        )
    try:
        reach(str(parts.hostname), port, CONNECT_S, lambda _: True)
    except OSError as error:
        raise EnvironmentProblem(
            f"nothing answers at {address} ({error}): check the address; a dashboard on loopback"
            " is reached through `ssh -L 8265:127.0.0.1:8265 HEAD`"
        ) from error
