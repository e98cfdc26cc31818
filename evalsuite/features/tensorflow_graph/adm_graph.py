"""What ADM's evaluator computes with TensorFlow: features, probabilities, manifold distances.

The module `tf` is given, never imported: `server` alone may import TensorFlow. Sources of all
numbers: guided-diffusion `evaluations/evaluator.py`, whose operations and their order these are.

Legend: N images or samples, M reference images, H, W, C, D pooled width, P spatial width, K
classes, U rows and V columns of a tile of distances.
"""

import importlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evalsuite.errors import DataError

SPATIAL_CHANNELS = 7
SOFTMAX_ROWS = 512
ADM_TILE = 10_000
"""Rows and columns of a tile: float16 or its float32 fallback is chosen for each tile anew."""
_TENSORS = ("pool_3:0", "mixed_6/conv:0", "softmax/logits/MatMul:0")

Floats = NDArray[np.float32]


class Features(NamedTuple):
    """Pooled [N, D] and spatial [N, P] features, the latter flattened (h, w, c), and softmax."""

    pool_ND: Floats
    spatial_NP: Floats
    probabilities_NK: Floats


class Manifolds(NamedTuple):
    """Shares from 0 to 1, and the squared radii behind them."""

    precision: float
    recall: float
    reference_radii_M: Floats
    samples_radii_N: Floats


class AdmGraph:
    """The graph of a `.pb` in one TensorFlow session, images fed behind its JPEG decoder."""

    def __init__(self, tf: Any, session: Any, path: Path) -> None:  # noqa: ANN401 - modules
        """Import the graph; ADM does so twice, the second time for the softmax's weights.

        Raises:
            DataError: the file is not this graph.
        """
        definition = _read_definition(tf, path)
        self._session = session
        with session.graph.as_default():
            self._images = tf.compat.v1.placeholder(tf.float32, [None, None, None, 3])
            try:
                pool, spatial, logits = tf.compat.v1.import_graph_def(
                    definition,
                    input_map={"ExpandDims:0": self._images},
                    return_elements=list(_TENSORS),
                    name="features",
                )
            except ValueError as error:
                raise DataError(
                    f"{path} is not ADM's Inception graph, classify_image_graph_def.pb: {error}"
                ) from error
            self._outputs = [pool, spatial[..., :SPATIAL_CHANNELS]]
            weights_DK = logits.op.inputs[1]
            self._pool = tf.compat.v1.placeholder(tf.float32, [None, weights_DK.shape[0]])
            self._softmax = tf.nn.softmax(tf.matmul(self._pool, weights_DK))

    def features(self, images_NHWC: NDArray[np.uint8]) -> Features:
        """Features of a batch, which ADM makes 64 large and the last one short."""
        pool_N11D, spatial_NHWC = self._session.run(
            self._outputs, {self._images: images_NHWC.astype(np.float32)}
        )
        pool_ND = pool_N11D.reshape(len(images_NHWC), -1)
        spatial_NP = spatial_NHWC.reshape(len(images_NHWC), -1)
        return Features(pool_ND, spatial_NP, self.probabilities(pool_ND))

    def probabilities(self, pool_ND: Floats) -> Floats:
        """Softmax of pool times the weights, 512 rows at a time; the bias is left out."""
        parts = [
            self._session.run(self._softmax, {self._pool: pool_ND[start : start + SOFTMAX_ROWS]})
            for start in range(0, len(pool_ND), SOFTMAX_ROWS)
        ]
        return np.concatenate(parts)


def _read_definition(tf: Any, path: Path) -> Any:  # noqa: ANN401 - a protocol buffer
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read the graph {path}: {error.strerror}") from error
    definition = tf.compat.v1.GraphDef()
    protobuf = importlib.import_module("google.protobuf.message")  # TensorFlow brings it
    try:
        definition.ParseFromString(content)
    except protobuf.DecodeError as error:
        raise DataError(f"{path} is not a TensorFlow graph: {error}") from error
    return definition


class AdmManifolds:
    """Precision and recall in ADM's float16 arithmetic, with distances computed in tiles."""

    def __init__(self, tf: Any, session: Any, num_threads: int) -> None:  # noqa: ANN401 - modules
        self._session = session
        self._num_threads = num_threads
        with session.graph.as_default():
            self._u = tf.compat.v1.placeholder(tf.float32, [None, None])
            self._v = tf.compat.v1.placeholder(tf.float32, [None, None])
            half_UV = _squared_distances(
                tf, tf.cast(self._u, tf.float16), tf.cast(self._v, tf.float16)
            )
            self._distances_UV = tf.compat.v1.cond(
                tf.reduce_all(tf.math.is_finite(half_UV)),
                lambda: tf.cast(half_UV, tf.float32),
                lambda: _squared_distances(tf, self._u, self._v),
            )
            self._radii_u = tf.compat.v1.placeholder(tf.float32, [None])
            self._radii_v = tf.compat.v1.placeholder(tf.float32, [None])
            self._inside = [
                tf.reduce_any(self._distances_UV <= self._radii_v[None, :], axis=1),
                tf.reduce_any(self._distances_UV <= self._radii_u[:, None], axis=0),
            ]

    def precision_recall(
        self, reference_MD: Floats, samples_ND: Floats, k: int, tile: int
    ) -> Manifolds:
        """Shares of points within the other set's balls; a point at exactly the radius is inside.

        Args:
            reference_MD: pooled features of the reference, float32.
            samples_ND: pooled features of the samples, float32.
            k: a ball reaches to the k-th other neighbour; ADM has 3.
            tile: rows and columns of distances at once; `ADM_TILE` is ADM's.
        """
        reference_radii_M = self._radii(reference_MD, k, tile)
        samples_radii_N = self._radii(samples_ND, k, tile)
        covered_M = np.zeros(len(reference_MD), dtype=np.bool_)
        inside_N = np.zeros(len(samples_ND), dtype=np.bool_)
        for rows in _tiles(len(reference_MD), tile):
            for columns in _tiles(len(samples_ND), tile):
                rows_in, columns_in = self._session.run(
                    self._inside,
                    {
                        self._u: reference_MD[rows],
                        self._v: samples_ND[columns],
                        self._radii_u: reference_radii_M[rows],
                        self._radii_v: samples_radii_N[columns],
                    },
                )
                covered_M[rows] |= rows_in
                inside_N[columns] |= columns_in
        return Manifolds(
            float(inside_N.mean()), float(covered_M.mean()), reference_radii_M, samples_radii_N
        )

    def _radii(self, points_ND: Floats, k: int, tile: int) -> Floats:
        """Element k of each sorted row of distances, which counts the point itself at 0.

        ADM keeps whole rows; the k + 1 smallest of each tile give the same element.
        """
        radii_N = np.empty(len(points_ND), dtype=np.float32)
        for rows in _tiles(len(points_ND), tile):
            nearest = [
                self._smallest(
                    self._session.run(
                        self._distances_UV, {self._u: points_ND[rows], self._v: points_ND[columns]}
                    ),
                    k + 1,
                )
                for columns in _tiles(len(points_ND), tile)
            ]
            radii_N[rows] = np.partition(np.concatenate(nearest, axis=1), k, axis=1)[:, k]
        return radii_N

    def _smallest(self, distances_UV: Floats, count: int) -> Floats:
        """The `count` smallest of each row, unsorted; the array given is reordered."""
        if distances_UV.shape[1] <= count:
            return distances_UV
        parts = np.array_split(distances_UV, self._num_threads)
        with ThreadPoolExecutor(self._num_threads) as pool:
            list(pool.map(lambda part: part.partition(count - 1, axis=1), parts))
        return distances_UV[:, :count].copy()


def _tiles(count: int, tile: int) -> list[slice]:
    return [slice(start, min(start + tile, count)) for start in range(0, count, tile)]


def _squared_distances(tf: Any, u_UD: Any, v_VD: Any) -> Any:  # noqa: ANN401 - tensors
    """|u|^2 - 2 u.v + |v|^2, not below 0, every operation rounded to the arguments' type."""
    norms_U1 = tf.reduce_sum(tf.square(u_UD), 1)[:, None]
    norms_1V = tf.reduce_sum(tf.square(v_VD), 1)[None, :]
    product_UV = tf.matmul(u_UD, v_VD, transpose_b=True)
    return tf.maximum(norms_U1 - 2 * product_UV + norms_1V, 0.0)
