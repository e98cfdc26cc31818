"""A run in a notebook: `evalsuite.load_run` gives its numbers, samples and images."""

import html
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from evalsuite.artifacts.receipts import NO_END, cover
from evalsuite.artifacts.records import UNSEALED, Protocol, Record
from evalsuite.artifacts.run_directory import IMAGES, RunDirectory
from evalsuite.artifacts.single_images import SingleImages
from evalsuite.artifacts.storage import Place
from evalsuite.config import Plan
from evalsuite.errors import UsageError, nearest
from evalsuite.pipeline.comparison import influence_of
from evalsuite.pipeline.comparison_inputs import records_of_run, tags_of
from evalsuite.report.summary import number
from evalsuite.sampling.describe import describe_conditions, describe_sampler
from evalsuite.seeding import labels_of, seeds_of

if TYPE_CHECKING:
    from pathlib import Path


def load_run(path: "str | Path") -> "OpenedRun":
    """A run directory, local or in an object store, to be looked at; nothing is written.

    What is asked is read when it is asked. Numbers are those of the records, samples those that are
    committed when they are first asked for.

    Raises:
        UsageError: there is no run.
        CorruptionError: its manifest cannot be read.
    """
    return OpenedRun(RunDirectory.open(path))


class OpenedRun:
    """One run: `metrics`, `records`, `protocols`, `plan`, `samples`, `images`."""

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._single = SingleImages(run)
        self._records: Records | None = None
        self._samples: pa.Table | None = None

    @property
    def root(self) -> Place:
        """Where it lies."""
        return self._run.root

    @property
    def model(self) -> str:
        """Name of its preset."""
        return self._run.manifest.model

    @property
    def plan(self) -> Plan:
        """Everything that decided its pixels."""
        return self._run.plan

    @property
    def tags(self) -> dict[str, str]:
        """Of its invocations; later ones win."""
        return tags_of(self._run)

    @property
    def records(self) -> "Records":
        """All results, in the registry's order, the largest number of samples first.

        Raises:
            CorruptionError: a record cannot be read, or was edited.
        """
        if self._records is None:
            self._records = Records(records_of_run(self._run))
        return self._records

    @property
    def metrics(self) -> "Metrics":
        """Results by metric, of the largest number of samples; `metrics["fid"].value`.

        Names are `PROTOCOL:METRIC` where the results are of several named protocols. Results that
        would share a name are `NAME@REFERENCE`, and where that is not enough
        `NAME@REFERENCE@PROTOCOL_ID`.
        """
        return self.metrics_of(max((r.protocol.num_samples for r in self.records), default=0))

    def metrics_of(self, num_samples: int) -> "Metrics":
        """Results over the first `num_samples` samples, by metric.

        Raises:
            UsageError: none was scored of so many.
        """
        found = [r for r in self.records if r.protocol.num_samples == num_samples]
        if self.records and not found:
            counts = sorted({r.protocol.num_samples for r in self.records})
            raise UsageError(
                f"{self.root} has no results of {num_samples} samples; it has"
                f" {', '.join(map(str, counts))}"
            )
        return Metrics(found)

    @property
    def protocols(self) -> dict[str, Protocol]:
        """What each of `metrics` may be compared by."""
        return {name: record.protocol for name, record in self.metrics.items()}

    @property
    def samples(self) -> pa.Table:
        """A row for each committed sample, in order; `.to_pandas()` where pandas is installed.

        Columns: sample_index, seed, label, class_name or prompt where they have one, pixel_sha256,
        and whether the pixels were kept.
        """
        if self._samples is None:
            self._samples = self._table()
        return self._samples

    @property
    def images(self) -> "OpenedImages":
        """Images by sample index, decoded when they are asked for."""
        return OpenedImages(self._single)

    def image(self, sample_index: int) -> Image.Image:
        """The image of a sample.

        Raises:
            IndexError: the run has no such sample.
            IncompleteError: its pixels were not kept.
            CorruptionError: the stored pixels are not the recorded ones.
        """
        return self.images[sample_index]

    def influence(self, metric: str = "fid") -> NDArray[np.float64]:
        """float64 [N]: influence of each sample on one of `metrics`; a positive one raises it.

        Raises:
            KeyError: there is no such result.
            UsageError: it has no influence values.
        """
        found = influence_of(self._run, self.metrics[metric])
        if found is None:
            raise UsageError(f"{self.root} keeps no influence of single samples on {metric}")
        return found

    def __repr__(self) -> str:
        return f"<run {self.root} of {self.model}: {self.metrics!r}>"

    def _repr_html_(self) -> str:
        said = "; ".join((*describe_sampler(self.plan), describe_conditions(self.plan)))
        facts = {"run": str(self.root), "model": self.model, "plan": self.plan.plan_id[:12]}
        lines = "".join(
            f"<dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd>"
            for name, text in {**facts, "settings": said}.items()
        )
        return f"<dl>{lines}</dl>{self.records._repr_html_()}"

    def _table(self) -> pa.Table:
        plan, manifest = self.plan, self._run.manifest
        columns: dict[str, list[object]] = {
            name: [] for name in ("sample_index", "seed", "label", "pixel_sha256", "kept")
        }
        for part in cover(self._run.receipts(IMAGES), 0, NO_END):
            low = part.start - part.receipt.start
            rows = {
                "sample_index": range(part.start, part.stop),
                "seed": seeds_of(plan, part.start, part.stop),
                "label": labels_of(plan, part.start, part.stop, manifest.file_labels),
                "pixel_sha256": part.receipt.pixel_sha256[low : low + part.stop - part.start],
            }
            for name, values in rows.items():
                columns[name] += values
        kept = set(self._single.kept())
        columns["kept"] = [index in kept for index in columns["sample_index"]]
        names = manifest.prompts or manifest.class_names
        if names is not None:
            called = "prompt" if manifest.prompts else "class_name"
            columns[called] = [names[int(str(label))] for label in columns["label"]]
        whole = dict.fromkeys(("sample_index", "seed", "label"), pa.int64())
        kinds = {**whole, "kept": pa.bool_()}
        arrays = {k: pa.array(v, kinds.get(k, pa.string())) for k, v in columns.items()}
        return pa.table(arrays)


class Records(tuple[Record, ...]):
    """Results, shown as a table in a notebook."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        rows = "".join(_row(record) for record in self)
        head = "".join(
            f"<th>{text}</th>" for text in ("metric", "value", "± error", "protocol", "reference")
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


class Metrics(Mapping[str, Record]):
    """Results by the names of their metrics."""

    def __init__(self, records: Sequence[Record]) -> None:
        self._found = dict(zip(_names(records), records, strict=True))

    def __getitem__(self, name: str) -> Record:
        if name not in self._found:
            raise KeyError(f"no result {name!r}: {nearest(name, self._found)}")
        return self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def __repr__(self) -> str:
        shown = (f"{name} {measured(record)}" for name, record in self._found.items())
        return ", ".join(shown) or "no results"

    def _repr_html_(self) -> str:
        return Records(self._found.values())._repr_html_()


class OpenedImages:
    """Images of a run by sample index; iterating gives those that were kept, in order."""

    def __init__(self, single: SingleImages) -> None:
        self._single = single

    @property
    def indices(self) -> list[int]:
        """Samples whose pixels were kept."""
        return self._single.kept()

    @overload
    def __getitem__(self, index: int) -> Image.Image: ...

    @overload
    def __getitem__(self, index: slice) -> list[Image.Image]: ...

    def __getitem__(self, index: int | slice) -> Image.Image | list[Image.Image]:
        """The image of a sample index, or of those of a slice that were kept.

        Raises:
            IndexError: the run has no such sample.
            IncompleteError: the pixels of that sample were not kept.
            CorruptionError: the stored pixels are not the recorded ones.
        """
        if isinstance(index, slice):
            kept = self.indices
            wanted = set(range(*index.indices(kept[-1] + 1 if kept else 0)))
            return [self[one] for one in kept if one in wanted]
        if not 0 <= index < self._single.stop:
            raise IndexError(
                f"sample index {index} is out of range: the run has {self._single.stop} samples,"
                " which are counted from 0"
            )
        return Image.fromarray(self._single.read(index))

    def __len__(self) -> int:
        """How many were kept."""
        return len(self.indices)

    def __iter__(self) -> Iterator[Image.Image]:
        return (self[index] for index in self._single.kept())


def measured(record: Record) -> str:
    """`0.4227 ± 0.0260`, and where the record has no hash that it has none."""
    error = record.standard_error
    shown = number(record.value) + ("" if error is None else f" ± {number(error)}")
    return shown if record.is_sealed else f"{shown} ({UNSEALED})"


def _names(records: Sequence[Record]) -> list[str]:
    """A name for each result, as short as it can be without being another's."""
    several = len({record.protocol_name for record in records}) > 1
    names = [f"{r.protocol_name}:{r.metric}" if several else r.metric for r in records]
    for parts in ([r.reference for r in records], [r.protocol_id for r in records]):
        counts = Counter(names)
        names = [
            f"{name}@{part}" if part and counts[name] > 1 else name
            for name, part in zip(names, parts, strict=True)
        ]
    return names


def _row(record: Record) -> str:
    error = "" if record.standard_error is None else number(record.standard_error)
    cells = (
        record.display,
        number(record.value) + ("" if record.is_sealed else f" ({UNSEALED})"),
        error,
        f"{record.protocol_name or ''} {record.protocol_id}".strip(),
        record.reference or "",
    )
    said = "; ".join(record.notes)
    title = f' title="{html.escape(said)}"' if said else ""
    return f"<tr{title}>{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}</tr>"
