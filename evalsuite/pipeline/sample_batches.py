"""Noise and labels that a scorer hands out, and the uint8 images that come back.

Legend: N samples, B batch, C channels, H height, W width.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evalsuite.artifacts.images import Images
from evalsuite.config import LabelRule
from evalsuite.errors import DataError, UsageError
from evalsuite.sampling.noise import draw_noise, sample_generators
from evalsuite.sampling.pixels import UINT8_RULES
from evalsuite.seeding import SEED_LIMIT, labels_by


@dataclass(frozen=True, eq=False)
class SampleBatch:
    """What to make images of: always a whole batch, also where fewer of its samples count.

    Attributes:
        sample_index: of each sample.
        seeds: of each sample: first_seed + sample_index.
        labels: int64 [B] on the CPU.
        noise: standard normal, float32 [B,C,H,W] on the CPU, the first draw of each generator.
        generators: each sample's own, for further random numbers of a sampler.
    """

    sample_index: range
    seeds: list[int]
    labels: Tensor
    noise: Tensor
    generators: list[torch.Generator]

    def __len__(self) -> int:
        """B."""
        return len(self.seeds)


@dataclass(frozen=True)
class SamplePlan:
    """Which samples are made, and from what.

    Attributes:
        num_samples: N.
        first_seed: seed of sample 0.
        rule: how sample_index decides the label.
        num_classes: labels are 0..num_classes-1.
        file_labels: of the rule `file` alone.
        batch_size: B.
        noise_shape: (C, H, W) of the noise.
    """

    num_samples: int
    first_seed: int
    rule: LabelRule
    num_classes: int
    file_labels: tuple[int, ...] | None
    batch_size: int
    noise_shape: tuple[int, int, int]

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be.

        Raises:
            UsageError: no samples, seeds that torch's generator repeats, too few labels in a file.
        """
        for name in ("num_samples", "num_classes", "batch_size"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}")
        padded = self.num_batches * self.batch_size
        if self.first_seed < 0 or self.first_seed + padded > SEED_LIMIT:
            raise UsageError(
                f"seeds {self.first_seed}..{self.first_seed + padded - 1} are not below 2^32, from"
                " where torch's generator repeats: lower first_seed"
            )
        self.labels(0, padded)

    @property
    def num_batches(self) -> int:
        """Whole batches that hold all samples."""
        return -(-self.num_samples // self.batch_size)

    def labels(self, start: int, stop: int) -> list[int]:
        """Labels of samples start..stop-1."""
        return labels_by(self.rule, range(self.num_classes), start, stop, self.file_labels)

    def batch(self, number: int) -> SampleBatch:
        """The batch of samples number * batch_size and following."""
        start, stop = number * self.batch_size, (number + 1) * self.batch_size
        seeds = list(range(self.first_seed + start, self.first_seed + stop))
        generators = sample_generators(seeds)
        return SampleBatch(
            range(start, stop),
            seeds,
            torch.tensor(self.labels(start, stop), dtype=torch.int64),
            draw_noise(generators, self.noise_shape),
            generators,
        )

    def batches_of(self, rank: int, count: int) -> range:
        """Numbers of the batches of one rank: neighbours, and no rank has two more than another.

        Neighbours, because features are computed in batches of the extractor's own size, which
        may straddle these; at most one such batch is then computed by two ranks.
        """
        each, more = divmod(self.num_batches, count)
        first = rank * each + min(rank, more)
        return range(first, first + each + (rank < more))

    def samples_of(self, rank: int, count: int) -> range:
        """Indices of the samples of one rank that count."""
        batches = self.batches_of(rank, count)
        low, high = batches.start * self.batch_size, batches.stop * self.batch_size
        return range(min(low, self.num_samples), min(high, self.num_samples))


def to_uint8(
    images: Any,  # noqa: ANN401 - checked here
    size: tuple[int, int],
    sample_index: range,
    uint8_rule: str,
) -> Images:
    """Images of a batch as uint8 [B,H,W,3].

    Args:
        images: float32 or float64 [B,3,H,W], nominally in [-1, 1], by `uint8_rule`; or uint8
            [B,3,H,W] or [B,H,W,3] as they are. A tensor on any device, or an array.
        size: (H, W).
        sample_index: of the batch.
        uint8_rule: `half_up` or `half_even`.

    Raises:
        UsageError: another shape or dtype.
        DataError: a value is NaN or infinite; the first such sample is named.
    """
    tensor = torch.as_tensor(images).detach()
    count, (height, width) = len(sample_index), size
    planes, interleaved = (count, 3, height, width), (count, height, width, 3)
    where = f"samples {sample_index.start}..{sample_index.stop - 1}"
    shape = tuple(tensor.shape)
    if tensor.dtype == torch.uint8 and shape in {planes, interleaved}:
        ordered = tensor if shape == interleaved else tensor.permute(0, 2, 3, 1)
        return np.ascontiguousarray(ordered.cpu().numpy())
    if tensor.dtype not in {torch.uint8, torch.float32, torch.float64}:
        raise UsageError(
            f"{where}: images of {tensor.dtype}; give float32 in [-1, 1] (16 bits are coarser than"
            " pixels are), or uint8"
        )
    if shape != planes:
        also = f" or {list(interleaved)}" if tensor.dtype == torch.uint8 else ""
        raise UsageError(f"{where}: images of shape {list(shape)}, expected {list(planes)}{also}")
    finite_B = torch.isfinite(tensor).flatten(1).all(dim=1)
    if not bool(finite_B.all()):
        first = sample_index[int(finite_B.logical_not().nonzero()[0, 0])]
        raise DataError(f"sample {first}: NaN or infinite pixels, which would become any colour")
    pixels: Images = UINT8_RULES[uint8_rule](tensor).numpy()
    return pixels
