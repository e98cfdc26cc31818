"""The long suites: nothing is left out of the test command that no target of `make` runs."""

import shlex
from itertools import pairwise

from harness import REPOSITORY


def test_every_long_test_belongs_to_a_target() -> None:
    commands = [
        shlex.split(line)
        for line in (REPOSITORY / "Makefile").read_text().splitlines()
        if " -m pytest " in line
    ]
    long = [
        words
        for words in commands
        if any(option == "-m" and marks.startswith("slow") for option, marks in pairwise(words))
    ]
    places = [REPOSITORY / word for words in long for word in words if word.startswith("tests/")]
    mark = "pytest.mark." + "slow"
    marked = [path for path in (REPOSITORY / "tests").rglob("*.py") if mark in path.read_text()]
    assert len(marked) >= 10
    assert [p for p in marked if not any(p.is_relative_to(place) for place in places)] == []
