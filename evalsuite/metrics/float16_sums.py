"""Squared norms as TensorFlow sums them on a CPU in float16, addition by addition.

Legend: N points, D feature dimensions, J blocks of four packets, P packets, L lanes of a packet.
"""

import math

import torch
from torch import Tensor

_LANES = 8
_PACKETS = 4
_LARGEST_LEAF = 1600
_BLOCK_ROWS = 1024


def squared_norms(features_ND: Tensor) -> Tensor:
    """Row sums of the squares of features, everything rounded to float16 in TensorFlow's order.

    A row of more than 1,600 elements is halved where a packet of 8 begins, and the sums of the
    halves are added. Where D is no multiple of 8 rows begin at different places of a packet, so
    equal rows may have different sums; what counts is the row's number in TensorFlow's tensor.

    Source: `InnerMostDimReducer` of Eigen's `TensorReduction.h`; equal to tensorflow-cpu 2.21 with
    AVX-512 in every row that was tried, of 1 to 4,096 elements. Other builds may use other packets.

    Args:
        features_ND: float32 [N, D], all of one tensor of TensorFlow's; rounded to float16 first.

    Returns:
        float16 [N]; infinite where a square or a sum leaves float16.
    """
    count, dim = features_ND.shape
    period = _LANES // math.gcd(_LANES, dim)
    norms_N = torch.empty(count, dtype=torch.float16, device=features_ND.device)
    for start in range(0, count, _BLOCK_ROWS):
        stop = min(start + _BLOCK_ROWS, count)
        squares_ND = _rounded(features_ND[start:stop].half().float().square())
        for first in range(min(period, stop - start)):
            offset = (start + first) * dim % _LANES
            norms_N[start + first : stop : period] = _tree(squares_ND[first::period], offset).half()
    return norms_N


def _rounded(values: Tensor) -> Tensor:
    """Float32 values at float16 precision; rounding a float32 sum of two halves is exact."""
    return values.half().float()


def _tree(values_ND: Tensor, offset: int) -> Tensor:
    """Sum of each row, whose first element is at `offset` in a packet."""
    length = values_ND.shape[1]
    if length <= _LARGEST_LEAF:
        return _leaf(values_ND)
    middle = -(-(offset + -(-length // 2)) // _LANES) * _LANES - offset
    left_N, right_N = _tree(values_ND[:, :middle], offset), _tree(values_ND[:, middle:], 0)
    return _rounded(left_N + right_N)


def _leaf(values_ND: Tensor) -> Tensor:
    """Four interleaved packets, then whole packets, then the lanes of one, then single elements."""
    count, length = values_ND.shape
    unrolled = length - length % (_LANES * _PACKETS)
    packed = length - length % _LANES
    blocks_NJPL = values_ND[:, :unrolled].reshape(count, -1, _PACKETS, _LANES)
    sums_NPL = values_ND.new_zeros(count, _PACKETS, _LANES)
    for block in range(blocks_NJPL.shape[1]):
        sums_NPL = _rounded(sums_NPL + blocks_NJPL[:, block])
    lanes_NL = sums_NPL[:, 0]
    for packet in range(1, _PACKETS):
        lanes_NL = _rounded(lanes_NL + sums_NPL[:, packet])
    for start in range(unrolled, packed, _LANES):
        lanes_NL = _rounded(lanes_NL + values_ND[:, start : start + _LANES])
    rest_N = values_ND.new_zeros(count)
    for element in range(packed, length):
        rest_N = _rounded(rest_N + values_ND[:, element])
    return _rounded(_rounded(lanes_NL.sum(dim=1)) + rest_N)
