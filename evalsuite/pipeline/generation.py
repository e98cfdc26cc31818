"""Images of a plan, batch by batch, in this process: what workers, `sample` and `verify` share."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from evalsuite.artifacts.digests import cache_root
from evalsuite.artifacts.images import ImageRows, pixel_sha256
from evalsuite.artifacts.storage import Place
from evalsuite.conditioning.encoder_files import library_versions
from evalsuite.config import Plan
from evalsuite.errors import DataError, DivergedError
from evalsuite.models.building import load_model
from evalsuite.models.foreign import users_code
from evalsuite.models.native import TextFeatures
from evalsuite.pipeline.conditions import features_of
from evalsuite.pipeline.device_faults import device_faults
from evalsuite.pipeline.materials import Materials, check_materials
from evalsuite.pipeline.numerics import numerics_id, numerics_of, prepare_torch
from evalsuite.sampling.noise import draw_noise, sample_generators
from evalsuite.sampling.pixels import UINT8_RULES, NotFiniteError
from evalsuite.seeding import labels_of, seeds_of

NoiseShape = Callable[[tuple[int, int]], tuple[int, int, int]]


class BatchInputs(NamedTuple):
    """What one batch is computed from, drawn ahead of the sampler.

    Attributes:
        start: its first sample.
        seeds: of each sample.
        labels: of each sample; of a text model places in the list of prompts.
        generators: each sample's own, after the draw of its initial noise.
        noise_BCHW: float32 on the CPU.
    """

    start: int
    seeds: Sequence[int]
    labels: Sequence[int]
    generators: Sequence[torch.Generator]
    noise_BCHW: torch.Tensor


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
        text_cache: Place | None = None,
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
        self._text_cache = text_cache or cache_root() / "conditions"
        self._text = self._features(self._text_cache)
        self._model = load_model(
            plan, materials.weights, device, materials.guide, self._text, materials.code_folder
        )
        kind = type(self._model).Settings
        self._settings = plan.sampling or kind.model_validate(plan.settings)
        noise_shape: NoiseShape = getattr(self._model, "noise_shape", lambda size: (3, *size))
        self._noise_shape = noise_shape(plan.size)

    def retarget(self, plan: Plan, materials: Materials, text_cache: Place | None = None) -> None:
        """Turn to a plan of the same networks, whose settings, seeds or labels may differ.

        Prompts' features are read from `text_cache` then, as by `__init__`; what is not there is
        copied from where they were.
        """
        self.plan, self._materials = plan, materials
        before, self._text_cache = self._text_cache, text_cache or cache_root() / "conditions"
        text = self._features(self._text_cache, before) if before != self._text_cache else None
        if self._text is not None and text is not None:
            self._text.turn_to(text)
        self._settings = plan.sampling or type(self._model).Settings.model_validate(plan.settings)

    def unload(self) -> None:
        """Let go of the network; from then on nothing but noise can be had."""
        del self._model

    def batch(self, batch_index: int) -> GeneratedBatch:
        """Samples batch_index * batch_size and following; raises what `sample` raises."""
        return self.sample(self.inputs(batch_index))

    @torch.inference_mode()
    def inputs(self, batch_index: int) -> BatchInputs:
        """Draw the noise of a batch and read its prompts' features.

        Another thread may do so while this one samples.
        """
        plan = self.plan
        start, stop = batch_index * plan.batch_size, (batch_index + 1) * plan.batch_size
        seeds = seeds_of(plan, start, stop)
        labels = labels_of(plan, start, stop, self._materials.file_labels)
        generators = sample_generators(seeds)
        if self._text is not None and self._materials.prompts is not None:
            self._text.read_ahead([self._materials.prompts[label] for label in labels])
        return BatchInputs(
            start, seeds, labels, generators, draw_noise(generators, self._noise_shape)
        )

    def sample(self, inputs: BatchInputs) -> GeneratedBatch:
        """Images of one batch.

        Raises:
            EnvironmentProblem: the GPU failed, or does not hold the plan's batch size.
            DivergedError: the sampler gave NaN or infinite pixels.
            DataError: it gave images of another size, or a user's class raised something.
        """
        prepare_torch(self.device)
        start, seeds, labels = inputs.start, inputs.seeds, inputs.labels
        try:
            with device_faults(self.device, len(seeds)):
                images = self._images(inputs)
        except ValueError as error:
            kind = DivergedError if isinstance(error, NotFiniteError) else DataError
            raise kind(f"samples {start}..{start + len(seeds) - 1}: {error}") from error
        nfe = int(getattr(self._model, "nfe", 0))
        prompts = self._materials.prompts
        shown = [prompts[label] for label in labels] if prompts else None
        return GeneratedBatch(ImageRows(start, seeds, labels, images.numpy(), shown), nfe)

    def pixel_hashes(self, batch_index: int) -> list[str]:
        """SHA-256 of each image of a batch."""
        return [pixel_sha256(image) for image in self.batch(batch_index).rows.images_NHWC]

    @torch.inference_mode()
    def _images(self, inputs: BatchInputs) -> torch.Tensor:
        noise_BCHW = inputs.noise_BCHW.to(self.device)
        prompts, labels = self._materials.prompts, inputs.labels
        conditions: list[Any] = [prompts[i] for i in labels] if prompts else list(labels)
        with users_code(self.plan.family, self._materials.code_folder, "sample()"):
            x_BCHW = self._model.sample(noise_BCHW, conditions, inputs.generators, self._settings)
        expected = (len(labels), 3, *self.plan.size)
        if tuple(x_BCHW.shape) != expected:
            raise ValueError(f"the model gave images {tuple(x_BCHW.shape)}, not {expected}")
        return UINT8_RULES[self.plan.uint8_rule](x_BCHW)

    def _features(self, cache: Place, earlier: Place | None = None) -> TextFeatures | None:
        """Features of the prompts, for a text model of ours; the encoder is gone afterwards."""
        plan, prompts = self.plan, self._materials.prompts
        if plan.text is None or plan.text.encoder is None:
            return None
        if prompts is None:
            raise DataError("the plan's prompts are not here")
        folder = self._materials.encoder
        return features_of(plan, prompts, folder, cache, self.device, self.numerics_id, earlier)


def _encoding_versions(plan: Plan) -> dict[str, str]:
    """Of the libraries that compute a text plan's features, and so decide their bits."""
    encodes = plan.text is not None and plan.text.encoder is not None
    return library_versions() if encodes and not plan.has_random_weights else {}
