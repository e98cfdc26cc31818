"""Show that the shapes scores mean something: a table of sets of images, or of sampling settings.

Every row judges four images of each of the benchmark's 132 prompts by the product's own rules. A
row takes about half a minute on one core of a 2-core x86 CPU.

    python -m jobs.shapes.evidence
    python -m jobs.shapes.evidence --grid
"""

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from evalsuite.pipeline.benchmark_files import metadata_of
from evalsuite.pipeline.generation import BatchSampler
from evalsuite.pipeline.numerics import resolve_device
from evalsuite.pipeline.plan import PlanOptions, resolve_plan
from evalsuite.pipeline.weights import WeightsRequest
from evalsuite.t2i.clustered import Cluster, Estimate, mean_of_tags, share
from evalsuite.t2i.geneval import judge_image
from evalsuite.t2i.geneval_prompts import TAGS, GenevalPrompt, read_geneval_prompts
from evalsuite.t2i.shapes import OPTIONS, ShapeColors, ShapeDetector
from jobs.shapes.data import draw_picture

Images = NDArray[np.uint8]
PER_PROMPT = 4
NUM_WRONG = 8
"""Other prompts of the tag that each image is judged by in the row of chance."""
GRID: tuple[dict[str, Any], ...] = (
    {},
    {"num_steps": 10},
    {"num_steps": 40},
    {"guidance_scale": 1.0},
    {"guidance_scale": 1.5},
    {"guidance_scale": 4.0},
    {"guidance_scale": 6.0},
    {"guidance_interval": (0.0, 0.5)},
    {"guidance_interval": (0.0, 1.0)},
    {"guidance_interval": (0.1, 0.8)},
    {"timeshift": 2.0},
    {"solver": "heun", "num_steps": 10, "order": None},
)


def prompts() -> tuple[GenevalPrompt, ...]:
    """Of the benchmark."""
    return read_geneval_prompts(metadata_of("shapes"))


def generated(settings: Mapping[str, Any], weights: str | None = None) -> Images:
    """The first four images of each prompt, in the order of their samples."""
    chosen = {key: value for key, value in settings.items() if value is not None}
    options = PlanOptions(
        model="pixnerd-shapes", sampling=chosen, weights=WeightsRequest(given=weights)
    )
    resolved = resolve_plan(options)
    sampler = BatchSampler(resolved.plan, resolved.materials, resolve_device("cpu"))
    count = PER_PROMPT * len(prompts())
    batches = range(-(-count // resolved.plan.batch_size))
    return np.concatenate([sampler.batch(b).rows.images_NHWC for b in batches])[:count]


def drawn(asked: Sequence[GenevalPrompt]) -> Images:
    """Pictures that the training program would draw of the prompts."""
    rng = np.random.default_rng(7)
    return np.stack([draw_picture(p.record, rng).image for _ in range(PER_PROMPT) for p in asked])


def with_noise(images: Images, grey_levels: float) -> Images:
    """Images with Gaussian noise of this standard deviation."""
    noise = np.random.default_rng(0).normal(0, grey_levels, images.shape)
    return np.clip(np.rint(images + noise), 0, 255).astype(np.uint8)


def scores(
    images: Images, asked: Sequence[GenevalPrompt], *, by_chance: bool = False
) -> dict[str, Estimate]:
    """Of each tag and overall; `by_chance` judges each image by other prompts of its tag."""
    detector, colors = ShapeDetector(), ShapeColors()
    rng = np.random.default_rng(3)
    totals: dict[str, dict[str, list[float]]] = {tag: {} for tag in TAGS}
    for index, image in enumerate(images):
        prompt = asked[index % len(asked)]
        (found,) = detector.detect([image])
        rivals = list(_others(prompt, asked, rng)) if by_chance else [prompt]
        right = [judge_image(image, found, one, colors, OPTIONS).verdict.correct for one in rivals]
        totals[prompt.tag].setdefault(prompt.key, []).append(float(np.mean(right)))
    clusters = {
        tag: [Cluster(key, sum(values), len(values)) for key, values in keys.items()]
        for tag, keys in totals.items()
    }
    return {tag: share(clusters[tag]) for tag in TAGS} | {"overall": mean_of_tags(clusters)}


def _others(
    prompt: GenevalPrompt, asked: Sequence[GenevalPrompt], rng: np.random.Generator
) -> Iterator[GenevalPrompt]:
    """Some prompts of the same tag that ask for something else."""
    rivals = [one for one in asked if one.tag == prompt.tag and one.include != prompt.include]
    for place in rng.choice(len(rivals), NUM_WRONG, replace=False):
        yield rivals[int(place)]


def show(name: str, found: Mapping[str, Estimate]) -> None:
    """One row of a table."""
    cells = [f"{found[tag].value:.3f}" for tag in TAGS]
    overall = found["overall"]
    interval = "" if overall.interval is None else " ({:.3f} to {:.3f})".format(*overall.interval)
    print(f"| {name} | {' | '.join(cells)} | {overall.value:.3f}{interval} |", flush=True)


def main() -> None:
    """Read the command line and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--grid", action="store_true", help="sampling settings instead of sets")
    parser.add_argument("--weights", help="others than the preset's")
    args = parser.parse_args()
    torch.set_num_threads(1)
    asked = prompts()
    print(f"| images | {' | '.join(TAGS)} | overall |\n|{'---|' * (len(TAGS) + 2)}")
    if args.grid:
        for settings in GRID:
            start_s = time.process_time()
            images = generated(settings, args.weights)
            speed = len(images) / (time.process_time() - start_s)
            name = ", ".join(f"{k} {v}" for k, v in settings.items()) or "the preset"
            show(f"{name} ({speed:.0f} images/s)", scores(images, asked))
        return
    truth, made = drawn(asked), generated({}, args.weights)
    show("drawn by the program", scores(truth, asked))
    show("drawn, noise of 25 grey levels added", scores(with_noise(truth, 25), asked))
    show("generated", scores(made, asked))
    show("generated, judged by another prompt of its tag", scores(made, asked, by_chance=True))


if __name__ == "__main__":
    main()
