"""Where a result came from: versions, source revision, hardware."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "evalsuite",
    "torch",
    "numpy",
    "scipy",
    "tensorflow",
    "ray",
    "pyarrow",
    "pillow",
    "safetensors",
    "huggingface-hub",
    "transformers",
    "tokenizers",
    "diffusers",
)
SUBMITTED_REVISION = "EVALSUITE_SUBMITTED_REVISION"
"""Variable of a submitted job: the commit of its package, `+changes` where files differ."""


def package_versions() -> dict[str, str]:
    """Versions of the packages that matter; one that is not installed is left out."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {"python": platform.python_version(), **found}


def decoding_version() -> str:
    """Of the library that decodes and resizes pictures, which may change their pixels."""
    return f"pillow {metadata.version('pillow')}"


def source_revision() -> dict[str, Any] | None:
    """Git revision of this package's checkout and whether it has changes; None outside of one.

    A job's copy of a checkout has no `.git`: `evalsuite submit` says where it came from.
    """
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        submitted, changed, _ = os.environ.get(SUBMITTED_REVISION, "").partition("+")
        return {"revision": submitted, "dirty": bool(changed)} if submitted else None
    revision = _git(root, "rev-parse", "HEAD")
    if revision is None:
        return None
    changes = _git(root, "status", "--porcelain", "--untracked-files=no")
    return {"revision": revision, "dirty": bool(changes)}


def hardware() -> dict[str, Any]:
    """This machine in a few fields."""
    return {
        "system": platform.system(),
        "machine": platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
    }


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(  # noqa: S603 - fixed command on our own checkout
            ["git", "-C", str(root), *arguments],  # noqa: S607
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
