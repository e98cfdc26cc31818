"""Show that the shapes scores mean something: a table of sets of images, or of sampling settings.

Every row judges four images of each of the benchmark's 132 prompts by the product's own rules. A
row takes about half a minute on one core of a 2-core x86 CPU.

    python -m jobs.shapes.evidence
    python -m jobs.shapes.evidence --grid
"""

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from evalsuite.pipeline.benchmark_files import metadata_of
from evalsuite.pipeline.conditions import TextRequest
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
Judges = Callable[[GenevalPrompt], Sequence[GenevalPrompt]]
"""The prompt that an image was made of => those that it is judged by; none leaves it out."""
PER_PROMPT = 4
NUM_WRONG = 8
"""Other prompts of the tag that each image is judged by in the row of chance."""
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
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


def generated(
    settings: Mapping[str, Any],
    weights: str | None = None,
    asked: Sequence[GenevalPrompt] | None = None,
) -> Images:
    """The first four images of each prompt, in the order of their samples.

    Args:
        settings: of sampling; those that are not named, or None, are the preset's.
        weights: a file, instead of the preset's.
        asked: some prompts, instead of the benchmark's.
    """
    chosen = {key: value for key, value in settings.items() if value is not None}
    options = PlanOptions(
        model="pixnerd-shapes",
        sampling=chosen,
        weights=WeightsRequest(given=weights),
        text=TextRequest(prompt=tuple(one.prompt for one in asked or ())),
    )
    resolved = resolve_plan(options)
    sampler = BatchSampler(resolved.plan, resolved.materials, resolve_device("cpu"))
    count = PER_PROMPT * len(asked or prompts())
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
    images: Images, asked: Sequence[GenevalPrompt], judges: Judges | None = None
) -> dict[str, Estimate]:
    """Of each tag that was judged, and overall where all were; see `clusters`."""
    found = clusters(images, asked, judges)
    tags = {tag: share(found[tag]) for tag in TAGS if tag in found}
    return tags | ({"overall": mean_of_tags(found)} if len(tags) == len(TAGS) else {})


def clusters(
    images: Images, asked: Sequence[GenevalPrompt], judges: Judges | None = None
) -> dict[str, list[Cluster]]:
    """How often the images of each prompt are right, by tag.

    Args:
        images: in the order of their samples.
        asked: the prompts that they were made of.
        judges: by which others each image is judged instead of its own; an image that several
            judge is right as often as they find.
    """
    detector, colors = ShapeDetector(), ShapeColors()
    totals: dict[str, dict[str, list[float]]] = {}
    for index, image in enumerate(images):
        prompt = asked[index % len(asked)]
        by = [prompt] if judges is None else judges(prompt)
        if not by:
            continue
        (found,) = detector.detect([image])
        right = [judge_image(image, found, one, colors, OPTIONS).verdict.correct for one in by]
        tag = totals.setdefault(prompt.tag, {})
        tag.setdefault(prompt.key, []).append(float(np.mean(right)))
    return {
        tag: [Cluster(key, sum(values), len(values)) for key, values in keys.items()]
        for tag, keys in totals.items()
    }


def other_prompts(asked: Sequence[GenevalPrompt]) -> Judges:
    """Some prompts of the same tag that ask for something else: what chance gives."""
    rng = np.random.default_rng(3)

    def judges(prompt: GenevalPrompt) -> list[GenevalPrompt]:
        rivals = [one for one in asked if one.tag == prompt.tag and one.include != prompt.include]
        return [rivals[int(n)] for n in rng.choice(len(rivals), NUM_WRONG, replace=False)]

    return judges


def turned(prompt: GenevalPrompt) -> list[GenevalPrompt]:
    """The same shapes in the opposite relation, or with their colours swapped; else nothing.

    A model that knows words but not what binds them is right as often by this as by the prompt.
    """
    first, *rest = prompt.include
    if prompt.tag == "position":
        (second,) = rest
        assert second.position is not None
        relation, place = second.position
        pair = (first, second.model_copy(update={"position": (OPPOSITE[relation], place)}))
    elif prompt.tag == "color_attr":
        (second,) = rest
        pair = (
            first.model_copy(update={"color": second.color}),
            second.model_copy(update={"color": first.color}),
        )
    else:
        return []
    return [replace(prompt, include=pair)]


def show(name: str, found: Mapping[str, Estimate]) -> None:
    """One row of a table."""
    cells = [f"{found[tag].value:.3f}" if tag in found else "" for tag in TAGS]
    cells.append(_with_interval(found["overall"]) if "overall" in found else "")
    print(f"| {name} | {' | '.join(cells)} |", flush=True)


def _with_interval(one: Estimate) -> str:
    interval = "" if one.interval is None else " ({:.3f} to {:.3f})".format(*one.interval)
    return f"{one.value:.3f}{interval}"


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
    show(
        "generated, judged by the opposite relation or swapped colours", scores(made, asked, turned)
    )
    show(
        "generated, judged by another prompt of its tag", scores(made, asked, other_prompts(asked))
    )


if __name__ == "__main__":
    main()
