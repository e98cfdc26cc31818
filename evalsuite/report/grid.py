"""Samples by class: the first of each, on the page for some classes, on sheets beside it for more.

Legend: H height, W width.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from PIL import Image

from evalsuite.artifacts.images import GRID_PER_CLASS, Images
from evalsuite.config import Plan
from evalsuite.report.loaded import LoadedRun
from evalsuite.report.pictures import Sheet, data_uris, is_crisp, reduced
from evalsuite.seeding import labels_of, seeds_of

GRID_CLASSES = 20
"""Classes whose samples stand on the page itself, and classes of a sheet."""
MOST_CLASSES = 1000
"""More classes are counted, not shown."""
_SCAN_PIXELS = 2**28
"""Most pixels of samples among which the first of each class are sought: 4,096 of 256 x 256."""
_IMAGE_BYTES = 1_500_000
"""Most bytes of all images on the page together, before base64."""
_SHEET_SIDE = 96
"""Longest side of larger images on sheets."""


class Thumbnail(NamedTuple):
    """One image of the grid and what it is."""

    uri: str
    text: str


class GridRow(NamedTuple):
    """The first kept samples of one class."""

    label: int
    name: str | None
    thumbnails: list[Thumbnail]


class SheetRow(NamedTuple):
    """A class on a sheet; `place` is where its row lies there."""

    label: int
    name: str | None
    text: str
    place: str


class ClassSheet(NamedTuple):
    """One file with a row of images, each (H, W), for each of some classes."""

    path: str
    rows: list[SheetRow]
    columns: int
    size: tuple[int, int]


class Grid(NamedTuple):
    """Samples by class.

    Attributes:
        rows: classes that stand on the page.
        sheets: further classes.
        files: the sheets' content by path.
        num_classes: classes or prompts that labels are drawn from.
        thumbnail_side: longest side of JPEG thumbnails; None when images are shown as they are.
    """

    rows: list[GridRow]
    sheets: list[ClassSheet]
    files: dict[str, bytes]
    num_classes: int
    thumbnail_side: int | None

    @property
    def num_shown(self) -> int:
        """Classes with an image."""
        return len(self.rows) + sum(len(sheet.rows) for sheet in self.sheets)


def sample_grid(run: LoadedRun, folder: str) -> Grid:
    """The first samples of each class whose pixels were kept.

    Args:
        run: whose samples are shown.
        folder: of the sheets, relative to the page.

    Raises:
        CorruptionError: stored pixels are not the recorded ones.
    """
    first = _first_of_each(run)
    labels = sorted(first)
    rows, side = _rows(run, {label: first[label] for label in labels[:GRID_CLASSES]})
    rest = labels[GRID_CLASSES:MOST_CLASSES]
    groups = [rest[at : at + GRID_CLASSES] for at in range(0, len(rest), GRID_CLASSES)]
    sheets = [_Filled(run, {label: first[label] for label in group}) for group in groups]
    _fill(run, sheets)
    paths = [f"{folder}/{place:04d}.{one.sheet.suffix}" for place, one in enumerate(sheets)]
    return Grid(
        rows,
        [one.described(path) for path, one in zip(paths, sheets, strict=True)],
        {path: one.sheet.encode() for path, one in zip(paths, sheets, strict=True)},
        len(run.plan.label_classes),
        side,
    )


class _Filled:
    """A sheet of some classes and which sample goes where."""

    def __init__(self, run: LoadedRun, shown: Mapping[int, Sequence[int]]) -> None:
        self._run, self._shown = run, shown
        size = _size_on_sheet(run.plan.size)
        self.sheet = Sheet(size, len(shown), max(map(len, shown.values())))
        self.places = {
            index: (row, column)
            for row, indices in enumerate(shown.values())
            for column, index in enumerate(indices)
        }

    def put(self, index: int, image: Images) -> None:
        """Draw one sample, reduced where it is larger."""
        size = self.sheet.size
        fits = image.shape[:2] == size
        self.sheet.put(*self.places[index], image if fits else reduced(image, max(size)))

    def described(self, path: str) -> ClassSheet:
        """The sheet with words for each row."""
        rows = [
            SheetRow(
                label,
                self._run.name_of(label),
                _listed(self._run, label, indices),
                self.sheet.place(row),
            )
            for row, (label, indices) in enumerate(self._shown.items())
        ]
        return ClassSheet(path, rows, self.sheet.num_columns, self.sheet.size)


def _fill(run: LoadedRun, sheets: Sequence[_Filled]) -> None:
    """Draw all sheets in one pass over the run, whose shards hold samples of many classes."""
    holder = {index: one for one in sheets for index in one.places}
    for index, image in run.run.find_images(holder):
        holder[index].put(index, image)


def describe_sample(run: LoadedRun, index: int, label: int) -> str:
    """`sample 7, label 7 (seven), seed 1007`."""
    name = run.name_of(label)
    named = f" ({name})" if name is not None else ""
    seed = seeds_of(run.plan, index, index + 1)[0]
    return f"sample {index}, {kind_of(run.plan)} {label}{named}, seed {seed}"


def kind_of(plan: Plan) -> str:
    """What a label is to the model."""
    return "prompt" if plan.text else "label"


def _first_of_each(run: LoadedRun) -> dict[int, list[int]]:
    """Indices of the first kept samples by label, within the part of the run that is searched."""
    height, width = run.plan.size
    stop = min(run.stop, max(run.plan.batch_size, _SCAN_PIXELS // (height * width)))
    labels = labels_of(run.plan, 0, stop, run.manifest.file_labels)
    found: dict[int, list[int]] = {}
    for index in run.run.kept_indices(stop):
        row = found.setdefault(labels[index], [])
        if len(row) < GRID_PER_CLASS:
            row.append(index)
    return found


def _rows(run: LoadedRun, shown: Mapping[int, Sequence[int]]) -> tuple[list[GridRow], int | None]:
    indices = [index for row in shown.values() for index in row]
    images = dict(run.run.find_images(indices))
    uris, side = data_uris([images[index] for index in indices], _IMAGE_BYTES)
    of_index = dict(zip(indices, uris, strict=True))
    rows = []
    for label, row in shown.items():
        cells = [Thumbnail(of_index[i], describe_sample(run, i, label)) for i in row]
        rows.append(GridRow(label, run.name_of(label), cells))
    return rows, side


def _size_on_sheet(size: tuple[int, int]) -> tuple[int, int]:
    """(H, W) of images on a sheet."""
    if is_crisp(size):
        return size
    picture = Image.new("L", (size[1], size[0]))
    picture.thumbnail((_SHEET_SIDE, _SHEET_SIDE))
    return picture.height, picture.width


def _listed(run: LoadedRun, label: int, indices: Sequence[int]) -> str:
    """What a row of a sheet shows, in words."""
    name = run.name_of(label)
    named = f" ({name})" if name is not None else ""
    return f"samples {', '.join(map(str, indices))} of {kind_of(run.plan)} {label}{named}"
