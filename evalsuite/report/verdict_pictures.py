"""The pictures that a page shows beside verdicts: of a run, or of a folder that was judged."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from evalsuite.artifacts.images import Images, encode_png
from evalsuite.artifacts.run_directory import RunDirectory
from evalsuite.errors import CorruptionError
from evalsuite.pipeline.judged_images import JudgedImages
from evalsuite.report.pictures import data_uris, is_crisp, thumbnail

_SIDE = 256
"""Longest of the files beside a page."""
_IMAGE_BYTES = 1_500_000
"""Of all pictures on the page itself."""


class Stored(Protocol):
    """Images that were judged."""

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the first."""
        ...

    def find(self, indices: Sequence[int]) -> Mapping[int, Images]:
        """Those of the images that are there, uint8 [H,W,3], by index."""
        ...


class OfRun(NamedTuple):
    """A run's."""

    run: RunDirectory

    @property
    def size(self) -> tuple[int, int]:
        """The plan's."""
        return self.run.plan.size

    def find(self, indices: Sequence[int]) -> dict[int, Images]:
        """Each shard is read once."""
        return dict(self.run.find_images(indices))


class OfFolder(NamedTuple):
    """A folder's."""

    images: JudgedImages

    @property
    def size(self) -> tuple[int, int]:
        """Of its first image."""
        height, width = self.find([0])[0].shape[:2]
        return height, width

    def find(self, indices: Sequence[int]) -> dict[int, Images]:
        """Each file is read by itself."""
        return {index: next(self.images.read(index, index + 1)) for index in indices}


class Pictures(NamedTuple):
    """Of images that are stored, what stands on a page and beside it.

    Attributes:
        stored: the images.
        where: their place, for errors.
        folder: beside the page, for files.
    """

    stored: Stored
    where: str
    folder: str

    def uris(self, indices: Sequence[int]) -> dict[int, str]:
        """Data URIs by index; small where they are many.

        Raises:
            CorruptionError: pixels are gone.
        """
        wanted = sorted(set(indices))
        images = self.stored.find(wanted)
        self._check_there(wanted, images)
        uris, _ = data_uris([images[i] for i in wanted], _IMAGE_BYTES)
        return dict(zip(wanted, uris, strict=True))

    def files(self, indices: Sequence[int]) -> dict[int, tuple[str, bytes]]:
        """Path beside the page and content, by index.

        Raises:
            CorruptionError: pixels are gone.
        """
        found, suffix = {}, "png" if is_crisp(self.stored.size) else "jpg"
        for index, image in self.stored.find(indices).items():
            content = encode_png(image) if suffix == "png" else thumbnail(image, _SIDE)
            found[index] = (f"{self.folder}/{index:06d}.{suffix}", content)
        self._check_there(indices, found)
        return found

    def _check_there(self, wanted: Sequence[int], found: Mapping[int, object]) -> None:
        gone = set(wanted) - found.keys()
        if gone:
            raise CorruptionError(
                f"{self.where}: sample {min(gone)} was judged, but its pixels are gone"
            )
