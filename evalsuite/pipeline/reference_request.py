"""What a reference is to be made of, and where its files go until they are whole."""

import contextlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from evalsuite.artifacts.storage import LocalStorage
from evalsuite.config import ExtractorSpec

Part = Literal["images", "features", "moments"]
PARTS: tuple[Part, ...] = ("images", "features", "moments")

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class BuildRequest:
    """What to make a reference of.

    Attributes:
        source: a folder of images, an NPZ, or Parquet shards.
        name: of the reference and its files.
        output: the folder that they go to.
        resize: a rule such as `adm-crop:256`; None leaves pixels as they are.
        convert_rgb: let greyscale, palette, opaque and CMYK pictures become RGB.
        per_class: images of each class, chosen at random by `seed`; None takes all.
        parts: what to keep.
        extractor: for features and moments.
        device: where it computes.
        processes: how many decode; the bytes do not depend on it.
    """

    source: Path
    name: str
    output: Path
    resize: str | None = None
    convert_rgb: bool = False
    per_class: int | None = None
    seed: int = 0
    parts: frozenset[Part] = frozenset({"images", "moments"})
    extractor: ExtractorSpec | None = None
    device: torch.device = _CPU
    processes: int = 1


class OutputPaths:
    """Where the files go, and where they are until they are whole."""

    def __init__(self, request: BuildRequest) -> None:
        self.output = request.output
        self.npz = request.output / f"{request.name}.npz"
        self.sidecar = request.output / f"{request.name}.yaml"
        self.features = request.output / f"{request.name}.features.safetensors"
        self._aside = f".{request.name}.{uuid.uuid4().hex[:8]}"

    @contextlib.contextmanager
    def aside(self) -> Iterator[Path]:
        """A hidden folder, removed at the end with what is left in it."""
        folder = self.output / self._aside
        folder.mkdir()
        try:
            yield folder
        finally:
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()

    def move_into_place(self) -> None:
        """Rename what was made."""
        storage = LocalStorage(self.output)
        for path in (self.npz, self.features):
            storage.move(f"{self._aside}/{path.name}", path.name)
