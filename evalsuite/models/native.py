"""A network of the registry with our samplers around it: every preset of ours is one of these."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import BaseModel
from torch import Tensor

from evalsuite.config import DtypeName, GuideModel, SamplingSettings, Scalar
from evalsuite.models.loading import as_denoiser, load_module
from evalsuite.models.protocol import Condition
from evalsuite.models.registry import family_named
from evalsuite.sampling.guidance import Denoiser
from evalsuite.sampling.sampler import Conditions, Guide, sample_batch


class NativeModel:
    """A denoiser that is integrated from noise to images under guidance."""

    Settings: ClassVar[type[BaseModel]] = SamplingSettings

    def __init__(
        self,
        family: str,
        network: Mapping[str, Scalar],
        t_eps: float | None = None,
        features: "TextFeatures | None" = None,
    ) -> None:
        self._family, self._name, self._network = family_named(family), family, network
        self._t_eps = t_eps
        self._features = features
        self._guide: Denoiser | None = None
        self._guide_condition = "same"
        self.nfe = 0

    @property
    def condition(self) -> Condition:
        """Labels or prompts."""
        return self._family.condition

    def load(self, weights: Path | None, ema: str, device: torch.device, dtype: DtypeName) -> None:
        """Load the network to `device`."""
        module = load_module(self._name, self._network, weights, ema)
        self._device, self._dtype = device, dtype
        self._denoiser = as_denoiser(module, self._family, device, dtype, self._t_eps)

    def load_guide(self, guide: GuideModel, weights: Path | None) -> None:
        """Load the weaker model of autoguidance, to the same device and dtype."""
        family = family_named(guide.family)
        module = load_module(guide.family, guide.network, weights, guide.ema)
        self._guide = as_denoiser(module, family, self._device, self._dtype, self._t_eps)
        self._guide_condition = guide.condition

    def sample(
        self,
        noise_BCHW: Tensor,
        conditions: Sequence[Any],
        generators: Sequence[torch.Generator],
        settings: SamplingSettings,
    ) -> Tensor:
        """Images [B,3,H,W], float32; sets `nfe`."""
        tensors = self._tensors(conditions)
        guide = None
        if self._guide is not None:
            seen = tensors.given if self._guide_condition == "same" else tensors.null
            guide = Guide(self._guide, seen)
        sampled = sample_batch(self._denoiser, tensors, noise_BCHW, settings, generators, guide)
        self.nfe = sampled.nfe
        return sampled.x_BCHW

    def _tensors(self, conditions: Sequence[Any]) -> Conditions:
        """Conditions and null conditions on the device."""
        if self.condition == "class":
            labels_B = torch.tensor(conditions, device=self._device)
            null_B = torch.full_like(labels_B, int(self._network["num_classes"]))
            return Conditions(labels_B, null_B)
        assert self._features is not None
        text_BTD = self._features.positive(conditions)
        null_BTD = self._features.negative().expand_as(text_BTD)
        # the dtype of the features decides that of the text stream under autocast
        kind = torch.float32 if self._dtype == "float32" else torch.bfloat16
        return Conditions(text_BTD.to(self._device, kind), null_BTD.to(self._device, kind))


class TextFeatures:
    """Features [T, D] of a plan's prompts, read ahead of the batches, and of the negative one.

    All prompts of a benchmark of 30,000 would be 16 GB in every worker: those of a few are kept.
    """

    def __init__(
        self,
        read: Callable[[Sequence[str]], Sequence[Tensor]],
        negative_TD: Tensor,
        num_kept: int = 64,
    ) -> None:
        """Args: what reads features of some prompts, those of the negative, how many are kept."""
        self._read, self._negative_TD, self._num_kept = read, negative_TD, num_kept
        self._kept: OrderedDict[str, Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def read_ahead(self, prompts: Sequence[str]) -> None:
        """Read what a later `positive` takes; another thread may use what is there meanwhile."""
        self._found(prompts)

    def positive(self, prompts: Sequence[str]) -> Tensor:
        """Features [B, T, D] of the prompts of a batch."""
        found = self._found(prompts)
        return torch.stack([found[prompt] for prompt in prompts])

    def negative(self) -> Tensor:
        """Features [T, D] of the negative prompt."""
        return self._negative_TD

    def turn_to(self, other: "TextFeatures") -> None:
        """Read from where `other` does from now on; nothing may be in hand."""
        with self._lock:
            self._read, self._negative_TD = other._read, other._negative_TD
            self._kept.clear()

    def _found(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        distinct = list(dict.fromkeys(prompts))
        with self._lock:
            found = {prompt: self._kept[prompt] for prompt in distinct if prompt in self._kept}
        missing = [prompt for prompt in distinct if prompt not in found]
        if missing:
            found |= zip(missing, self._read(missing), strict=True)
        with self._lock:
            for prompt, features_TD in found.items():
                self._kept[prompt] = features_TD
                self._kept.move_to_end(prompt)
            while len(self._kept) > self._num_kept:
                self._kept.popitem(last=False)
        return found
