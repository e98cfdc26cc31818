"""What a section gives: its HTML and the files beside the page that the HTML shows."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from markupsafe import Markup

from evalsuite.report.loaded import LoadedRun


@dataclass(frozen=True)
class Part:
    """A section's content.

    Attributes:
        html: what stands below its heading.
        files: content by path relative to the page, with forward slashes; each begins with the
            section's name, such as `samples/0000.jpg`.
    """

    html: Markup
    files: Mapping[str, bytes] = field(default_factory=dict)


class Section(NamedTuple):
    """One section of a report.

    Attributes:
        name: its anchor, a word.
        title: its heading.
        make: its content; None leaves it out.
    """

    name: str
    title: str
    make: Callable[[LoadedRun], Part | None]
