"""Both backends on the same files, side by side: TensorFlow with ADM's graph, and ours.

Legend: N samples, M reference images.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from evalsuite.artifacts.features import FeatureTable
from evalsuite.artifacts.references import Reference, open_reference
from evalsuite.artifacts.samples import SampleSet, open_samples
from evalsuite.config import ExtractorSpec, ProtocolSpec, SelftestSpec, load_spec
from evalsuite.errors import DataError
from evalsuite.features.tensorflow_graph.client import TensorFlowGraph
from evalsuite.metrics.registry import compute_metrics
from evalsuite.metrics.values import ReferenceData, SampleData
from evalsuite.pipeline.embedding import Embedded, embed
from evalsuite.pipeline.evaluation import score_samples
from evalsuite.pipeline.measure import Measure, check
from evalsuite.pipeline.plan import with_weights
from evalsuite.pipeline.reference_data import PreparedReference, prepare_reference
from evalsuite.pipeline.scoring import all_threads
from evalsuite.pipeline.worker import check_extractor_weights

RELATIVE = {"fid": 5e-5, "sfid": 5e-5, "inception_score": 5e-6}
"""Largest relative difference of metrics from two float32 networks; that of ADM's
`sqrtm` of singular covariances alone is 6e-6 of FID."""
FEATURES = 2e-4
"""Largest absolute difference of a feature."""
SHARES = 3
"""Images by which a share may differ: float16 ties fall either way."""
_MANIFOLD = ("precision", "recall")


class ParityRow(NamedTuple):
    """A metric by both backends; `tolerance` is None where the two are not meant to agree."""

    metric: str
    tensorflow: float
    torch: float
    tolerance: float | None

    @property
    def agrees(self) -> bool:
        """Within the tolerance; two undefined values agree."""
        if np.isnan(self.tensorflow) and np.isnan(self.torch):
            return True
        return self.tolerance is None or abs(self.tensorflow - self.torch) <= self.tolerance


class Parity(NamedTuple):
    """Metrics and features by both backends."""

    rows: list[ParityRow]
    feature_rows: list[ParityRow]
    """Largest absolute difference of each kind of feature, in the column `torch`."""
    versions: Mapping[str, object]

    @property
    def agrees(self) -> bool:
        """Whether everything that is meant to agree does."""
        return all(row.agrees for row in (*self.rows, *self.feature_rows))


def score_files(
    samples: Path, reference: Path, graph: Path, spec: SelftestSpec, device: torch.device
) -> dict[str, float]:
    """The expected metrics of a self-test's files, by its protocol.

    Raises:
        DataError: files that cannot be evaluated.
    """
    extractor = with_weights(load_spec(ExtractorSpec, spec.extractor), graph)
    protocol = load_spec(ProtocolSpec, spec.protocol)
    metrics = list(spec.expected.by_metric)
    measure = Measure(extractor, open_reference(str(reference)), metrics, device, protocol)
    opened = open_samples(samples)
    if opened.num_images != spec.num_samples:
        raise DataError(
            f"{samples} holds {opened.num_images} images, the self-test {spec.name} is of"
            f" {spec.num_samples}"
        )
    scored = score_samples(opened, [measure])
    return {
        one.record.metric: float("nan") if one.record.value is None else one.record.value
        for one in scored
    }


def parity(
    samples: SampleSet,
    reference: Reference,
    spec: ExtractorSpec,
    device: torch.device,
    num_samples: int,
    decoders: int = 1,
) -> Parity:
    """Evaluate the same images by both backends, and compare features and metrics.

    TensorFlow computes features of samples and reference by its own graph, and precision and
    recall by its own float16 kernels. What follows from features in float64 (Frechet distances, the
    Inception Score) is computed by the same code for both.

    Raises:
        DataError: images or reference that cannot be used.
        EnvironmentProblem: TensorFlow is not installed.
    """
    protocol = load_spec(ProtocolSpec, "adm")
    names = [name for name in protocol.metrics if reference.images or name not in _MANIFOLD]
    ours = Measure(spec, reference, names, device, protocol)
    theirs = ours._replace(backend="tensorflow")
    check(ours, num_samples)
    tables, references, values = [], [], []
    for measure in (theirs, ours):
        prepared = prepare_reference(measure, decoders)
        assert prepared is not None
        embedded = embed(samples, num_samples, spec, device, measure.backend, decoders)
        tables.append(embedded)
        references.append(prepared)
        values.append(_values(measure, embedded, prepared, names))
    single = {}
    if reference.images:
        single = _values(_in_float32(ours), tables[1], references[1], list(_MANIFOLD))
    with TensorFlowGraph(check_extractor_weights(spec), use_gpu=device.type == "cuda") as process:
        versions = process.versions()
        if reference.images:
            features_MD = references[0].data.features_MD
            assert features_MD is not None
            found = process.precision_recall(features_MD, tables[0].table.pool_ND)
            values[0] |= {"precision": found.precision, "recall": found.recall}
    count_M = reference.images.num_images if reference.images else 0
    counts = {"precision": num_samples, "recall": count_M}
    rows = [_row(name, values[0][name], values[1][name], counts) for name in names]
    rows += [
        ParityRow(f"{name} (float32)", values[0][name], value, None)
        for name, value in single.items()
    ]
    return Parity(rows, _feature_rows(tables[0].table, tables[1].table), versions)


def _values(
    measure: Measure, embedded: Embedded, prepared: PreparedReference, names: list[str]
) -> dict[str, float]:
    table = embedded.table
    data = SampleData(table.pool_ND, table.spatial_NP, table.probabilities_NK)
    reference: ReferenceData = prepared.data
    with all_threads():
        found = compute_metrics(names, data, reference, measure.protocol, str(measure.device))
    return {name: value.value for name, value in found.items()}


def _in_float32(measure: Measure) -> Measure:
    return measure._replace(protocol=load_spec(ProtocolSpec, "adm-float32"))


def _row(name: str, theirs: float, ours: float, counts: Mapping[str, int]) -> ParityRow:
    if name in counts:
        return ParityRow(name, theirs, ours, SHARES / counts[name] + 1e-12)
    return ParityRow(name, theirs, ours, RELATIVE[name] * abs(theirs))


def _feature_rows(theirs: FeatureTable, ours: FeatureTable) -> list[ParityRow]:
    rows = []
    for name, a, b in zip(("pool", "spatial", "probabilities"), theirs[1:], ours[1:], strict=True):
        if a is not None and b is not None:
            furthest = float(np.abs(a - b).max(initial=0.0))
            rows.append(ParityRow(name, 0.0, furthest, FEATURES))
    return rows
