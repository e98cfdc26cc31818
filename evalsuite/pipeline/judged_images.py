"""Images that a scorer judges: of a run or of a folder, by one index, on any machine.

Image i of a run shows prompt i % P and is number i // P of it; folders in the official layouts hold
the images of a prompt together.
"""

import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from evalsuite.artifacts.images import Images
from evalsuite.artifacts.run_directory import STORED_PIXELS, RunDirectory
from evalsuite.artifacts.samples.folder import check_kind, read_file
from evalsuite.artifacts.samples.pictures import PictureReader
from evalsuite.artifacts.storage import Place, place_of
from evalsuite.errors import UsageError
from evalsuite.pipeline.judgements import Judgements
from evalsuite.t2i.grids import check_grid, cut_cells


class Shown(NamedTuple):
    """What one image shows."""

    place: int
    """Of its prompt among the prompts."""
    number: int
    """Among the images of that prompt."""


class JudgedImages(Protocol):
    """Where images are, and which prompt each shows."""

    @property
    def source(self) -> str:
        """The plan of a run, or a digest of files."""
        ...

    @property
    def num_images(self) -> int:
        """All of them."""
        ...

    @property
    def place(self) -> Place:
        """What every node must see."""
        ...

    def shown(self, index: int) -> Shown:
        """What an image shows."""
        ...

    def read(self, start: int, stop: int) -> Iterator[Images]:
        """Images start..stop-1, uint8 [H,W,3]."""
        ...

    def judgements(self, stage: str) -> Judgements:
        """Where rows about them are kept."""
        ...


@dataclass(frozen=True)
class RunImages:
    """Of a run, whatever store it is in."""

    root: str
    source: str
    num_prompts: int
    num_images: int

    @property
    def place(self) -> Place:
        """The run."""
        return place_of(self.root)

    def shown(self, index: int) -> Shown:
        """Prompts take turns."""
        return Shown(index % self.num_prompts, index // self.num_prompts)

    def read(self, start: int, stop: int) -> Iterator[Images]:
        """From the shards that keep them."""
        for _, image in _opened(self.root).read_images(start, stop):
            yield image

    def judgements(self, stage: str) -> Judgements:
        """In the run."""
        return Judgements(self.root, self.source, stage, of_run=True)


@dataclass(frozen=True)
class _PictureFiles:
    """Files of a folder, the images of a prompt together."""

    root: str
    source: str
    per_prompt: int
    files: tuple[str, ...]

    @property
    def place(self) -> Place:
        """The folder."""
        return Path(self.root)

    def shown(self, index: int) -> Shown:
        """Prompts follow each other."""
        return Shown(*divmod(index, self.per_prompt))

    def judgements(self, stage: str) -> Judgements:
        """In this machine's cache."""
        return Judgements.in_cache(self.source, stage)


@dataclass(frozen=True)
class FolderImages(_PictureFiles):
    """Files with one image each."""

    @property
    def num_images(self) -> int:
        """One for each file."""
        return len(self.files)

    def read(self, start: int, stop: int) -> Iterator[Images]:
        """Decoded."""
        reader = PictureReader(may_convert=False)
        for path in self.files[start:stop]:
            yield reader.decode(read_file(Path(path)), path)


@dataclass(frozen=True)
class GridImages(_PictureFiles):
    """Grids of 2 x 2 cells, one for each prompt, of which the first cells are taken."""

    resolution: int

    @property
    def num_images(self) -> int:
        """All cells."""
        return len(self.files) * self.per_prompt

    def read(self, start: int, stop: int) -> Iterator[Images]:
        """Cells, each grid decoded once."""
        reader = PictureReader(may_convert=False)
        for place in range(start // self.per_prompt, -(-stop // self.per_prompt)):
            path = self.files[place]
            picture = reader.decode(read_file(Path(path)), path)
            cells = cut_cells(picture, self.resolution, self.per_prompt)
            for number, cell in enumerate(cells):
                if start <= place * self.per_prompt + number < stop:
                    yield cell


@functools.lru_cache(maxsize=2)
def _opened(root: str) -> RunDirectory:
    """A worker reads many shards of one run: it knows the receipts after the first."""
    return RunDirectory.open(root)


def images_of_run(run: RunDirectory, num_samples: int | None, what: str) -> RunImages:
    """The images of a run of prompts, whole rounds of them, all with pixels.

    Args:
        run: whose images.
        num_samples: how many; all that were asked for by default.
        what: is to judge them, for the line.

    Raises:
        UsageError: a run of classes, or not every prompt has the same number of images.
        IncompleteError: pixels are missing.
    """
    if run.manifest.prompts is None:
        raise UsageError(f"{run.root} is a run of classes: {what} needs prompts")
    prompts, count = len(run.manifest.prompts), num_samples or run.num_asked()
    if count % prompts:
        raise UsageError(f"{count} samples are no whole rounds of {prompts} prompts")
    run.slices(run.pixel_receipts(), 0, count, STORED_PIXELS)
    return RunImages(str(run.root.absolute()), run.manifest.plan_id, prompts, count)


def digest_of_pictures(files: Sequence[str], resolution: int | None = None) -> str:
    """SHA-256 of the files' bytes in their order, each a picture that can be judged.

    Their headers are looked at, so that one that cannot is named before any network is loaded.

    Args:
        files: paths.
        resolution: of grids, the side of one cell.

    Raises:
        DataError: a file is no picture, one that would be refused, named .png and none, or a grid
            of another size.
    """
    digest, reader = hashlib.sha256(), PictureReader(may_convert=False)
    for path in files:
        content = read_file(Path(path))
        header = reader.header(content, path)
        check_kind(Path(path), content)
        if resolution is not None:
            check_grid(header.size, resolution, path)
        digest.update(content)
    return digest.hexdigest()
