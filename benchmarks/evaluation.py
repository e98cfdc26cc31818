"""How fast the evaluator is, and in how much memory, beside ADM's evaluator and other programs.

Every part prints a table of ways that alternate in one run, with the ratio of each to ours: quote
the ratios. Seconds by the clock and CPU seconds stand side by side, because other people's work on
the machine is in the former alone. Parts:

    features    images/s of the network, from an NPZ: ours, ADM's graph in TensorFlow (which must be
                installed), torch-fidelity and pytorch-fid
    frechet     the Frechet distance against scipy's `sqrtm`, at full rank and below it
    neighbours  precision and recall: ours, ADM's in TensorFlow, torch-fidelity's
    end         `evalsuite evaluate` twice against one reference, and ADM's whole evaluation
    memory      peak memory by the number of images, and of the metrics for 50,000 at full width
    gpu         the evaluator on one GPU, without Ray and TensorFlow

The network is the synthetic Inception of the tests: the work does not depend on its weights.
torch-fidelity and pytorch-fid run in a Python of their own:

    python -m venv PEERS && PEERS/bin/pip install torch torchvision torch-fidelity pytorch-fid
    python -m benchmarks.evaluation --peers-python PEERS/bin/python --json FILE
    python -m benchmarks.evaluation --parts gpu --json FILE
"""

import argparse
import importlib.metadata
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.evaluation_end import end, memory
from benchmarks.evaluation_gpu import gpu
from benchmarks.evaluation_parts import Bench, features, frechet, neighbours
from benchmarks.evaluation_tables import Table
from evalsuite.errors import EvalsuiteError
from evalsuite.pipeline.numerics import numerics_of, resolve_device
from evalsuite.runtime.machine import num_cores

PARTS: dict[str, Callable[[Bench], list[Table]]] = {
    "features": features,
    "frechet": frechet,
    "neighbours": neighbours,
    "end": end,
    "memory": memory,
    "gpu": gpu,
}
_OURS = ("evalsuite", "torch", "numpy", "scipy", "tensorflow")
_PEERS = ("torch", "torchvision", "torch-fidelity", "pytorch-fid")
_ASK_VERSIONS = """
import importlib.metadata, json, sys
print(json.dumps({name: importlib.metadata.version(name) for name in sys.argv[1:]}))
"""


def parse(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    everything = [name for name in PARTS if name != "gpu"]
    add = parser.add_argument
    add("--parts", default=",".join(everything), help=f"of {','.join(PARTS)}")
    add("--peers-python", type=Path, help="where torch-fidelity and pytorch-fid are installed")
    add("--network", type=Path, help="folder of the synthetic network; made there when absent")
    add("--folder", type=Path, help="for temporary files")
    add("--rounds", type=int, default=3)
    add("--cores", type=int, default=num_cores(), help="processes, and threads of the others")
    add("--size", type=int, default=256, help="side of the images")
    add("--json", type=Path, help="write the figures here")
    add("--images", type=int, default=256, help="features: a multiple of 64 x cores")
    add("--dim", type=int, default=2048, help="frechet, neighbours: feature dimensions")
    add("--frechet-samples", type=_numbers, default=[10_000, 1000])
    add("--neighbours", type=int, default=10_000, help="samples, and reference images")
    add("--end-images", type=int, default=256)
    add("--end-reference", type=int, default=128)
    add("--memory-images", type=_numbers, default=[1000, 5000])
    add("--memory-size", type=int, default=512)
    add("--scoring-images", type=int, default=50_000, help="memory of the metrics; 0: left out")
    add("--scoring-reference", type=int, default=10_000)
    add("--device", default="auto", choices=["auto", "cpu", "cuda"], help="gpu")
    add("--gpu-images", type=int, default=50_000)
    add("--gpu-reference", type=int, default=10_000)
    add("--gpu-batches", type=int, default=100, help="of 64, for network and reading alone")
    add("--png-images", type=int, default=0, help="gpu: also a folder of so many PNG files")
    add("--divisor", type=int, default=1, help="gpu: of the network's channels; for trials")
    return parser.parse_args(words)


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def about(arguments: argparse.Namespace) -> dict[str, Any]:
    """The command, the machine and the versions."""
    kept = {name: value for name, value in vars(arguments).items() if name not in _NOT_KEPT}
    versions = {name: _version(name) for name in _OURS}
    facts: dict[str, Any] = {
        "command": "python -m benchmarks.evaluation",
        "options": kept,
        "machine": numerics_of(resolve_device("auto")) | {"cores": num_cores()},
        "versions": {name: version for name, version in versions.items() if version},
    }
    if arguments.peers_python is not None:
        command = [str(arguments.peers_python), "-c", _ASK_VERSIONS, *_PEERS]
        answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        facts["versions of peers"] = json.loads(answer)
    return facts


_NOT_KEPT = ("peers_python", "network", "folder", "json")
"""Places on a machine, which say nothing to others."""


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def main(words: list[str] | None = None) -> None:
    """Print the tables of the parts, and keep them after each if a file is named."""
    arguments = parse(words)
    names = arguments.parts.split(",")
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        raise SystemExit(f"there is no part {unknown[0]!r}: {', '.join(PARTS)}")
    content = about(arguments) | {"results": []}
    for name in names:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            for table in PARTS[name](Bench(arguments, Path(folder))):
                print(table.text(), flush=True)
                content["results"].append({"part": name, **table.kept()})
        if arguments.json:
            arguments.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except EvalsuiteError as error:
        sys.exit(str(error))
