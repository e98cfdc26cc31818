"""What a reader of a report gets: its elements and texts, one section, the pixels of an image."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
from PIL import Image

from evalsuite.artifacts.run_directory import RunDirectory
from evalsuite.report.html import render_report

VOID = {"meta", "link", "img", "br"}
HOSTILE = "<script>alert(1)</script>"


class Page(HTMLParser):
    """What a reader of the page gets: texts by element, attributes, and whether tags balance."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        for tag in set(self._open):
            self.texts[tag][-1] += data

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self) -> str:
        return " ".join(self.texts["body"][0].replace(self.texts["script"][0], "").split())


def page_of(run: RunDirectory) -> Page:
    return Page(render_report(run))


def section(run: RunDirectory, name: str) -> Page:
    match = re.search(rf'<section id="{name}".*?</section>', render_report(run), re.DOTALL)
    assert match
    return Page(f"<body>{match[0]}<script></script></body>")


def decoded(attributes: dict[str, str | None]) -> np.ndarray:
    content = base64.b64decode((attributes["src"] or "").partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
