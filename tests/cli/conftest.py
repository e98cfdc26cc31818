"""What the tests of commands share."""

from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Outcome


@pytest.fixture
def refuse(call: Callable[..., Outcome], tmp_path: Path) -> Callable[..., str]:
    """`refuse(code, *arguments)` gives the one line of a command that must fail with `code`."""

    def check(code: int, *arguments: object) -> str:
        before = set(tmp_path.rglob("*"))
        outcome = call(*arguments)
        assert outcome.code == code, outcome
        assert outcome.stdout == ""
        (line,) = outcome.complaints
        assert line.startswith("evalsuite: ")
        assert len(line) > 30
        if arguments[0] in {"sample", "evaluate"}:
            assert set(tmp_path.rglob("*")) == before
        return line

    return check
