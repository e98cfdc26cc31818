"""`evalsuite doctor`: what this machine can do."""

import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

import click

OPTIONAL = {
    "tensorflow": ("tensorflow", "ADM's own graph, for parity reports"),
    "diffusers": ("diffusers", "other people's pipelines"),
    "transformers": ("t2i", "text encoders, detectors, judges"),
    "s3fs": ("s3", "runs on S3"),
    "gcsfs": ("gcs", "runs on Google Cloud Storage"),
}


@click.command(epilog="Examples:\n\n\b\n  evalsuite doctor\n  evalsuite --debug doctor")
def doctor() -> None:
    """Say what this machine can do, and which optional parts are missing."""
    import torch

    from evalsuite.pipeline.provenance import package_versions
    from evalsuite.runtime.machine import default_cpu_workers, num_cores

    versions = package_versions()
    for name in (name for name in versions if name not in OPTIONAL):
        click.echo(f"{name:15} {versions[name]}")
    capability = torch.backends.cpu.get_cpu_capability()
    workers = default_cpu_workers()
    click.echo(f"{'cores':15} {num_cores()} ({capability}); {workers} CPU workers by default")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(index)
            click.echo(
                f"{'GPU ' + str(index):15} {about.name}, {about.total_memory / 2**30:.0f} GiB"
            )
    else:
        click.echo(f"{'GPU':15} none that torch sees: workers use the CPU, one thread each")
    free = shutil.disk_usage(Path.cwd()).free
    click.echo(f"{'disk here':15} {free / 1e9:.0f} GB free")
    _check_writable("HOME", Path.home())
    _check_writable("temporary", Path(tempfile.gettempdir()))
    for module, (extra, purpose) in OPTIONAL.items():
        if importlib.util.find_spec(module) is None:
            click.echo(f"{module:15} missing ({purpose}): pip install 'evalsuite[{extra}]'")
        else:
            click.echo(f"{module:15} {versions.get(module, 'present')} ({purpose})")
    address = os.environ.get("RAY_ADDRESS")
    if address:
        click.echo(
            f"{'RAY_ADDRESS':15} {address} is ignored; use --address to work on that cluster"
        )
    if os.environ.get("RAY_AUTH_MODE") == "disabled":
        click.echo(
            "RAY_AUTH_MODE is disabled: a shared cluster would be open to everyone who reaches it"
        )


def _check_writable(name: str, path: Path) -> None:
    state = "writable" if os.access(path, os.W_OK) else "NOT writable"
    click.echo(f"{name:15} {path} {state}")
