"""Images of a plan, batch by batch, in this process: what workers, `sample` and `verify` share."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from evalsuite.artifacts.digests import cache_root
from evalsuite.artifacts.images import ImageRows, pixel_sha256
from evalsuite.conditioning.encoder_files import library_versions
from evalsuite.config import Plan
from evalsuite.errors import DataError, WorkerError
from evalsuite.models.building import load_model
from evalsuite.models.foreign import users_code
from evalsuite.models.native import TextFeatures
from evalsuite.pipeline.conditions import features_of
from evalsuite.pipeline.materials import Materials, check_materials
from evalsuite.pipeline.numerics import numerics_id, numerics_of, prepare_torch
from evalsuite.sampling.noise import draw_noise, sample_generators
from evalsuite.sampling.pixels import UINT8_RULES
from evalsuite.seeding import labels_of, seeds_of

NoiseShape = Callable[[tuple[int, int]], tuple[int, int, int]]


class GeneratedBatch(NamedTuple):
    """One whole batch and the network evaluations that each image cost; 0 when it is not known."""

    rows: ImageRows
    nfe: int


class BatchSampler:
    """A loaded model that computes any batch of its plan, always at full batch size."""

    def __init__(
        self,
        plan: Plan,
        materials: Materials,
        device: torch.device,
        text_cache: Path | None = None,
    ) -> None:
        """Load the weights after checking that they are the plan's.

        Args:
            plan: what decides pixels.
            materials: the files that it needs.
            device: where to compute.
            text_cache: folder of prompt features, which are computed if they are not there; one
                of this machine's cache when absent.

        Raises:
            DataError: other weights, or weights that do not fit the network.
        """
        prepare_torch(device)
        self.plan = plan
        self.device = device
        self.numerics = numerics_of(device) | _encoding_versions(plan)
        self.numerics_id = numerics_id(self.numerics)
        self._materials = materials
        check_materials(plan, materials)
        features = self._features(text_cache or cache_root() / "conditions")
        self._model = load_model(
            plan, materials.weights, device, materials.guide, features, materials.code_folder
        )
        kind = type(self._model).Settings
        self._settings = plan.sampling or kind.model_validate(plan.settings)
        noise_shape: NoiseShape = getattr(self._model, "noise_shape", lambda size: (3, *size))
        self._noise_shape = noise_shape(plan.size)

    def batch(self, batch_index: int) -> GeneratedBatch:
        """Samples batch_index * batch_size and following.

        Raises:
            WorkerError: the GPU's memory is too small for the plan's batch size.
            DataError: the sampler gave NaN or infinite pixels, or images of another size, or a
                user's class raised something.
        """
        plan = self.plan
        prepare_torch(self.device)
        start, stop = batch_index * plan.batch_size, (batch_index + 1) * plan.batch_size
        seeds = seeds_of(plan, start, stop)
        labels = labels_of(plan, start, stop, self._materials.file_labels)
        try:
            images = self._images(seeds, labels)
        except torch.OutOfMemoryError as error:
            raise WorkerError(
                f"the GPU's memory does not hold batch size {plan.batch_size}, which is part of the"
                " plan: start a new run with a smaller --batch-size"
            ) from error
        except ValueError as error:
            raise DataError(f"samples {start}..{stop - 1}: {error}") from error
        nfe = int(getattr(self._model, "nfe", 0))
        prompts = self._materials.prompts
        shown = [prompts[label] for label in labels] if prompts else None
        return GeneratedBatch(ImageRows(start, seeds, labels, images.numpy(), shown), nfe)

    def pixel_hashes(self, batch_index: int) -> list[str]:
        """SHA-256 of each image of a batch."""
        return [pixel_sha256(image) for image in self.batch(batch_index).rows.images_NHWC]

    @torch.inference_mode()
    def _images(self, seeds: Sequence[int], labels: Sequence[int]) -> torch.Tensor:
        generators = sample_generators(seeds)
        noise_BCHW = draw_noise(generators, self._noise_shape).to(self.device)
        prompts = self._materials.prompts
        conditions: list[Any] = [prompts[i] for i in labels] if prompts else list(labels)
        with users_code(self.plan.family, self._materials.code_folder, "sample()"):
            x_BCHW = self._model.sample(noise_BCHW, conditions, generators, self._settings)
        expected = (len(seeds), 3, *self.plan.size)
        if tuple(x_BCHW.shape) != expected:
            raise ValueError(f"the model gave images {tuple(x_BCHW.shape)}, not {expected}")
        return UINT8_RULES[self.plan.uint8_rule](x_BCHW)

    def _features(self, cache: Path) -> TextFeatures | None:
        """Features of the prompts, for a text model of ours; the encoder is gone afterwards."""
        plan, prompts = self.plan, self._materials.prompts
        if plan.text is None or plan.text.encoder is None:
            return None
        if prompts is None:
            raise DataError("the plan's prompts are not here")
        folder = self._materials.encoder
        return features_of(plan, prompts, folder, cache, self.device, self.numerics_id)


def _encoding_versions(plan: Plan) -> dict[str, str]:
    """Of the libraries that compute a text plan's features, and so decide their bits."""
    encodes = plan.text is not None and plan.text.encoder is not None
    return library_versions() if encodes and not plan.has_random_weights else {}
