"""What a detector finds, and the small interfaces by which detectors and classifiers plug in.

Legend: N found objects, H height, W width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from evalsuite.artifacts.images import Images
from evalsuite.errors import DataError

Box = tuple[float, float, float, float]
"""(x1, y1, x2, y2) in pixels of the image; the right and the bottom edge are exclusive."""
FARTHEST = 1e9
"""Pixels that an edge may be from the first one, either way; float32 computes with them."""


@dataclass(frozen=True, eq=False)
class Detection:
    """One object that was found.

    Attributes:
        class_name: as the prompts name it; detectors map by index, never by name.
        box: see `Box`.
        score: of the detector, 0 to 1.
        mask: bool [H,W] over the whole image, None where the detector gives none.
    """

    class_name: str
    box: Box
    score: float
    mask: NDArray[np.bool_] | None = None


@dataclass(frozen=True, eq=False)
class Detections:
    """Everything that was found in one image, in the detector's order."""

    found: tuple[Detection, ...] = ()

    def checked(self, where: str, size: tuple[int, ...]) -> "Detections":
        """These, when their numbers are numbers and their masks are of an image of (H, W).

        Raises:
            DataError: a box or a score is NaN, infinite or nowhere near an image, or a mask is no
                bool [H,W].
        """
        for detection in self.found:
            if not all(abs(number) <= FARTHEST for number in (*detection.box, detection.score)):
                raise DataError(
                    f"{where}: the detector gave {detection.class_name} a box or a score that is"
                    f" NaN or infinite, or beyond {FARTHEST:g}: its weights or its kernels are"
                    " broken on this machine"
                )
            mask = detection.mask
            if mask is not None and (mask.dtype != np.bool_ or mask.shape != size):
                raise DataError(
                    f"{where}: the detector gave {detection.class_name} a mask of {mask.dtype}"
                    f" {mask.shape}, not of true and false for each pixel of {size}"
                )
        return self


class Detector(Protocol):
    """Finds objects; which one it is belongs to the protocol of every score."""

    def detect(self, images: Sequence[Images]) -> list[Detections]:
        """What is in each image, uint8 [H,W,3]; alone or in a batch, the same for each."""
        ...


class ColorClassifier(Protocol):
    """Names the colours of objects that were found."""

    def colors_of(
        self, image: Images, objects: Sequence[Detection], class_name: str
    ) -> tuple[str, ...]:
        """The colour of each object of one image, uint8 [H,W,3]."""
        ...


@dataclass(frozen=True)
class NoColors:
    """Stands where no prompt asks for a colour."""

    reason: str = field(default="no colour classifier was given")

    def colors_of(
        self,
        image: Images,  # noqa: ARG002
        objects: Sequence[Detection],  # noqa: ARG002
        class_name: str,
    ) -> tuple[str, ...]:
        """Refuse the question.

        Raises:
            DataError: always.
        """
        raise DataError(f"a prompt asks for the colour of {class_name}, but {self.reason}")
