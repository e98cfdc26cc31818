"""Twins: a few samples made again, where a small model and its weights are on this machine.

Sample i of a set is matched with what the model makes of seed i. Where the two belong together,
what separates them is what happened to the set; where they do not, nothing is concluded.

Legend: N samples, T twins, H height, W width, C channels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from evalsuite.artifacts.images import Images
from evalsuite.config import ModelPreset, load_spec, names_of
from evalsuite.diagnosis.thumbnails import thumbnails
from evalsuite.errors import EvalsuiteError
from evalsuite.models.foreign import is_foreign
from evalsuite.pipeline.generation import BatchInputs, BatchSampler
from evalsuite.pipeline.plan import PlanOptions, ResolvedPlan, resolve_plan
from evalsuite.pipeline.weights import WeightsRequest
from evalsuite.sampling.noise import draw_noise, sample_generators
from evalsuite.seeding import REPLICATE_STRIDE

FIRST_SEEDS = (0, REPLICATE_STRIDE, 50_000)
"""Seeds of sample 0 that are tried: of replicates 0 and 1, and of the field's second 50,000."""
_MATCHING_STEPS = 8
"""Enough to see which sample belongs to which seed."""
TRIED, COMPARED = 6, 48
"""Samples that are made again for each setting, and for the setting that fits."""
NUM_STEPS = (4, 8, 10, 2, 5, 6, 12, 20, 30)
"""Tried beside the preset's own, because the count of steps is changed most often."""
EXACT = 2.0
"""Root mean square difference in grey levels at which no other count of steps need be tried."""
CLAIMED, OFF, REVERSED = "as the preset has it", "off", "reversed"
_CLOSE = 1.6
"""Counts of steps that lie at most so many times as far as the nearest are tried without guidance
and with its interval reversed, too."""
_MOST_SECONDS = 30.0
_BELONG = 0.6
"""Share of twins that must be nearest to their own sample."""
_APART = 0.75
"""A sample that belongs to a twin is nearer than this share of the distance to the next one."""
_SIDE = 16


def reversed_interval(interval: tuple[float, float]) -> tuple[float, float]:
    """The same interval where time runs the other way: t = 0 is noise here, data elsewhere."""
    low, high = interval
    return round(1 - high, 10), round(1 - low, 10)


class Fit(NamedTuple):
    """How far samples lie from twins by one setting.

    Attributes:
        guidance: `as the preset has it`, `off` or `reversed`.
        num_steps: solver intervals.
        rms_T: root mean square difference of each, in grey levels.
    """

    guidance: str
    num_steps: int
    rms_T: NDArray[np.float64]

    @property
    def rms(self) -> float:
        """The median: a few samples may have been replaced."""
        return float(np.median(self.rms_T))


@dataclass(frozen=True, eq=False)
class Twins:
    """Samples beside their twins.

    Attributes:
        preset: the model that made the twins.
        fits: of all settings that were tried, nearest first.
        samples_THWC: samples that have a twin.
        twins_THWC: theirs, by the nearest setting.
    """

    preset: ModelPreset
    fits: tuple[Fit, ...]
    samples_THWC: Images
    twins_THWC: Images

    def nearest(self, guidance: str) -> Fit | None:
        """The nearest of the settings with such guidance."""
        return next((fit for fit in self.fits if fit.guidance == guidance), None)


class _Match(NamedTuple):
    """Places among the images, with the seeds and labels that made them."""

    places: list[int]
    seeds: list[int]
    labels: list[int]


class _Maker:
    """Makes twins by any setting of one model."""

    def __init__(self, resolved: ResolvedPlan, device: torch.device) -> None:
        self.resolved = resolved
        self._sampler = BatchSampler(resolved.plan, resolved.materials, device)

    @property
    def num_steps(self) -> int:
        """The preset's own."""
        sampling = self.resolved.plan.sampling
        assert sampling is not None
        return sampling.num_steps

    def settings(self) -> dict[str, dict[str, object]]:
        """Changes of the plan's settings, by the name of the guidance that they stand for."""
        ours = self.resolved.plan.sampling
        assert ours is not None
        found: dict[str, dict[str, object]] = {CLAIMED: {}}
        if ours.guidance_scale != 1:
            found[OFF] = {"guidance_scale": 1.0}
            other = reversed_interval(ours.guidance_interval)
            if other != ours.guidance_interval:
                found[REVERSED] = {"guidance_interval": other}
        return found

    def match(self, seeds: Sequence[int], labels: Sequence[int], guidance: str = CLAIMED) -> Images:
        """Images that are good enough to be recognised."""
        few = min(self.num_steps, _MATCHING_STEPS)
        return self.make(seeds, labels, num_steps=few, **self.settings()[guidance])

    def make(self, seeds: Sequence[int], labels: Sequence[int], **changes: object) -> Images:
        """Images of these seeds and labels."""
        plan = self.resolved.plan
        assert plan.sampling is not None
        plan = plan.model_copy(update={"sampling": plan.sampling.model_copy(update=changes)})
        self._sampler.retarget(plan, self.resolved.materials)
        generators = sample_generators(seeds)
        noise = draw_noise(generators, (3, *plan.size))
        return self._sampler.sample(
            BatchInputs(0, seeds, labels, generators, noise)
        ).rows.images_NHWC


def find_twins(
    images_NHWC: Images,
    rows_N: NDArray[np.int64],
    seen_N: NDArray[np.int64] | None,
    preset: ModelPreset | None,
    device: torch.device,
) -> Twins | str:
    """Make some samples again, or say why that is not done.

    Args:
        images_NHWC: samples in order, no two of them equal.
        rows_N: their places in the whole set, which seeds count.
        seen_N: the class that each seems to show, where a classifier says so.
        preset: of the model; None to try those that are small and here.
        device: where to compute.
    """
    size = (images_NHWC.shape[1], images_NHWC.shape[2])
    reason = "no model that makes such images is small and on this machine"
    for candidate in [preset] if preset is not None else _small_presets(size):
        resolved = _resolved(candidate, size, device)
        if isinstance(resolved, str):
            reason = resolved
            continue
        maker = _Maker(resolved, device)
        matched = _matched(maker, images_NHWC, rows_N, seen_N)
        if matched is not None:
            return _compared(maker, images_NHWC, matched)
        reason = f"they are not what {candidate.name} makes of the seeds 0, 1, 2, ..."
    return reason


def _small_presets(size: tuple[int, int]) -> Iterator[ModelPreset]:
    for name in names_of(ModelPreset):
        preset = load_spec(ModelPreset, name)
        if preset.weights.file is not None and tuple(preset.size) == size and preset.num_classes:
            yield preset


def _resolved(
    preset: ModelPreset, size: tuple[int, int], device: torch.device
) -> ResolvedPlan | str:
    """The plan of a preset, when its weights are here and a few images are cheap."""
    if is_foreign(preset.family) or preset.sampling is None or not preset.num_classes:
        return f"{preset.name} is no class-conditional model of ours"
    if tuple(preset.size) != size:
        return f"{preset.name} makes images of another size"
    rates = [r.seconds_per_evaluation for r in preset.known_rates if r.device == device.type]
    steps = preset.sampling.num_steps + sum(NUM_STEPS)
    if not rates or min(rates) * TRIED * 2 * steps > _MOST_SECONDS:
        return f"making samples of {preset.name} again is no cheap probe on this machine"
    try:
        weights = WeightsRequest(offline=True)
        return resolve_plan(PlanOptions(model=str(preset.path), weights=weights))
    except EvalsuiteError as error:
        return str(error)


def _matched(
    maker: _Maker,
    images_NHWC: Images,
    rows_N: NDArray[np.int64],
    seen_N: NDArray[np.int64] | None,
) -> _Match | None:
    """Samples that belong to their twins."""
    thumbs_ND = thumbnails(images_NHWC, _SIDE)
    for first_seed in FIRST_SEEDS:
        found = _in_order(maker, thumbs_ND, first_seed + rows_N, rows_N, seen_N)
        if found is not None:
            return found
    return _in_any_order(maker, thumbs_ND)


def _in_order(
    maker: _Maker,
    thumbs_ND: NDArray[np.float64],
    seeds_N: NDArray[np.int64],
    rows_N: NDArray[np.int64],
    seen_N: NDArray[np.int64] | None,
) -> _Match | None:
    """Where sample i has seed i, and the label of its index or the class that it shows."""
    places = np.unique(np.linspace(0, len(seeds_N) - 1, TRIED).round().astype(int))
    rest = np.linspace(0, len(seeds_N) - 1, COMPARED).round().astype(int)
    # those that are tried come first
    chosen = np.array(list(dict.fromkeys([*places.tolist(), *rest.tolist()]))[:COMPARED])
    by_index_N = rows_N % maker.resolved.plan.num_conditions
    guesses: list[tuple[NDArray[np.int64], str]] = [(by_index_N, CLAIMED)]
    if seeds_N[0] == rows_N[0]:
        guesses += [(by_index_N, OFF)] if OFF in maker.settings() else []
        guesses += [] if seen_N is None else [(seen_N, CLAIMED)]
    for labels_N, guidance in guesses:
        twins = maker.match(seeds_N[places].tolist(), labels_N[places].tolist(), guidance)
        nearest_T, is_clear_T = _nearest(twins, thumbs_ND)
        if ((nearest_T == places) & is_clear_T).mean() >= _BELONG:
            found = (chosen.tolist(), seeds_N[chosen].tolist(), labels_N[chosen].tolist())
            return _Match(*found)
    return None


def _in_any_order(maker: _Maker, thumbs_ND: NDArray[np.float64]) -> _Match | None:
    """Where the first seeds, with the labels of their indices, are somewhere in the set."""
    seeds = np.arange(COMPARED // 2)
    labels = seeds % maker.resolved.plan.num_conditions
    nearest_T, is_clear_T = _nearest(maker.match(seeds.tolist(), labels.tolist()), thumbs_ND)
    if is_clear_T.mean() < _BELONG:
        return None
    rows = np.flatnonzero(is_clear_T)
    return _Match(nearest_T[rows].tolist(), seeds[rows].tolist(), labels[rows].tolist())


def _nearest(
    twins_THWC: Images, thumbs_ND: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The nearest sample of each twin, and whether it is clearly nearer than the next one."""
    apart_TN = _apart(twins_THWC, thumbs_ND)
    two_T2 = np.sqrt(np.partition(apart_TN, 1, axis=1)[:, :2])
    return apart_TN.argmin(axis=1), two_T2[:, 0] < _APART * two_T2[:, 1]


def _apart(twins_THWC: Images, thumbs_ND: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared distances of thumbnails [T,N]."""
    ours = thumbnails(twins_THWC, _SIDE)
    squares = (ours**2).sum(axis=1)[:, None] + (thumbs_ND**2).sum(axis=1)
    return np.asarray(np.maximum(squares - 2 * ours @ thumbs_ND.T, 0))


def _compared(
    maker: _Maker,
    images_NHWC: Images,
    match: _Match,
) -> Twins:
    """Try settings on a few, and take the nearest for more."""
    places, seeds, labels = match
    few, few_seeds, few_labels = images_NHWC[places[:TRIED]], seeds[:TRIED], labels[:TRIED]
    settings = maker.settings()

    def fit(guidance: str, num_steps: int) -> Fit:
        changes = {"num_steps": num_steps, **settings[guidance]}
        return Fit(guidance, num_steps, rms(few, maker.make(few_seeds, few_labels, **changes)))

    fits: list[Fit] = []
    for num_steps in dict.fromkeys([maker.num_steps, *NUM_STEPS]):
        fits.append(fit(CLAIMED, num_steps))
        if fits[-1].rms < EXACT:
            break
    near = [one for one in fits if one.rms <= _CLOSE * min(other.rms for other in fits)]
    others = [guidance for guidance in settings if guidance != CLAIMED]
    fits += [fit(guidance, one.num_steps) for one in near for guidance in others]
    fits.sort(key=lambda fit: fit.rms)
    best = fits[0]
    changes = {"num_steps": best.num_steps, **settings[best.guidance]}
    twins = maker.make(seeds, labels, **changes)
    samples = images_NHWC[places]
    away_T = rms(samples, twins)
    kept = away_T <= 3 * np.median(away_T) + EXACT
    return Twins(maker.resolved.preset, tuple(fits), samples[kept], twins[kept])


def rms(a_THWC: Images, b_THWC: Images) -> NDArray[np.float64]:
    """Root mean square difference of each pair, in grey levels."""
    change = a_THWC.astype(np.float64) - b_THWC
    return np.asarray(np.sqrt((change**2).mean(axis=(1, 2, 3))))
