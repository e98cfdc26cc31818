"""Show that digits numbers mean something: two tables of metrics, or a grid of sampling settings.

The tables take about 3 minutes on one core of a 2-core x86 CPU, the grid about 8 with 1,000
samples. All sets in a table have the same number of images, because a Fréchet distance depends
on it.

    python -m jobs.digits.train_denoiser --stop-after 200 --out build/fraction.safetensors
    python -m jobs.digits.evidence --fraction-weights build/fraction.safetensors
    python -m jobs.digits.evidence --grid --num-samples 1000
    python -m jobs.digits.evidence --noise
"""

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from evalsuite.config import ProtocolSpec, load_spec
from evalsuite.features.digits import DigitsExtractor
from evalsuite.metrics.moments import Moments
from evalsuite.metrics.registry import compute_metrics
from evalsuite.metrics.values import MetricValue, ReferenceData, SampleData
from evalsuite.models.pixnerd.class_conditional import PixNerdClassConditional
from evalsuite.sampling.grids import time_grid
from evalsuite.sampling.guidance import Guidance, GuidedVelocity, VelocityFn
from evalsuite.sampling.noise import draw_noise, sample_generators
from evalsuite.sampling.pixels import to_uint8_half_up
from evalsuite.sampling.solvers import sample_adams, sample_euler, sample_heun
from jobs.digits.build_reference import WEIGHTS, features_of, load_extractor
from jobs.digits.data import NUM_CLASSES, SIZE
from jobs.digits.train_denoiser import CONFIG

BATCH_SIZE = 50
GREY_LEVELS_OF_NOISE = 40.0
Images = NDArray[np.uint8]
Solver = Callable[[VelocityFn, Tensor, Tensor], Tensor]
SOLVERS: dict[str, Solver] = {
    "euler": sample_euler,
    "heun": sample_heun,
    "adams2": partial(sample_adams, order=2),
    "adams3": partial(sample_adams, order=3),
}


@dataclass(frozen=True)
class Settings:
    """Sampling settings; the defaults are those of the `pixnerd-digits` preset."""

    solver: str = "adams2"
    num_steps: int = 15
    guidance_scale: float = 1.5
    guidance_interval: tuple[float, float] = (0.1, 0.7)
    timeshift: float = 1.0


@dataclass(frozen=True)
class Row:
    """One set of images and its numbers."""

    name: str
    values: dict[str, MetricValue]
    accuracy: float


def labels_of(count: int) -> NDArray[np.int64]:
    """The label of each sample: its index modulo the number of classes."""
    return np.arange(count) % NUM_CLASSES


def noise_of(start: int, batch_size: int = BATCH_SIZE) -> Tensor:
    """Initial noise of one batch; the seed of a sample is its index."""
    return draw_noise(sample_generators(range(start, start + batch_size)), (3, SIZE, SIZE))


def load_denoiser(path: Path) -> PixNerdClassConditional:
    """The network with the weights at `path`."""
    model = PixNerdClassConditional(CONFIG)
    model.load_state_dict(load_file(path))
    return model.eval()


@torch.inference_mode()
def generate(model: PixNerdClassConditional, count: int, settings: Settings) -> Images:
    """The first `count` samples, uint8 [N,16,16,3], computed in whole batches."""
    guidance = Guidance(settings.guidance_scale, settings.guidance_interval)
    times_S = time_grid(settings.num_steps, settings.timeshift)
    batches = []
    for start in range(0, count, BATCH_SIZE):
        labels = torch.arange(start, start + BATCH_SIZE) % NUM_CLASSES
        null = torch.full_like(labels, NUM_CLASSES)
        velocity = GuidedVelocity(model, labels, null, guidance)
        images = SOLVERS[settings.solver](velocity, noise_of(start), times_S)
        batches.append(to_uint8_half_up(images).numpy())
    return np.concatenate(batches)[:count]


def pure_noise(count: int) -> Images:
    """The initial noise of the first `count` samples, as images."""
    starts = range(0, count, BATCH_SIZE)
    return np.concatenate([to_uint8_half_up(noise_of(s)).numpy() for s in starts])[:count]


def with_noise(images_NHWC: Images, grey_levels: float = GREY_LEVELS_OF_NOISE) -> Images:
    """Images with Gaussian noise of this standard deviation, independent for each channel."""
    noise = np.random.default_rng(0).normal(0, grey_levels, images_NHWC.shape)
    return np.clip(np.rint(images_NHWC + noise), 0, 255).astype(np.uint8)


class Judge:
    """Scores sets of images against the training split's reference."""

    def __init__(self, reference_path: Path, extractor: DigitsExtractor) -> None:
        """Read the reference and extract the features of its images."""
        with np.load(reference_path, allow_pickle=False) as file:
            count = len(file["arr_0"])
            self._reference = ReferenceData(
                Moments(count, file["mu"], file["sigma"]),
                Moments(count, file["mu_s"], file["sigma_s"]),
                features_of(extractor, file["arr_0"]).pool_ND,
            )
        self._extractor = extractor

    def row(self, name: str, images_NHWC: Images, labels_N: NDArray[np.int64]) -> Row:
        """All metrics of a set whose labels are balanced."""
        features = features_of(self._extractor, images_NHWC)
        assert features.probabilities_NK is not None
        samples = SampleData(
            features.pool_ND, features.spatial_NP, features.probabilities_NK, labels_N
        )
        right = features.probabilities_NK.argmax(axis=1) == labels_N
        protocol = load_spec(ProtocolSpec, "digits")
        values = compute_metrics(protocol.metrics, samples, self._reference, protocol)
        return Row(name, values, float(right.mean()))


def gap(row: Row, above: Row) -> float:
    """Difference of two FIDs in standard errors of the difference, taken as independent."""
    new, old = row.values["fid"], above.values["fid"]
    if new.standard_error is None or old.standard_error is None:
        return math.nan
    return (new.value - old.value) / math.hypot(new.standard_error, old.standard_error)


def print_table(rows: list[Row], count: int) -> None:
    """Print one table in Markdown."""
    print(f"\nN = {count}, digits-convnet features, reference digits-16-train\n")
    print("| images | FID | SE | gap in SE | sFID | IS | precision | recall | as asked |")
    print("|---|---|---|---|---|---|---|---|---|")
    for i, row in enumerate(rows):
        value = {name: metric.value for name, metric in row.values.items()}
        distance = f"{gap(row, rows[i - 1]):.1f}" if i else ""
        error = row.values["fid"].standard_error or math.nan
        print(
            f"| {row.name} | {value['fid']:.3f} | {error:.3f} | {distance} | {value['sfid']:.2f} "
            f"| {value['inception_score']:.3f} | {value['precision']:.3f} "
            f"| {value['recall']:.3f} | {row.accuracy:.1%} |",
            flush=True,
        )


def tables(args: argparse.Namespace) -> None:
    """Print the two tables."""
    judge = Judge(args.reference_dir / "digits-16-train.npz", load_extractor(args.extractor))
    with np.load(args.reference_dir / "digits-16-heldout.npz", allow_pickle=False) as file:
        held_out_images, held_out_labels = file["arr_0"], file["arr_1"]
    start_s = time.process_time()
    generated = generate(load_denoiser(args.weights), args.num_samples, Settings())
    seconds = time.process_time() - start_s
    sets = {
        "generated": generated,
        "generated after a fraction of the training": generate(
            load_denoiser(args.fraction_weights), args.num_samples, Settings()
        ),
        "generated, noise of 40 grey levels added": with_noise(generated),
        "pure noise": pure_noise(args.num_samples),
    }
    for count in (len(held_out_images), args.num_samples):
        labels = labels_of(count)
        rows = [judge.row(name, images[:count], labels) for name, images in sets.items()]
        rows.sort(key=lambda row: row.values["fid"].value)
        if count == len(held_out_images):
            rows.insert(0, judge.row("held-out real digits", held_out_images, held_out_labels))
        print_table(rows, count)
    print(f"\n{Settings()}\n{args.num_samples / seconds:.1f} images per CPU second with one thread")


def grid(args: argparse.Namespace) -> None:
    """Print metrics of sampling settings, one changed at a time or two together."""
    judge = Judge(args.reference_dir / "digits-16-train.npz", load_extractor(args.extractor))
    model = load_denoiser(args.weights)
    base, count = Settings(), args.num_samples
    tried = [
        base,
        *(replace(base, num_steps=steps) for steps in (8, 10, 20, 30)),
        replace(base, solver="adams3"),
        replace(base, solver="euler"),
        replace(base, solver="euler", num_steps=50),
        replace(base, solver="heun", num_steps=8),
        *(replace(base, guidance_scale=scale) for scale in (1.0, 1.25, 2.0, 3.0)),
        *(replace(base, guidance_interval=ends) for ends in ((0.0, 1.0), (0.0, 0.7), (0.3, 0.7))),
        *(replace(base, timeshift=shift) for shift in (0.5, 2.0)),
    ]
    print(
        "| solver | steps | guidance | interval | time shift | FID | SE | sFID | IS | precision "
        "| recall | as asked | images/s |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|---|---|")
    for settings in tried:
        start_s = time.process_time()
        images = generate(model, count, settings)
        rate = count / (time.process_time() - start_s)
        row = judge.row("", images, labels_of(count))
        value = {name: metric.value for name, metric in row.values.items()}
        print(
            f"| {settings.solver} | {settings.num_steps} | {settings.guidance_scale} "
            f"| {settings.guidance_interval} | {settings.timeshift} | {value['fid']:.3f} "
            f"| {row.values['fid'].standard_error:.3f} | {value['sfid']:.2f} "
            f"| {value['inception_score']:.3f} | {value['precision']:.3f} "
            f"| {value['recall']:.3f} | {row.accuracy:.1%} | {rate:.0f} |",
            flush=True,
        )


def noise_levels(args: argparse.Namespace) -> None:
    """Print how FID answers to noise on held-out, unguided and guided digits."""
    judge = Judge(args.reference_dir / "digits-16-train.npz", load_extractor(args.extractor))
    with np.load(args.reference_dir / "digits-16-heldout.npz", allow_pickle=False) as file:
        held_out_images, held_out_labels = file["arr_0"], file["arr_1"]
    count, model = len(held_out_images), load_denoiser(args.weights)
    labels = labels_of(count)
    sets = {
        "held-out real digits": (held_out_images, held_out_labels),
        "generated without guidance": (generate(model, count, Settings(guidance_scale=1)), labels),
        "generated with the preset": (generate(model, count, Settings()), labels),
    }
    levels = (0, 10, 20, 30, 40)
    print(f"| FID at N = {count}, grey levels of noise |" + "".join(f" {n} |" for n in levels))
    print("|---" * (len(levels) + 1) + "|")
    for name, (images, asked) in sets.items():
        rows = [judge.row(name, with_noise(images, level), asked) for level in levels]
        cells = "".join(f" {row.values['fid'].value:.3f} |" for row in rows)
        print(f"| {name} |{cells}", flush=True)


def main() -> None:
    """Read the command line and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--weights", type=Path, default="configs/models/pixnerd-digits.safetensors")
    parser.add_argument("--fraction-weights", type=Path, help="weights of a fraction of training")
    parser.add_argument("--extractor", type=Path, default=WEIGHTS)
    parser.add_argument("--reference-dir", type=Path, default="reference_stats")
    parser.add_argument("--num-samples", type=int, default=2000)
    parser.add_argument("--grid", action="store_true", help="try sampling settings instead")
    parser.add_argument("--noise", action="store_true", help="try levels of noise instead")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.grid:
        grid(args)
    elif args.noise:
        noise_levels(args)
    elif args.fraction_weights is None:
        parser.error("the tables need --fraction-weights")
    else:
        tables(args)


if __name__ == "__main__":
    main()
