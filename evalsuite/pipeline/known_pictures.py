"""Photographs on which a detector is tested before it judges: the shipped one, or a person's own.

Of random or broken weights the scores look like scores: only a picture of something tells.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evalsuite.artifacts.samples.folder import read_file
from evalsuite.artifacts.samples.pictures import PictureReader
from evalsuite.config import BenchmarkSpec, load_spec
from evalsuite.errors import CorruptionError, EnvironmentProblem, UsageError
from evalsuite.t2i.detections import Detector
from evalsuite.t2i.detector_checks import found_instead

NO_PICTURE = "none"
"""What is given for no test; the score then says so."""
_OPTION = "--known-picture"


@dataclass(frozen=True)
class KnownPicture:
    """A photograph that shows what a detector must find; it travels to workers with its bytes."""

    name: str
    content: bytes = field(repr=False)
    expected: tuple[str, ...]
    """Class names of the objects that are found best, one for each object."""
    threshold: float
    """What each must score at least: the threshold of the scoring."""

    @property
    def about(self) -> dict[str, Any]:
        """What a file of verdicts says of it."""
        return {
            "picture": self.name,
            "sha256": hashlib.sha256(self.content).hexdigest(),
            "found": sorted(self.expected),
            "threshold": self.threshold,
        }

    def check(self, detector: Detector) -> None:
        """Raise EnvironmentProblem unless they are found."""
        image = _READER.decode(self.content, self.name)
        instead = found_instead(detector, image, self.expected, self.threshold)
        if instead is not None:
            raise EnvironmentProblem(
                f"the detector fails its self-test: on a picture of {', '.join(self.expected)}"
                f" ({self.name}) it finds {instead}, at a threshold of {self.threshold:g}: its"
                " weights, --object-names or its kernels are wrong, and so would every score be;"
                f" give the right ones; with {_OPTION} {NO_PICTURE} the score says that it was not"
                " tested"
            )


_READER = PictureReader(may_convert=False)


def known_picture(
    text: str | None, spec: BenchmarkSpec, names: Sequence[str], threshold: float
) -> KnownPicture | None:
    """What `--known-picture` stands for: None for `none`, the benchmark's own without it.

    Args:
        text: of the option.
        spec: the benchmark; GenEval's picture is taken where it has none.
        names: the detector's classes.
        threshold: of the scoring.

    Raises:
        UsageError: it has no such form, there is no such file, or a class is unknown.
        DataError: the file is no picture, or not the one that came with the benchmark.
    """
    if text == NO_PICTURE:
        return None
    return _shipped(spec, names, threshold) if text is None else _own(text, names, threshold)


def _shipped(spec: BenchmarkSpec, names: Sequence[str], threshold: float) -> KnownPicture:
    if spec.known_picture is None:
        spec = load_spec(BenchmarkSpec, "geneval")
    shipped = spec.known_picture
    assert shipped is not None
    path = spec.path.parent / shipped.file
    unknown = sorted(set(shipped.objects) - set(names))
    if unknown:
        raise UsageError(
            f"the detector is tested on a picture of {unknown[0]}, which --object-names does not"
            f" name: give {_OPTION} FILE=CLASS of another, or {_OPTION} {NO_PICTURE}"
        )
    picture = KnownPicture(shipped.file, read_file(path), shipped.objects, threshold)
    if picture.about["sha256"] != shipped.sha256:
        raise CorruptionError(
            f"{path} is not the picture that {spec.path} names by its SHA-256: put that one there"
        )
    return picture


def _own(text: str, names: Sequence[str], threshold: float) -> KnownPicture:
    """`photo.jpg=cat,cat,tv remote`."""
    given, equals, listed = text.rpartition("=")
    expected = tuple(word.strip() for word in listed.split(",") if word.strip())
    if not equals or not given or not expected:
        raise UsageError(f"{_OPTION} {text!r} is not FILE=CLASS[,CLASS...], or {NO_PICTURE}")
    unknown = sorted(set(expected) - set(names))
    if unknown:
        raise UsageError(f"{_OPTION}: {unknown[0]!r} is no class of --object-names")
    path = Path(given)
    if not path.is_file():
        raise UsageError(f"{_OPTION}: {path} is no file")
    content = read_file(path)
    _READER.header(content, str(path))
    return KnownPicture(path.name, content, expected, threshold)
