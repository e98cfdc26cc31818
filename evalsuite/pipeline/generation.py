"""Images of a plan, batch by batch, in this process: what workers, `sample` and `verify` share."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from evalsuite.artifacts.images import ImageRows, pixel_sha256
from evalsuite.artifacts.storage import file_sha256
from evalsuite.config import Plan
from evalsuite.errors import DataError, WorkerError
from evalsuite.models.loading import load_denoiser
from evalsuite.pipeline.numerics import numerics_id, numerics_of, prepare_torch
from evalsuite.sampling.sampler import sample_class_batch
from evalsuite.seeding import labels_of, seeds_of


class GeneratedBatch(NamedTuple):
    """One whole batch and the network evaluations that each image cost."""

    rows: ImageRows
    nfe: int


class BatchSampler:
    """A loaded model that computes any batch of its plan, always at full batch size."""

    def __init__(
        self,
        plan: Plan,
        weights_path: Path,
        device: torch.device,
        file_labels: Sequence[int] | None = None,
    ) -> None:
        """Load the weights after checking that they are the plan's.

        Raises:
            DataError: other weights, or weights that do not fit the network.
        """
        prepare_torch(device)
        check_weights(weights_path, plan.weights_sha256)
        self.plan = plan
        self.device = device
        self.numerics = numerics_of(device)
        self.numerics_id = numerics_id(self.numerics)
        self._file_labels = file_labels
        self._denoiser = load_denoiser(
            plan.family, plan.network, weights_path, device, plan.sampling.dtype
        )

    def batch(self, batch_index: int) -> GeneratedBatch:
        """Samples batch_index * batch_size and following.

        Raises:
            WorkerError: the GPU's memory is too small for the plan's batch size.
            DataError: the sampler gave NaN or infinite pixels.
        """
        plan = self.plan
        prepare_torch(self.device)
        start, stop = batch_index * plan.batch_size, (batch_index + 1) * plan.batch_size
        seeds, labels = seeds_of(plan, start, stop), labels_of(plan, start, stop, self._file_labels)
        try:
            images, nfe = sample_class_batch(
                self._denoiser,
                seeds,
                labels,
                plan.num_classes,
                plan.size,
                plan.sampling,
                plan.uint8_rule,
                self.device,
            )
        except torch.OutOfMemoryError as error:
            raise WorkerError(
                f"the GPU's memory does not hold batch size {plan.batch_size}, which is part of the"
                " plan: start a new run with a smaller --batch-size"
            ) from error
        except ValueError as error:
            raise DataError(f"samples {start}..{stop - 1}: {error}") from error
        return GeneratedBatch(ImageRows(start, seeds, labels, images), nfe)

    def pixel_hashes(self, batch_index: int) -> list[str]:
        """SHA-256 of each image of a batch."""
        return [pixel_sha256(image) for image in self.batch(batch_index).rows.images_NHWC]


def check_weights(path: Path, sha256: str) -> None:
    """Raise DataError unless the file exists and has that SHA-256."""
    if not path.is_file():
        raise DataError(f"weights {path} do not exist on this machine")
    if file_sha256(path) != sha256:
        raise DataError(f"weights {path} are not the plan's: their SHA-256 is not {sha256[:12]}...")
