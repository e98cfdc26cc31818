"""The benchmark of generation: what it counts, and that it needs no Ray."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from harness import REPOSITORY, environment

from benchmarks.generation import count_flops, own_grid
from evalsuite.config import ModelPreset, load_spec

pytestmark = pytest.mark.slow

WITHOUT = ("ray", "tensorflow", "pyarrow", "PIL", "click", "rich", "scipy", "jinja2")
PROGRAM = f"""
import runpy, sys
from importlib.machinery import ModuleSpec

class Missing:
    def create_module(self, spec):
        raise ModuleNotFoundError(spec.name)

class Finder:
    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, Missing()) if name.split(".")[0] in {WITHOUT} else None

sys.meta_path.insert(0, Finder())
sys.argv[0] = "generation"
runpy.run_module("benchmarks.generation", run_name="__main__")
"""


@pytest.mark.parametrize(
    ("name", "flop"),
    [
        ("pixelgen-xl-256", 260_109_139_968),
        ("pixelgen-xxl-t2i-512", 1_416_300_331_008),
        ("pixeldit-xl-256-ep320", 311_194_255_360),
        ("pixeldit-xl-512", 1_352_241_479_680),
        ("pixeldit-t2i-1024", 6_183_118_241_792),
    ],
)
def test_counted_flop(name: str, flop: int) -> None:
    """Those of the fact sheets, to the last one."""
    assert count_flops(load_spec(ModelPreset, name)) == flop


@pytest.mark.parametrize(
    ("name", "gigaflop"),
    [
        ("pixnerd-l-256", 170.361),
        ("pixnerd-xl-256", 268.551),
        ("pixnerd-xl-512", 1167.172),
        ("pixnerd-xxl-t2i", 1537.700),
    ],
)
def test_counted_flop_of_pixnerd(name: str, gigaflop: float) -> None:
    """Those of the fact sheet, to the digits that it prints."""
    assert count_flops(load_spec(ModelPreset, name)) / 1e9 == pytest.approx(gigaflop, abs=5e-4)


def test_skipped_work() -> None:
    """Euler 100 guided in (0.1, 1.0): 11 of the 100 times are not above 0.1."""
    grid = own_grid(load_spec(ModelPreset, "pixnerd-xl-256").sampling)
    assert grid == (100, 200, 189)
    assert grid.skipped == 0.055


def test_it_runs_on_a_bare_machine(tmp_path: Path) -> None:
    """Without Ray and all else that workers do not need; the ways make the same images."""
    options = ["--model", "pixnerd-digits", "--batch-size", "4", "--rounds", "1", "--device", "cpu"]
    subprocess.run(
        [sys.executable, "-c", PROGRAM, *options, "--json", tmp_path / "out.json"],
        cwd=REPOSITORY,
        env=environment(private=True),
        check=True,
        capture_output=True,
    )
    kept = json.loads((tmp_path / "out.json").read_text())
    plain, ours = kept["results"][0]["figures"]
    assert kept["command"].endswith("--num-steps 3 --device cpu --rounds 1")
    assert (plain["way"], plain["nfe"]) == ("plain", 6)
    assert (ours["way"], ours["nfe"]) == ("ours", 5)
    assert ours["rms_difference"] < 1e-5
    flop = kept["flop_per_evaluation"] * ours["nfe"] * 4 / ours["seconds"][0]
    assert ours["flop_per_second"] == pytest.approx(flop, rel=1e-3)
