"""References as YAML names them: what real data they hold, where it is, and what to know of it."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from evalsuite.config.base import Frozen, Scalar, Sha256, Size
from evalsuite.config.presets import FilePlace


class ReferenceImages(Frozen):
    """The images that a reference holds."""

    count: int | None = Field(default=None, ge=0)
    """None where nobody says."""
    size: Size
    images_sha256: Sha256 | None = None
    """Of the uint8 pixels in their order; None where nobody has computed it."""


class ReferenceFeatures(Frozen):
    """Features of the images, beside the reference in a file of their own."""

    file: str
    sha256: Sha256


class ReferenceSpec(Frozen):
    """A reference: what it is, where its file is, where it came from, and its traps."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    description: str
    file: str | None = None
    """Relative to the YAML file; None where it is to be fetched."""
    places: tuple[FilePlace, ...] = ()
    sha256: Sha256 | None = None
    """Of the file; None where nobody has published it."""
    layout: Literal["npz", "pickle"] = "npz"
    """`pickle`: the dictionaries of arrays of EDM and EDM2, never unpickled freely."""
    part: str | None = None
    """Which of the statistics of a pickle these are, such as `fd_dinov2`."""
    size: Size | None = None
    """Of the images that it is meant for."""
    images: ReferenceImages | None = None
    """None where it holds statistics only."""
    statistics_count: int | None = Field(default=None, ge=2)
    """Images behind the stored moments; None where nobody says."""
    features: ReferenceFeatures | None = None
    extractor: str | None = None
    """Whose features the moments are of; None where it holds images only."""
    extractor_id: str | None = None
    """Name and hash of all that decides its features, see `ExtractorSpec.extractor_id`; None where
    another program made them."""
    extractor_sha256: Sha256 | None = None
    protocols: tuple[str, ...] = ()
    """Named protocols that it belongs to."""
    coarse: str | None = None
    """Said beside every number that is made from its images: why that is coarse."""
    traps: tuple[str, ...] = ()
    """What has misled people; the first is the most important."""
    source: str
    preprocessing: str
    split: str | None = None
    program: str
    not_comparable_with: str
    build: dict[str, Scalar | dict[str, Scalar]] | None = None
    """What `references build` noted."""
    path: Path = Field(exclude=True)

    @model_validator(mode="after")
    def _has_a_file(self) -> Self:
        if self.file is None and not self.places:
            raise ValueError("a reference needs a file or places")
        if self.file is not None and self.sha256 is None:
            raise ValueError("a file needs its sha256")
        if any(place.sha256 not in {None, self.sha256} for place in self.places):
            raise ValueError("the sha256 of a place is not that of the reference")
        if self.part is not None and self.layout != "pickle":
            raise ValueError("only a pickle has parts")
        return self

    @property
    def pinned_places(self) -> tuple[FilePlace, ...]:
        """The places, each with the digest of the file where it is known."""
        return tuple(p.model_copy(update={"sha256": self.sha256}) for p in self.places)
