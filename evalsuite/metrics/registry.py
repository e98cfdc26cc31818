"""The metrics by name: what each needs, how it is computed, its fields of a protocol."""

from collections.abc import Sequence

from evalsuite.config import ProtocolSpec
from evalsuite.errors import DataError, UsageError, nearest
from evalsuite.metrics.frechet_metrics import (
    fid,
    fid_infinity,
    infinity_fields,
    infinity_least,
    sfid,
)
from evalsuite.metrics.kernel_entries import cmmd_metric, kid, kid_fields, kid_least
from evalsuite.metrics.manifold_entries import neighbour_fields, neighbour_least, share
from evalsuite.metrics.score_metrics import inception_score, split_fields, split_least
from evalsuite.metrics.values import (
    Computation,
    MetricSpec,
    MetricValue,
    ReferenceData,
    SampleData,
    present,
)

_PER_SAMPLE = {"pool": "pool_ND", "spatial": "spatial_NP", "probabilities": "probabilities_NK"}
_PER_REFERENCE = {
    "reference_pool": "pool",
    "reference_spatial": "spatial",
    "reference_features": "features_MD",
}


def compute_metrics(
    names: Sequence[str],
    samples: SampleData,
    reference: ReferenceData | None,
    protocol: ProtocolSpec,
    device: str = "cpu",
) -> dict[str, MetricValue]:
    """Compute metrics in the given order; what they share is computed once.

    Args:
        names: keys of `METRICS`.
        samples: features of N samples.
        reference: what the metrics compare with; None when none of them compares.
        protocol: arithmetic, splits and neighbours.
        device: torch device for distances between features.

    Raises:
        UsageError: a name that is not in `METRICS`.
        DataError: an input is missing, has too few samples, or has values that no metric can use.
        ValueError: inputs whose numbers of samples differ.
    """
    for name in names:
        if name not in METRICS:
            raise UsageError(f"there is no metric {name!r}, {nearest(name, METRICS)}")
        _check_inputs(METRICS[name], samples, reference, protocol)
    work = Computation(samples, reference, protocol, device)
    return {name: METRICS[name].compute(work) for name in dict.fromkeys(names)}


def _check_inputs(
    spec: MetricSpec,
    samples: SampleData,
    reference: ReferenceData | None,
    protocol: ProtocolSpec,
) -> None:
    for need in sorted(spec.needs):
        if need in _PER_SAMPLE:
            found = getattr(samples, _PER_SAMPLE[need])
        else:
            found = reference and getattr(reference, _PER_REFERENCE[need])
        if found is None:
            raise DataError(f"{spec.display} needs {need}, which is missing")
    sizes = {
        need: len(getattr(samples, field))
        for need, field in _PER_SAMPLE.items()
        if need in spec.needs
    }
    if samples.strata_N is not None:
        sizes["strata"] = len(samples.strata_N)
    if len(set(sizes.values())) != 1:
        raise ValueError(f"inputs have different numbers of samples: {sizes}")
    images_MD = reference.features_MD if reference else None
    used = images_MD is not None and "reference_features" in spec.needs
    least = spec.least(protocol, samples.pool_ND.shape[-1])
    least.check(spec.name, min(sizes.values()), len(present(images_MD)) if used else None)


_WITH_NEIGHBOURS = frozenset({"pool", "reference_features"})

METRICS: dict[str, MetricSpec] = {
    spec.name: spec
    for spec in (
        MetricSpec("fid", "FID", "lower", frozenset({"pool", "reference_pool"}), fid),
        MetricSpec("sfid", "sFID", "lower", frozenset({"spatial", "reference_spatial"}), sfid),
        MetricSpec(
            "inception_score",
            "IS",
            "higher",
            frozenset({"probabilities"}),
            inception_score,
            split_fields,
            split_least,
        ),
        *(
            MetricSpec(
                name,
                display,
                "higher",
                _WITH_NEIGHBOURS,
                share(name),
                neighbour_fields,
                neighbour_least,
            )
            for name, display in (
                ("precision", "Precision"),
                ("recall", "Recall"),
                ("density", "Density"),
                ("coverage", "Coverage"),
            )
        ),
        MetricSpec("kid", "KID", "lower", _WITH_NEIGHBOURS, kid, kid_fields, kid_least),
        MetricSpec(
            "fid_infinity",
            "FID-infinity",
            "lower",
            frozenset({"pool", "reference_pool"}),
            fid_infinity,
            infinity_fields,
            infinity_least,
        ),
        MetricSpec("cmmd", "CMMD", "lower", _WITH_NEIGHBOURS, cmmd_metric),
    )
}
