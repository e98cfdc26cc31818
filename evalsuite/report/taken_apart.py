"""A distance taken apart by sample and by class, from the influence values beside its record.

Legend: N samples.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evalsuite.artifacts.records import Record
from evalsuite.artifacts.run_directory import RunDirectory
from evalsuite.metrics.decomposition import ClassShare, decompose_by_class
from evalsuite.pipeline.comparison import influence_of
from evalsuite.seeding import labels_of


class TakenApart(NamedTuple):
    """One record with what each sample and each class does to it.

    Attributes:
        record: of a Fréchet distance.
        influence_N: float64 [N]; above 0 the sample pushes the distance up.
        labels_N: int64 [N].
        shares: of every class that has samples, by label.
    """

    record: Record
    influence_N: NDArray[np.float64]
    labels_N: NDArray[np.int64]
    shares: list[ClassShare]

    def order(self) -> NDArray[np.int64]:
        """Samples by influence, what costs most first; at equal values the lower index first."""
        return np.argsort(-self.influence_N, kind="stable").astype(np.int64)


def take_apart(run: RunDirectory, records: Sequence[Record]) -> TakenApart | None:
    """The first record of the most samples that has influence values; None where none has.

    Raises:
        CorruptionError: the values are not those of their record.
    """
    for record in sorted(records, key=lambda one: -one.protocol.num_samples):
        influence_N = None if record.value is None else influence_of(run, record)
        if record.value is not None and influence_N is not None:
            labels = labels_of(run.plan, 0, len(influence_N), run.manifest.file_labels)
            labels_N = np.array(labels, dtype=np.int64)
            shares = decompose_by_class(record.value, influence_N, labels_N)
            return TakenApart(record, influence_N, labels_N, shares)
    return None
