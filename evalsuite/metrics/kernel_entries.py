"""KID and CMMD as metrics."""

from collections.abc import Mapping

from evalsuite.config import ProtocolSpec
from evalsuite.metrics.kernel_distance import (
    NUM_SUBSETS,
    SUBSET_SEED,
    SUBSET_SIZE,
    kernel_distance,
    kernel_distance_of_subsets,
    kid_reference,
)
from evalsuite.metrics.mmd import cmmd, cmmd_reference
from evalsuite.metrics.values import Computation, Detail, Least, MetricValue, error_of, present


def kid(work: Computation) -> MetricValue:
    """Kernel Inception Distance: over all pairs, or as the protocol's random subsets have it."""
    features_MD, device = present(work.reference.features_MD), str(work.device)
    found = kernel_distance(work.samples.pool_ND, kid_reference(features_MD, device=device), device)
    notes: list[str] = []
    error = error_of(found.influence_N, work.samples.strata_N, notes)
    if work.protocol.kid == "all_pairs":
        return MetricValue(found.value, error, None, tuple(notes), found.influence_N)
    subsets = kernel_distance_of_subsets(work.samples.pool_ND, features_MD, device=device)
    notes.append(
        f"mean over {NUM_SUBSETS} random subsets, whose standard deviation is"
        f" {subsets.std:.2g}; over all pairs it is {found.value:.6g}"
    )
    if error is not None:
        error = subsets.standard_error(error)
    return MetricValue(subsets.mean, error, None, tuple(notes))


def kid_fields(protocol: ProtocolSpec) -> Mapping[str, Detail]:
    """The estimator, and which subsets it draws."""
    if protocol.kid == "all_pairs":
        return {"estimator": protocol.kid}
    return {
        "estimator": protocol.kid,
        "subsets": NUM_SUBSETS,
        "subset_size": SUBSET_SIZE,
        "subset_seed": SUBSET_SEED,
    }


def kid_least(protocol: ProtocolSpec, dim: int) -> Least:  # noqa: ARG001
    """Two of both sets; or as many as a subset has."""
    if protocol.kid == "all_pairs":
        return Least()
    return Least(
        SUBSET_SIZE,
        SUBSET_SIZE,
        f", for the subsets of protocol {protocol.name}",
        "take more samples, or a protocol whose kid is over all pairs",
    )


def cmmd_metric(work: Computation) -> MetricValue:
    """CMMD of normalised embeddings."""
    features_MD, device = present(work.reference.features_MD), str(work.device)
    found = cmmd(work.samples.pool_ND, cmmd_reference(features_MD, device), device)
    notes: list[str] = []
    error = error_of(found.influence_N, work.samples.strata_N, notes)
    return MetricValue(found.value, error, None, tuple(notes), found.influence_N)
