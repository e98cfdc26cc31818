"""Feature shards: safetensors with `sample_index`, `pool`, `spatial` and `probabilities`.

Legend: N samples, D pooled width, P spatial width, K classes.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from evalsuite.errors import CorruptionError


class FeatureTable(NamedTuple):
    """Features of consecutive samples start, start + 1, ..., float32."""

    start: int
    pool_ND: NDArray[np.float32]
    spatial_NP: NDArray[np.float32] | None
    probabilities_NK: NDArray[np.float32] | None

    def rows(self, start: int, stop: int) -> "FeatureTable":
        """The rows of samples start..stop-1."""
        low, high = start - self.start, stop - self.start
        parts = (None if a is None else a[low:high] for a in self[1:])
        return FeatureTable(start, *parts)  # type: ignore[arg-type]


def encode_features(table: FeatureTable) -> bytes:
    """The bytes of a feature shard; equal features give equal bytes."""
    stop = table.start + len(table.pool_ND)
    arrays: dict[str, NDArray[np.generic]] = {
        "sample_index": np.arange(table.start, stop, dtype=np.int64),
        "pool": np.ascontiguousarray(table.pool_ND, dtype=np.float32),
    }
    optional = {"spatial": table.spatial_NP, "probabilities": table.probabilities_NK}
    for name, array in optional.items():
        if array is not None:
            arrays[name] = np.ascontiguousarray(array, dtype=np.float32)
    return save(arrays)


def decode_features(content: bytes, where: str) -> FeatureTable:
    """Read a feature shard.

    Raises:
        CorruptionError: it is not one, or its sample indices are not consecutive.
    """
    try:
        arrays = load(content)
        index, pool = arrays["sample_index"], arrays["pool"]
    except (SafetensorError, KeyError) as error:
        raise CorruptionError(f"{where} is not a feature shard: {error}") from error
    if not index.size or index.shape != pool.shape[:1]:
        raise CorruptionError(f"{where}: {index.shape} sample indices for {pool.shape} features")
    if not np.array_equal(index, index[0] + np.arange(len(index))):
        raise CorruptionError(f"{where}: sample indices are not consecutive")
    return FeatureTable(int(index[0]), pool, arrays.get("spatial"), arrays.get("probabilities"))


def join(tables: list[FeatureTable]) -> FeatureTable:
    """One table from consecutive ones."""
    columns: list[NDArray[np.float32] | None] = []
    for i in range(1, 4):
        arrays = [table[i] for table in tables]
        columns.append(None if any(a is None for a in arrays) else np.concatenate(arrays))  # type: ignore[arg-type]
    return FeatureTable(tables[0].start, *columns)  # type: ignore[arg-type]
