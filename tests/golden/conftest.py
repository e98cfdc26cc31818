"""Where the goldens lie, which of them this version can reproduce, and a count of what ran."""

import collections
import importlib.util
import json
import os
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

OWN_CASES = Path(__file__).parent / "cases"
GOLDENS = Path(os.environ.get("EVALSUITE_GOLDENS") or OWN_CASES)
IMPLEMENTED = {"pixnerd": ("c2i", "components")}
"""For each family's folder the kinds of case that have a test; other kinds are counted."""


@dataclass(frozen=True)
class Case:
    """One NPZ of goldens with the configuration that it carries."""

    family: str
    path: Path
    meta: dict[str, Any]

    @property
    def kind(self) -> str:
        """What the case is about."""
        return self.meta["kind"]

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All arrays of the case."""
        with np.load(self.path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}


def list_cases(family: str) -> list[Case]:
    """Every NPZ in a family's folder, of whatever kind."""
    cases = []
    for path in sorted((GOLDENS / family).glob("*.npz")):
        with np.load(path, allow_pickle=False) as archive:
            cases.append(Case(family, path, json.loads(bytes(archive["meta"]))))
    return cases


def load_fill() -> ModuleType:
    """`fill.py` of the goldens; our copy when the folder brings none (it is the same program)."""
    path = GOLDENS / "fill.py"
    path = path if path.is_file() else OWN_CASES / "fill.py"
    spec = importlib.util.spec_from_file_location("golden_fill", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test with an argument `FAMILY_KIND_case` runs once for each such case in the folder."""
    for family, kinds in IMPLEMENTED.items():
        for kind in kinds:
            name = f"{family}_{kind}_case"
            if name in metafunc.fixturenames:
                cases = [case for case in list_cases(family) if case.kind == kind]
                ids = [f"{family}-{case.path.stem}" for case in cases]
                metafunc.parametrize(name, cases, ids=ids)


@pytest.fixture(scope="session")
def fill() -> ModuleType:
    """Weights and noise by name."""
    return load_fill()


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def goldens() -> Path:
    """The folder of all families."""
    return GOLDENS


@pytest.fixture(scope="session")
def cases_of() -> Any:
    """`list_cases`."""
    return list_cases


_RUN: dict[str, set[Path]] = collections.defaultdict(set)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Remember which cases are really run."""
    for value in getattr(getattr(item, "callspec", None), "params", {}).values():
        if isinstance(value, Case):
            _RUN[value.family].add(value.path)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """One line for each family: cases run, and cases of kinds that have no test yet."""
    for family, paths in _RUN.items():
        cases = list_cases(family)
        kinds = collections.Counter(c.kind for c in cases if c.kind not in IMPLEMENTED[family])
        line = f"goldens {family}: {len(paths)} of {len(cases)} cases run from {GOLDENS}"
        if kinds:
            listed = ", ".join(sorted(kinds))
            line += f"; not implemented: {kinds.total()} ({listed})"
        terminalreporter.write_line(line)
