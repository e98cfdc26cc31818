"""Job specs: commands of evalsuite that are ready to be submitted to a cluster."""

import re
import shlex
from pathlib import Path

from pydantic import Field, field_validator

from evalsuite.config.base import Frozen

_SECRET = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY|ACCESS_KEY|PRIVATE", re.IGNORECASE)


def is_secret(name: str) -> bool:
    """Whether a variable's name says that its value should not be shown to others."""
    return _SECRET.search(name) is not None


class JobSpec(Frozen):
    """One command with what its job needs."""

    about: str
    """What it computes, for whoever reads the file."""
    command: str
    """The command line after `evalsuite`, quoted as in a shell."""
    env: dict[str, str] = Field(default_factory=dict)
    """Variables of the job and its workers. Everyone who may read the dashboard sees them."""
    python: str = "python"
    """The interpreter on the cluster."""
    waits_for: str | None = None
    """What the command needs that this version of evalsuite does not have yet."""
    path: Path = Field(exclude=True)
    """The file that this was read from."""

    @field_validator("command")
    @classmethod
    def _can_be_split(cls, value: str) -> str:
        try:
            words = shlex.split(value)
        except ValueError as error:
            raise ValueError(f"is no command line: {error}") from error
        if not words:
            raise ValueError("is empty")
        if words[0] == "evalsuite":
            raise ValueError("is what follows `evalsuite`: leave that word out")
        return value

    @field_validator("env")
    @classmethod
    def _holds_no_secrets(cls, value: dict[str, str]) -> dict[str, str]:
        secret = sorted(name for name in value if is_secret(name))
        if secret:
            raise ValueError(
                f"{secret[0]} looks like a secret, which the dashboard would show: set it on the"
                " nodes instead"
            )
        return value

    @property
    def words(self) -> list[str]:
        """The command line, split."""
        return shlex.split(self.command)
