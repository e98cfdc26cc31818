"""Pages of mapped weights: given back where a file has them, kept where only memory does."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from evalsuite.models.checkpoints.reading import read_safetensors
from evalsuite.models.loading import hold_products_in_bfloat16
from evalsuite.models.mapped_pages import release_file_pages

MEGABYTES = 32
COUNT = MEGABYTES * 2**20 // 4


def resident_file_bytes() -> int:
    """Memory of this process that stands for pages of files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssFile")).split()[1]) * 1024


@pytest.fixture
def mapped(tmp_path: Path) -> Tensor:
    """A tensor of a safetensors file, every page of it in memory."""
    save_file({"w": torch.arange(COUNT, dtype=torch.float32)}, tmp_path / "w.safetensors")
    tensor = read_safetensors(tmp_path / "w.safetensors")["w"]
    assert tensor.sum(dtype=torch.float64) == COUNT * (COUNT - 1) / 2
    return tensor


def test_pages_of_a_file_are_given_back_and_hold_the_same_values(mapped: Tensor) -> None:
    before = resident_file_bytes()
    release_file_pages(mapped)
    assert before - resident_file_bytes() > 0.9 * MEGABYTES * 2**20
    assert torch.equal(mapped, torch.arange(COUNT, dtype=torch.float32))


def test_changed_pages_are_kept(mapped: Tensor) -> None:
    """A private copy of a page exists in memory alone."""
    mapped[COUNT // 2] = -1
    release_file_pages(mapped)
    assert mapped[COUNT // 2] == -1


def test_own_memory_is_kept() -> None:
    own = torch.arange(COUNT, dtype=torch.float32)
    release_file_pages(own)
    assert torch.equal(own, torch.arange(COUNT, dtype=torch.float32))


def test_a_part_of_a_page_is_no_page() -> None:
    small = torch.arange(100, dtype=torch.float32)
    release_file_pages(small[3:90])
    assert torch.equal(small, torch.arange(100, dtype=torch.float32))


LAYERS = """
import json, sys, torch
from pathlib import Path
from torch import nn
from evalsuite.models.checkpoints.reading import read_safetensors
from evalsuite.models.loading import hold_products_in_bfloat16

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024

with torch.device("meta"):
    network = nn.Sequential(*(nn.Linear(1024, 1024, bias=False) for _ in range(24)))
network.load_state_dict(read_safetensors(Path(sys.argv[1])), assign=True)
Path("/proc/self/clear_refs").write_text("5")
before = peak()
sum(p.sum().item() for p in network.parameters())
hold_products_in_bfloat16(network)
print(json.dumps({"peak": peak() - before, "bfloat16": network[3].weight.sum().item()}))
"""


def test_rounding_does_not_hold_the_file_and_its_copy(tmp_path: Path) -> None:
    """The peak stays near the size of the file, where both would be one and a half times it."""
    layers = {f"{i}.weight": torch.randn(1024, 1024) for i in range(24)}
    save_file(layers, tmp_path / "w.safetensors")
    command = [sys.executable, "-c", LAYERS, str(tmp_path / "w.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    file_bytes = 24 * 4 * 2**20
    assert 0.9 * file_bytes < found["peak"] < 1.2 * file_bytes
    assert found["bfloat16"] == layers["3.weight"].bfloat16().sum().item()


def test_rounding_leaves_norms_and_other_holders_alone(tmp_path: Path) -> None:
    """What else refers to the same file keeps its values."""
    save_file({"weight": torch.randn(2048, 2048)}, tmp_path / "w.safetensors")
    state = read_safetensors(tmp_path / "w.safetensors")
    exact = state["weight"].clone()
    layer = torch.nn.Linear(2048, 2048, bias=False)
    layer.load_state_dict(state, assign=True)
    norm = torch.nn.LayerNorm(2048)
    hold_products_in_bfloat16(torch.nn.Sequential(layer, norm))
    assert torch.equal(layer.weight, exact.bfloat16())
    assert torch.equal(state["weight"], exact)
    assert norm.weight.dtype == torch.float32
