"""Loads a preset's network from a checkpoint; prints its memory and seconds, and nothing else."""

import gc
import json
import sys
import time
from pathlib import Path

import torch

from evalsuite.config import ModelPreset, load_spec
from evalsuite.models.native import NativeModel
from evalsuite.models.registry import family_named


def memory(field: str) -> int:
    """A field of this process's status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024


def main() -> None:
    """Load the EMA weights to the CPU in the dtype that the command line names."""
    name, path, dtype = sys.argv[1:4]
    torch.set_num_threads(1)
    preset = load_spec(ModelPreset, name)
    with torch.device("meta"):
        family_named(preset.family).build(preset.network)  # imports what loading needs
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of the imports
    before, began = memory("VmRSS"), time.perf_counter()
    model = NativeModel(preset.family, preset.network)
    model.load(Path(path), preset.weights.ema, torch.device("cpu"), dtype)
    seconds = time.perf_counter() - began
    kept, peak = memory("VmRSS") - before, memory("VmHWM") - before
    sys.stdout.write(json.dumps({"peak_bytes": peak, "kept_bytes": kept, "seconds": seconds}))


if __name__ == "__main__":
    main()
