"""Where the goldens lie, which of them this version can reproduce, and a count of what ran."""

import functools
import importlib.util
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from golden.evaluator_kit import Graph, write_graph
from numpy.typing import NDArray

OWN_CASES = Path(__file__).parent / "cases"
GOLDENS = Path(os.environ.get("EVALSUITE_GOLDENS") or OWN_CASES)
IMPLEMENTED = {
    "pixnerd": ("c2i", "components", "t2i_heavy", "t2i_plain"),
    "pixelgen": ("c2i", "t2i"),
    "pixeldit": ("c2i", "t2i"),
    "evaluator": ("features", "images", "math"),
    "t2i": (
        "detector_postprocess",
        "dpg_answers",
        "dpg_expected",
        "geneval_images",
        "geneval_summary",
        "geneval_units",
    ),
}
"""For each family's folder the kinds of case that have a test; a case of another kind fails."""
_EVALUATOR_KINDS = {"features": "features", "case": "images", "metric": "math"}
"""What a JSON of the evaluator's folder is about, by the first word of its name."""


@dataclass(frozen=True)
class Case:
    """One NPZ of goldens with the configuration that it carries, or a JSON with an NPZ beside."""

    family: str
    path: Path
    meta: dict[str, Any]

    @property
    def kind(self) -> str:
        """What the case is about: as its meta says, or whether its conditions are classes."""
        if self.family == "t2i":
            return self.path.stem
        if self.path.suffix == ".json":
            first = self.path.stem.partition("_")[0]
            return _EVALUATOR_KINDS.get(first, first)
        if "kind" in self.meta:
            return str(self.meta["kind"])
        return "t2i" if "text" in self.meta["model"] else "c2i"

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All arrays of the case."""
        with np.load(self.path.with_suffix(".npz"), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}

    def debug(self) -> dict[str, NDArray[Any]]:
        """Outputs of submodules, where a file beside the case holds them."""
        path = self.path.with_name(f"{self.path.stem}.debug.npz")
        if not path.is_file():
            return {}
        with np.load(path, allow_pickle=False) as archive:
            names = [name for name in archive.files if name.startswith("dbg_")]
            return {name.removeprefix("dbg_"): archive[name] for name in names}


def list_cases(family: str) -> list[Case]:
    """Every case in a family's folder, of whatever kind."""
    if family in {"evaluator", "t2i"}:
        paths = sorted((GOLDENS / family).glob("*.json"))
        return [Case(family, path, json.loads(path.read_text("utf-8"))) for path in paths]
    return [
        Case(family, path, _meta_of(path))
        for path in sorted((GOLDENS / family).glob("*.npz"))
        if not path.stem.endswith(".debug")
    ]


def _meta_of(path: Path) -> dict[str, Any]:
    """The meta of a case, which is text, or bytes of it."""
    with np.load(path, allow_pickle=False) as archive:
        stored = archive["meta"]
    meta: dict[str, Any] = json.loads(bytes(stored) if stored.dtype == np.uint8 else str(stored))
    return meta


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
                marked = [pytest.param(case, marks=_marks_of(case)) for case in cases]
                metafunc.parametrize(name, marked, ids=ids)


def _marks_of(case: Case) -> tuple[pytest.MarkDecorator, ...]:
    """Whole evaluations at full width take minutes: `make goldens` runs them."""
    full = case.kind == "images" and case.meta["width_divisor"] < 8
    return (pytest.mark.slow,) if full else ()


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
def are_own_cases(goldens: Path) -> bool:
    """Whether these are the cases of this repository, which hold every kind; others may not."""
    return goldens == OWN_CASES


@pytest.fixture(scope="session")
def cases_of() -> Any:
    """`list_cases`."""
    return list_cases


@pytest.fixture(scope="session")
def synthetic_inception(
    goldens: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[int], Graph]:
    """`synthetic_inception(8)` writes the kit's network with an eighth of the channels, once."""
    folder = tmp_path_factory.mktemp("inception")
    return functools.cache(
        lambda divisor: write_graph(goldens / "evaluator", divisor, folder / str(divisor))
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Note which cases are really run; `tests/conftest.py` counts them, in whatever process."""
    for value in getattr(getattr(item, "callspec", None), "params", {}).values():
        if isinstance(value, Case):
            about = {"path": str(value.path), "total": _total(value.family), "from": str(GOLDENS)}
            item.user_properties.append(("golden", {"family": value.family, **about}))


@functools.cache
def _total(family: str) -> int:
    return len(list_cases(family))
