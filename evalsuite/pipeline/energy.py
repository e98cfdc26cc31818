"""Energy that a GPU took, as its own counter has it through NVML; never a guess.

Source: NVML API, nvmlDeviceGetTotalEnergyConsumption (millijoules since the driver was loaded;
Volta and newer). Needs nvidia-ml-py, which is optional.
"""

from typing import Any

import torch


class EnergyMeter:
    """Reads the energy counter of one device."""

    def __init__(self, device: torch.device) -> None:
        """Look for the counter; a device without one is no error."""
        self._nvml: Any = None
        self._handle: Any = None
        if device.type == "cuda":
            self._open(device)

    def joules(self) -> float | None:
        """Joules since some beginning, for differences; None where nothing can be said.

        That is: no NVIDIA GPU, no nvidia-ml-py, a GPU without a counter, one that is cut into
        parts (MIG) or that another process computes on as well.
        """
        if self._handle is None:
            return None
        nvml = self._nvml
        try:
            if len(nvml.nvmlDeviceGetComputeRunningProcesses(self._handle)) > 1:
                return None
            return float(nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1000
        except nvml.NVMLError:
            return None

    def _open(self, device: torch.device) -> None:
        try:
            import pynvml
        except ImportError:
            return
        uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
        if uuid is None:
            return
        try:
            pynvml.nvmlInit()
            handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
            if _is_cut(pynvml, handle):
                return
        except pynvml.NVMLError:
            return
        self._nvml, self._handle = pynvml, handle


def between(before: float | None, after: float | None) -> float | None:
    """Joules from one reading to a later one; None when either is unknown or it began anew."""
    if before is None or after is None or after < before:
        return None
    return round(after - before, 3)


def _is_cut(nvml: Any, handle: Any) -> bool:  # noqa: ANN401 - NVML has no types
    """Whether the GPU is in MIG mode: its counter is that of all parts together."""
    try:
        current, _ = nvml.nvmlDeviceGetMigMode(handle)
    except nvml.NVMLError:  # too old to have it
        return False
    return bool(current)
