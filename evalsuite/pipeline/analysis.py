"""Where a number comes from: classes that push a metric up, and samples beside their neighbours.

Legend: N samples, M reference images, D feature dimensions, Q neighbours, H height, W width.
"""

import io
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evalsuite.artifacts.images import Images
from evalsuite.artifacts.records import Record
from evalsuite.artifacts.run_directory import STORED_PIXELS, RunDirectory, feature_stage
from evalsuite.artifacts.samples import SampleSet
from evalsuite.config import ModelPreset, load_spec, names_of
from evalsuite.errors import CorruptionError, DataError, UsageError
from evalsuite.errors import nearest as nearest_name
from evalsuite.metrics.authenticity import auth_pct
from evalsuite.metrics.decomposition import ClassShare, decompose_by_class
from evalsuite.metrics.neighbours import Neighbours, nearest
from evalsuite.metrics.registry import METRICS
from evalsuite.pipeline.comparison_inputs import records_of_run
from evalsuite.pipeline.embedding import check_size, embed_images
from evalsuite.pipeline.labels import first_names
from evalsuite.pipeline.measure import Measure
from evalsuite.pipeline.reference_data import prepare_reference
from evalsuite.seeding import labels_of

NEEDS_FEATURES = ("precision",)
"""A metric that needs features of the reference's images, as neighbours do."""


class ClassTable(NamedTuple):
    """One record's value, taken apart by class.

    Attributes:
        record: the value.
        shares: of every class that has samples, by label.
        names: of the classes by label, where they have any.
    """

    record: Record
    shares: tuple[ClassShare, ...]
    names: tuple[str, ...] | None

    def name_of(self, label: int) -> str:
        """Of a class; its number where it has none."""
        known = self.names is not None and label < len(self.names)
        return self.names[label] if known and self.names is not None else str(label)


class Neighbourhood(NamedTuple):
    """Chosen samples and the reference images that are nearest to them.

    Attributes:
        indices: of the samples.
        found: distances and reference rows of their neighbours.
        auth_pct: percentage of the chosen samples that are authentic; None of a single reference
            image.
        num_reference: M.
        notes: what a reader must know of the reference.
    """

    indices: tuple[int, ...]
    found: Neighbours
    auth_pct: float | None
    num_reference: int
    notes: tuple[str, ...]

    @property
    def num_copies(self) -> int:
        """Samples at distance 0 of a reference image."""
        return int((self.found.distances_NQ[:, 0] == 0).sum())


def records_of(run: RunDirectory) -> list[Record]:
    """See `comparison_inputs.records_of_run`."""
    return records_of_run(run)


def chosen_record(
    run: RunDirectory,
    metric: str,
    reference: str | None = None,
    protocol: str | None = None,
    num_samples: int | None = None,
) -> Record:
    """The one record of a metric that fits.

    Args:
        run: was evaluated.
        metric: `fid`, ...
        reference: its name, where records of several are there.
        protocol: likewise, by name or by the beginning of its id.
        num_samples: likewise.

    Raises:
        UsageError: no such metric, or none or several fit; the line lists what is there.
    """
    if metric not in METRICS:
        raise UsageError(f"unknown metric {metric!r}: {nearest_name(metric, METRICS)}")
    of_metric = [record for record in records_of(run) if record.metric == metric]
    fitting = [
        record
        for record in of_metric
        if reference in {None, record.reference}
        and (
            protocol in {None, record.protocol_name} or record.protocol_id.startswith(str(protocol))
        )
        and num_samples in {None, record.protocol.num_samples}
    ]
    if len(fitting) == 1:
        return fitting[0]
    listed = "; ".join(map(_described, fitting or of_metric))
    if fitting:
        raise UsageError(
            f"{run.root} has several records of {metric}: choose by --reference, --protocol or"
            f" --num-samples: {listed}"
        )
    raise UsageError(
        f"{run.root} has no such record of {metric}, it has: {listed}"
        if of_metric
        else f"{run.root} has no record of {metric}: give it to `evalsuite evaluate {run.root}"
        f" --metrics {metric}` first"
    )


def _described(record: Record) -> str:
    name = record.protocol_name or "no name"
    return f"{record.display} against {record.reference}, protocol {name} ({record.protocol_id})"


def class_table(run: RunDirectory, record: Record) -> ClassTable:
    """Shares of the classes in a record's value, by the influence values that lie beside it.

    Raises:
        DataError: the record has none.
        CorruptionError: they are not those of this record.
    """
    if record.value is None:
        raise DataError(f"{record.display} is undefined: {' '.join(record.notes)}")
    count = record.protocol.num_samples
    influence_N = _influence(run, record)
    labels_N = np.array(labels_of(run.plan, 0, count, run.manifest.file_labels), dtype=np.int64)
    shares = decompose_by_class(record.value, influence_N, labels_N)
    return ClassTable(record, tuple(shares), class_names_of(run))


def _influence(run: RunDirectory, record: Record) -> NDArray[np.float64]:
    path = record.influence_path
    if not run.storage.exists(path):
        raise DataError(
            f"{run.root}: {record.display} has no influence values, by which classes are told"
            " apart: fid, sfid and fid_infinity have them, from two samples per dimension on"
        )
    try:
        values: NDArray[Any] = np.load(io.BytesIO(run.storage.read(path)), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise CorruptionError(f"{run.root}/{path} cannot be read: evaluate again") from error
    if values.shape != (record.protocol.num_samples,) or values.dtype.kind != "f":
        raise CorruptionError(
            f"{run.root}/{path} does not hold the influence of {record.protocol.num_samples}"
            " samples: evaluate again"
        )
    return values.astype(np.float64)


def class_names_of(run: RunDirectory) -> tuple[str, ...] | None:
    """Names of a run's classes or its prompts, by label; None where nobody knows any."""
    manifest = run.manifest
    if manifest.prompts is not None or manifest.class_names is not None:
        return manifest.prompts or manifest.class_names
    if manifest.model in names_of(ModelPreset):
        return first_names(load_spec(ModelPreset, manifest.model))
    return None


def neighbourhood(
    features_ND: NDArray[np.float32], indices: Sequence[int], measure: Measure, num_nearest: int
) -> Neighbourhood:
    """Nearest reference images of chosen samples, and AuthPct of those samples.

    Args:
        features_ND: of the chosen samples.
        indices: of them, to be shown.
        measure: of `NEEDS_FEATURES`; its reference is embedded once on each machine.
        num_nearest: Q.

    Raises:
        DataError: a reference without images or with fewer than Q, or features that are NaN.
    """
    reference = measure.reference
    if reference is None or reference.images is None:
        name = reference.name if reference else "none"
        raise DataError(
            f"reference {name} holds no images, only statistics, but neighbours are images:"
            " choose another --reference"
        )
    prepared = prepare_reference(measure)
    assert prepared is not None
    features_MD = prepared.data.features_MD
    assert features_MD is not None
    found = nearest(features_ND, features_MD, num_nearest, measure.device)
    authentic = auth_pct(features_ND, features_MD, measure.device) if len(features_MD) > 1 else None
    return Neighbourhood(tuple(indices), found, authentic, len(features_MD), prepared.notes)


def features_of_run(
    run: RunDirectory, indices: Sequence[int], measure: Measure
) -> NDArray[np.float32]:
    """Features of chosen samples of a run: as committed, or from its stored pixels."""
    spec = measure.spec
    if run.spans(feature_stage(spec.extractor_id)):
        table = run.read_features(spec.extractor_id, max(indices) + 1)
        return table.pool_ND[list(indices)]
    return embed_images(images_of_run(run, indices), spec, measure.device).pool_ND


def features_of_samples(
    samples: SampleSet, indices: Sequence[int], measure: Measure
) -> NDArray[np.float32]:
    """Features of chosen images of someone else's samples.

    Raises:
        DataError: images that the extractor does not take.
    """
    check_size(samples, measure.spec)
    images_NHWC = chosen_images(samples, indices)
    return embed_images(images_NHWC, measure.spec, measure.device).pool_ND


def chosen_images(samples: SampleSet, indices: Sequence[int]) -> Images:
    """Images uint8 [N,H,W,3] by their places, in the order of `indices`.

    Raises:
        DataError: a place that is not there.
    """
    for index in indices:
        if index >= samples.num_images:
            raise DataError(
                f"{samples.where} holds images 0..{samples.num_images - 1}, there is no {index}"
            )
    wanted = sorted(set(indices))
    found: dict[int, Images] = {}
    for low, high in _spans(wanted, apart=samples.random_access):
        inside = set(wanted)
        for index, image in enumerate(itertools.chain.from_iterable(samples.read(low, high)), low):
            if index in inside:
                found[index] = image.copy()
    return np.stack([found[index] for index in indices])


def images_of_run(run: RunDirectory, indices: Sequence[int]) -> Images:
    """Stored pixels of chosen samples of a run.

    Raises:
        IncompleteError: their pixels were not kept.
    """
    found = dict(run.find_images(indices))
    for low, high in _spans(sorted(set(indices) - found.keys()), apart=True):
        run.slices(run.pixel_receipts(low, high), low, high, STORED_PIXELS)
    return np.stack([found[index] for index in indices])


def _spans(indices: Sequence[int], *, apart: bool) -> list[tuple[int, int]]:
    """Ranges that cover sorted places; a single one where reading from a place costs the way."""
    if not apart:
        return [(indices[0], indices[-1] + 1)]
    spans: list[tuple[int, int]] = []
    for index in indices:
        if spans and spans[-1][1] == index:
            spans[-1] = (spans[-1][0], index + 1)
        else:
            spans.append((index, index + 1))
    return spans
