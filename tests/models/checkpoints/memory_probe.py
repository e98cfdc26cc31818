"""Loads one network from a checkpoint and prints its memory in bytes, in a process of its own."""

import gc
import json
import sys
from pathlib import Path

import torch

from evalsuite.models.checkpoints.reading import open_checkpoint
from evalsuite.models.checkpoints.state import load_network
from evalsuite.models.registry import family_named


def memory(field: str) -> int:
    """A field of this process's status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024


def main() -> None:
    path, group, family, network = sys.argv[1:5]
    torch.set_num_threads(1)
    with torch.device("meta"):
        module = family_named(family).build(json.loads(network))
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of the imports
    before = memory("VmRSS")
    load_network(module, open_checkpoint(Path(path)), group, family, "the file")
    peak = memory("VmHWM") - before
    total = sum(tensor.sum(dtype=torch.float64).item() for tensor in module.state_dict().values())
    sys.stdout.write(json.dumps({"peak": peak, "sum": total}))


if __name__ == "__main__":
    main()
