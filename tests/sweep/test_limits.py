"""Extrapolated values that are kept beside records: a file that was damaged is none."""

import warnings

import numpy as np
from board_kit import make_record

from evalsuite.metrics.frechet_limit import FrechetLimit
from evalsuite.sweep.scoring import _read_limit, _written_limit


def test_no_damaged_byte_of_a_limit_is_an_error_or_another_number() -> None:
    """Some bytes, such as times in the archive, say nothing of the numbers."""
    record = make_record(2.0, num_samples=4)
    limit = FrechetLimit(1.5, 1.25, np.array([0.5, -0.5, 0.25, -0.25]))
    content = _written_limit(limit, record)
    again = _read_limit(content, record)
    assert again is not None
    assert again.influence_N.tolist() == limit.influence_N.tolist()
    nothing = 0
    for place in range(len(content)):
        for flipped in (0x01, 0xFF):
            damaged = bytearray(content)
            damaged[place] ^= flipped
            with warnings.catch_warnings(action="ignore"):
                found = _read_limit(bytes(damaged), record)
            nothing += found is None
            if found is not None:
                assert (found.value, found.coarser) == (limit.value, limit.coarser)
                assert found.influence_N.tolist() == limit.influence_N.tolist()
    assert nothing > len(content)
    assert _read_limit(_written_limit(limit, make_record(2.5, num_samples=4)), record) is None
