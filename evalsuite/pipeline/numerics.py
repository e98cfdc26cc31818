"""What else decides bits: machine and libraries as an identity; and torch set up for it."""

import hashlib
import os
import platform
from pathlib import Path
from typing import Any

import torch

from evalsuite.config import canonical_json
from evalsuite.errors import EnvironmentProblem


def prepare_torch(device: torch.device) -> None:
    """One thread on a CPU (threads change bits), no TF32, deterministic cuDNN choices."""
    torch.set_num_threads(1)
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True


def resolve_device(name: str) -> torch.device:
    """`auto` is the GPU when there is one.

    Raises:
        EnvironmentProblem: `cuda` was asked and there is none.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise EnvironmentProblem("--device cuda: torch sees no GPU here; use --device cpu or auto")
    return torch.device("cuda", 0)


def numerics_of(device: torch.device) -> dict[str, Any]:
    """The fields whose change may change bits on this device."""
    fields: dict[str, Any] = {
        "device": device.type,
        "architecture": platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        fields |= {
            "model": properties.name,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
            "tf32": False,
        }
    else:
        fields |= {
            "model": _cpu_model(),
            "threads": torch.get_num_threads(),
            "mkldnn": torch.backends.mkldnn.is_available(),  # type: ignore[no-untyped-call]
        }
        isa = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("ATEN_CPU_CAPABILITY")
        fields |= {"isa_limit": isa} if isa else {}
    return fields


def numerics_id(fields: dict[str, Any]) -> str:
    """SHA-256 of the fields."""
    return hashlib.sha256(canonical_json(fields)).hexdigest()


def _cpu_model() -> str:
    """The processor's name and a digest of its instruction sets."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    pairs = (line.partition(":")[::2] for line in lines[:64])
    info = {key.strip(): value.strip() for key, value in reversed(list(pairs))}
    flags = hashlib.sha256(info.get("flags", info.get("Features", "")).encode()).hexdigest()[:8]
    name = info.get("model name", platform.processor())
    return f"{name} {info.get('cpu family', '')}/{info.get('model', '')} {flags}"
