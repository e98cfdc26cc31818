"""Count how often `evalsuite why` errs on digits: false alarms, and faults not named first.

Clean sets are held-out real digits and samples of many settings with seeds of their own. Faults are
put into samples of the preset in 4 and in 15 steps. Half of the sets are in the order of their
seeds, so that samples are made again; the other half are of other seeds, which nobody knows.

    python -m jobs.why.rates --part clean
    python -m jobs.why.rates --part faults
    python -m jobs.why.rates --part pairs

About 20 minutes a part on one core of a 2-core x86 CPU, with --sets 2.
"""

import argparse
import io
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from evalsuite.artifacts.references import open_reference
from evalsuite.artifacts.samples import SampleSet
from evalsuite.diagnosis.findings import Diagnosis
from evalsuite.diagnosis.gathering import comparison_of, expected_of, gather, subject_of_samples
from evalsuite.diagnosis.probes import PROBES, diagnose
from evalsuite.pipeline.analysis import chosen_images
from evalsuite.pipeline.generation import BatchSampler
from evalsuite.pipeline.numerics import prepare_torch
from evalsuite.pipeline.plan import PlanOptions, resolve_plan

CPU = torch.device("cpu")
REFERENCE = "digits-16-train"
COUNT = 200
OTHER_SEEDS = 3
"""Replicate whose seeds `why` does not try."""
SETTINGS: dict[str, dict[str, object]] = {
    "preset": {},
    "4 steps": {"num_steps": 4},
    "2 steps": {"num_steps": 2},
    "8 steps": {"num_steps": 8},
    "Euler, 30 steps": {"solver": "euler", "num_steps": 30},
    "guidance 1.25": {"guidance_scale": 1.25},
    "guidance 2": {"guidance_scale": 2.0},
    "guidance 3": {"guidance_scale": 3.0},
    "guidance always": {"guidance_interval": (0.0, 1.0)},
    "time shift 2": {"timeshift": 2.0},
}
Images = NDArray[np.uint8]
Labels = NDArray[np.int64]
Faulty = tuple[Images, Labels]


class Fault(NamedTuple):
    """What is done to samples, and the probe that must name it first."""

    probe: str
    inject: Callable[[Images, Labels, np.random.Generator], Faulty]


def by_jpeg(images: Images, quality: int) -> Images:
    """Through JPEG at a quality."""
    found = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=quality)
        found.append(np.asarray(Image.open(buffer)))
    return np.stack(found)


def down_and_up(images: Images, name: str) -> Images:
    """Halved and doubled by one of Pillow's filters."""
    rule, (height, width) = Image.Resampling[name], images.shape[1:3]
    small = [Image.fromarray(image).resize((width // 2, height // 2), rule) for image in images]
    return np.stack([np.asarray(image.resize((width, height), rule)) for image in small])


def truncated(images: Images, rng: np.random.Generator) -> Images:
    """As if rounded down: half of all values are one level lower."""
    lower = (rng.random(images.shape) < 0.5).astype(np.int16)
    return np.clip(images.astype(np.int16) - lower, 0, 255).astype(np.uint8)


def some_copied(images: Images, share: float, rng: np.random.Generator) -> Images:
    """A share of samples overwritten by others."""
    count = max(1, round(share * len(images)))
    places = rng.permutation(len(images))
    copied = images.copy()
    copied[places[:count]] = images[places[count : 2 * count]]
    return copied


def some_exchanged(labels: Labels, share: float, rng: np.random.Generator) -> Labels:
    """The labels of a share of samples exchanged among them."""
    places = rng.permutation(len(labels))[: round(share * len(labels))]
    exchanged = labels.copy()
    exchanged[places] = np.roll(labels[places], 1)
    return exchanged


FAULTS: dict[str, Fault] = {
    "labels + 1": Fault("labels", lambda x, y, _: (x, (y + 1) % 10)),
    "labels - 1": Fault("labels", lambda x, y, _: (x, (y - 1) % 10)),
    "classes renamed": Fault("labels", lambda x, y, rng: (x, rng.permutation(10)[y])),
    "two classes swapped": Fault(
        "labels", lambda x, y, _: (x, np.where(y == 3, 5, np.where(y == 5, 3, y)))
    ),
    "labels shuffled": Fault("labels", lambda x, y, rng: (x, rng.permutation(y))),
    "20 % of labels exchanged": Fault("labels", lambda x, y, rng: (x, some_exchanged(y, 0.2, rng))),
    "10 % of labels exchanged": Fault("labels", lambda x, y, rng: (x, some_exchanged(y, 0.1, rng))),
    "BGR": Fault("channels", lambda x, y, _: (x[..., ::-1], y)),
    "truncated": Fault("uint8", lambda x, y, rng: (truncated(x, rng), y)),
    "even levels only": Fault("uint8", lambda x, y, _: (x // 2 * 2, y)),
    **{
        f"JPEG {quality}": Fault("jpeg", lambda x, y, _, q=quality: (by_jpeg(x, q), y))  # type: ignore[misc]
        for quality in (75, 85, 90, 95)
    },
    **{
        f"{share:.0%} copies": Fault(
            "duplicates",
            lambda x, y, rng, s=share: (some_copied(x, s, rng), y),  # type: ignore[misc]
        )
        for share in (0.01, 0.05, 0.1)
    },
    **{
        f"resized, {name.lower()}": Fault(
            "resizing", lambda x, y, _, n=name: (down_and_up(x, n), y)
        )  # type: ignore[misc]
        for name in ("BICUBIC", "BILINEAR", "LANCZOS", "BOX", "NEAREST")
    },
    "sorted by class": Fault(
        "class_order", lambda x, y, _: (x[np.argsort(y, kind="stable")], np.sort(y))
    ),
}
PAIRED = (
    "truncated",
    "labels + 1",
    "BGR",
    "5% copies",
    "resized, bicubic",
    "JPEG 85",
    "sorted by class",
)
"""Faults that are combined, in the order in which they are put in."""
NEEDS_TWINS = ("BGR", "truncated")
"""Of digits, which are grey, these leave no trace but beside samples made again."""


def made(settings: dict[str, object], replicate: int, count: int = COUNT) -> Faulty:
    """Samples of the digits model with their labels."""
    resolved = resolve_plan(
        PlanOptions(model="pixnerd-digits", sampling=settings, replicate=replicate)
    )
    sampler = BatchSampler(resolved.plan, resolved.materials, CPU)
    batches = [sampler.batch(b).rows for b in range(-(-count // resolved.plan.batch_size))]
    images = np.concatenate([rows.images_NHWC for rows in batches])[:count]
    return images, np.array([label for rows in batches for label in rows.labels])[:count]


def diagnosed(images: Images, labels: Labels, claim: str | None = None) -> Diagnosis:
    """What `evalsuite why` says of samples in memory, against the training split."""
    images = np.ascontiguousarray(images)
    held = SampleSet(
        "samples",
        len(images),
        (images.shape[1], images.shape[2]),
        labels,
        None,
        lambda start, stop: iter([images[start:stop]]),
        encoded=False,
    )
    subject, expected = subject_of_samples(held), expected_of(claim, None)
    against = comparison_of(subject, expected, REFERENCE, None, CPU)
    return diagnose(gather(subject, expected, against, CPU))


def clean_sets(num_sets: int) -> Iterator[tuple[str, Images, Labels]]:
    """Held-out digits and samples of every setting, in the order of seeds and of other seeds."""
    real = open_reference("digits-16-heldout").images
    assert real is not None
    assert real.labels_N is not None
    pictures = chosen_images(real, range(real.num_images))
    for number in range(2 * num_sets):
        rows = np.random.default_rng(number).permutation(len(pictures))[:COUNT]
        yield "held-out digits", pictures[rows], real.labels_N[rows]
    for name, settings in SETTINGS.items():
        for number in range(num_sets):
            yield f"{name}, seeds 0..", *made(settings, 0, COUNT * (number + 1))
            yield f"{name}, other seeds", *made(settings, OTHER_SEEDS + number)


def clean(num_sets: int) -> None:
    """Print the table of false alarms."""
    asked: Counter[str] = Counter()
    alarms: Counter[str] = Counter()
    print("| clean set | alarms |\n|---|---|")
    for name, images, labels in clean_sets(num_sets):
        found = diagnosed(images, labels)
        asked.update([*found.findings, *found.clear])
        alarms.update(found.findings)
        listed = ", ".join(f"{p} {one.strength:.1f}" for p, one in found.findings.items())
        print(f"| {name}, N = {len(images)} | {listed or 'none'} |", flush=True)
    print("\n| probe | clean sets it looked at | false alarms |\n|---|---|---|")
    for probe in PROBES:
        print(f"| {probe} | {asked[probe]} | {alarms[probe]} |")


def bases(num_sets: int) -> Iterator[tuple[bool, Images, Labels]]:
    """Sets to put faults in: (whether samples can be made again, images, labels)."""
    for steps, number in itertools.product((4, 15), range(num_sets)):
        yield True, *made({"num_steps": steps}, 0, COUNT * (1 + number))
        yield False, *made({"num_steps": steps}, OTHER_SEEDS + number)


def faults(num_sets: int) -> None:
    """Print how often each fault is named first."""
    first: Counter[tuple[str, bool]] = Counter()
    weakest: dict[str, float] = {}
    beside: dict[str, Counter[str]] = {name: Counter() for name in FAULTS}
    total: Counter[bool] = Counter()
    for again, images, labels in bases(num_sets):
        total[again] += 1
        for number, (name, fault) in enumerate(FAULTS.items()):
            rng = np.random.default_rng([number, len(images)])
            found = diagnosed(*fault.inject(images, labels, rng))
            named = next(iter(found.findings), None)
            first[name, again] += named == fault.probe
            if named == fault.probe:
                strength = found.findings[fault.probe].strength
                weakest[name] = min(weakest.get(name, np.inf), strength)
            beside[name].update(set(found.findings) - {fault.probe})
    print(
        "| fault | named first, samples made again | named first, other seeds | weakest | beside |"
    )
    print("|---|---|---|---|---|")
    for name in FAULTS:
        others = ", ".join(f"{probe} {n}" for probe, n in beside[name].items())
        lowest = f"{weakest[name]:.1f}" if name in weakest else ""
        print(
            f"| {name} | {first[name, True]} of {total[True]} | {first[name, False]} of"
            f" {total[False]} | {lowest} | {others} |",
            flush=True,
        )


def pairs(num_sets: int) -> None:
    """Print which pairs of faults are both found."""
    print("| faults | both found | missed |\n|---|---|---|")
    held = [(images, labels) for again, images, labels in bases(num_sets) if again]
    for names in itertools.combinations(PAIRED, 2):
        both, missed = 0, Counter[str]()
        for images, labels in held:
            rng, faulty = np.random.default_rng(7), (images, labels)
            for name in names:
                faulty = FAULTS[name].inject(*faulty, rng)
            found = diagnosed(*faulty)
            lacking = {FAULTS[name].probe for name in names} - set(found.findings)
            both += not lacking
            missed.update(lacking)
        told = ", ".join(f"{probe} {n}" for probe, n in missed.items())
        print(f"| {names[0]}, {names[1]} | {both} of {len(held)} | {told} |", flush=True)


def main() -> None:
    """Read the command line and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--part", choices=["clean", "faults", "pairs"], required=True)
    parser.add_argument("--sets", type=int, default=1, help="of each kind")
    args = parser.parse_args()
    prepare_torch(CPU)
    {"clean": clean, "faults": faults, "pairs": pairs}[args.part](args.sets)


if __name__ == "__main__":
    main()
