"""Count how often `evalsuite why` errs on digits: false alarms, and faults not named first.

Clean sets are held-out real digits and samples of many settings with seeds of their own. Faults are
put into samples of the preset in 4 and in 15 steps. Half of the sets are in the order of their
seeds, so that samples are made again; the other half are of other seeds, which nobody knows.

    python -m jobs.why.rates --part clean --rows build/why.jsonl
    python -m jobs.why.rates --part faults --rows build/why.jsonl
    python -m jobs.why.rates --part pairs --rows build/why.jsonl
    python -m jobs.why.rates --rows build/why.jsonl

Some minutes a part on one core of a 2-core x86 CPU; `--share 2/4` makes a quarter of it.
"""

import argparse
import io
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from evalsuite.artifacts.references import open_reference
from evalsuite.artifacts.samples import SampleSet
from evalsuite.diagnosis.findings import Diagnosis
from evalsuite.diagnosis.gathering import (
    Comparison,
    Subject,
    comparison_of,
    gather,
    subject_of_samples,
)
from evalsuite.diagnosis.probes import PROBES, diagnose
from evalsuite.pipeline.analysis import chosen_images
from evalsuite.pipeline.generation import BatchSampler
from evalsuite.pipeline.numerics import prepare_torch
from evalsuite.pipeline.plan import PlanOptions, resolve_plan

CPU = torch.device("cpu")
REFERENCE = "digits-16-train"
COUNT = 200
OTHER_SEEDS = 17
"""Replicate from which on `why` does not try seeds."""
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
    "every fourth level only": Fault("uint8", lambda x, y, _: (x // 4 * 4, y)),
    "every eighth level only": Fault("uint8", lambda x, y, _: (x // 8 * 8 + 4, y)),
    "inverted": Fault("orientation", lambda x, y, _: (255 - x, y)),
    "mirrored": Fault("orientation", lambda x, y, _: (x[:, :, ::-1], y)),
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


@cache
def digits() -> Comparison:
    """Extractor and reference, read once."""
    subject = subject_of(np.zeros((20, 16, 16, 3), np.uint8), None)
    return comparison_of(subject, None, REFERENCE, None, CPU)


def made(settings: dict[str, object], replicate: int, count: int = COUNT) -> Faulty:
    """Samples of the digits model with their labels."""
    resolved = resolve_plan(
        PlanOptions(model="pixnerd-digits", sampling=settings, replicate=replicate)
    )
    sampler = BatchSampler(resolved.plan, resolved.materials, CPU)
    batches = [sampler.batch(b).rows for b in range(-(-count // resolved.plan.batch_size))]
    images = np.concatenate([rows.images_NHWC for rows in batches])[:count]
    return images, np.array([label for rows in batches for label in rows.labels])[:count]


def diagnosed(
    images: Images, labels: Labels | None, against: Comparison | None = None
) -> Diagnosis:
    """What `evalsuite why` says of samples in memory, by default against the training split."""
    return diagnose(gather(subject_of(images, labels), None, against or digits(), CPU))


def subject_of(images: Images, labels: Labels | None) -> Subject:
    """Samples in memory."""
    pixels = np.ascontiguousarray(images)
    size = (pixels.shape[1], pixels.shape[2])
    held = SampleSet(
        "samples", len(pixels), size, labels, None, lambda a, b: iter([pixels[a:b]]), encoded=False
    )
    return subject_of_samples(held)


def clean_sets(num_sets: int) -> Iterator[tuple[str, Callable[[], Faulty]]]:
    """Held-out digits and samples of every setting, in the order of seeds and of other seeds."""
    for number in range(2 * num_sets):
        yield "held-out digits", partial(held_out, number)
    for name, settings in SETTINGS.items():
        for number in range(num_sets):
            yield f"{name}, seeds 0..", partial(made, settings, 0, COUNT * (number + 1))
            yield f"{name}, other seeds", partial(made, settings, OTHER_SEEDS + number)


def held_out(number: int) -> Faulty:
    """Some of the real digits that no network has seen."""
    real = open_reference("digits-16-heldout").images
    assert real is not None
    assert real.labels_N is not None
    rows = np.random.default_rng(number).permutation(real.num_images)[:COUNT]
    return chosen_images(real, rows.tolist()), real.labels_N[rows]


def bases(num_sets: int) -> Iterator[tuple[bool, Images, Labels]]:
    """Sets to put faults in: (whether samples can be made again, images, labels)."""
    for steps, number in itertools.product((4, 15), range(num_sets)):
        yield True, *made({"num_steps": steps}, 0, COUNT * (1 + number))
        yield False, *made({"num_steps": steps}, OTHER_SEEDS + number)


Row = dict[str, Any]


def clean(num_sets: int) -> Iterator[Callable[[], Row]]:
    """Diagnoses of clean sets, still to be made."""
    for name, make in clean_sets(num_sets):
        yield lambda n=name, m=make: _row("clean", n, diagnosed(*m()), [])  # type: ignore[misc]


def faults(num_sets: int) -> Iterator[Callable[[], Row]]:
    """Diagnoses of single faults, still to be made."""
    for again, images, labels in bases(num_sets):
        for number, (name, fault) in enumerate(FAULTS.items()):
            faulty = fault.inject(images, labels, np.random.default_rng([number, len(images)]))
            kind = "fault, made again" if again else "fault, other seeds"
            yield lambda k=kind, n=name, f=faulty, p=fault.probe: _row(k, n, diagnosed(*f), [p])  # type: ignore[misc]


def pairs(num_sets: int) -> Iterator[Callable[[], Row]]:
    """Diagnoses of two faults, still to be made."""
    held = [(images, labels) for again, images, labels in bases(num_sets) if again]
    for (first, second), base in itertools.product(itertools.combinations(PAIRED, 2), held):
        rng = np.random.default_rng(7)
        faulty = FAULTS[second].inject(*FAULTS[first].inject(*base, rng), rng)
        probes = [FAULTS[first].probe, FAULTS[second].probe]
        name = f"{first} + {second}"
        yield lambda n=name, f=faulty, p=probes: _row("pair", n, diagnosed(*f), p)  # type: ignore[misc]


def _row(kind: str, name: str, found: Diagnosis, probes: Sequence[str]) -> Row:
    strengths = {probe: round(one.strength, 2) for probe, one in found.findings.items()}
    return {"kind": kind, "name": name, "probes": probes, "found": strengths} | {
        "looked": [*found.findings, *found.clear]
    }


PARTS = {"clean": clean, "faults": faults, "pairs": pairs}


def tables(rows: Sequence[Row]) -> None:
    """Print what all rows say."""
    kinds: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        kinds.setdefault(row["kind"], {}).setdefault(row["name"], []).append(row)
    sets = [row for named in kinds.get("clean", {}).values() for row in named]
    print("| probe | clean sets it looked at | false alarms |\n|---|---|---|")
    for probe in PROBES:
        looked = sum(probe in row["looked"] for row in sets)
        print(f"| {probe} | {looked} | {sum(probe in row['found'] for row in sets)} |")
    for row in sets:
        if row["found"]:
            print(f"alarm: {row['name']}: {row['found']}")
    for kind in ("fault, made again", "fault, other seeds", "pair"):
        print(f"\n| {kind} | found | named first | weakest | beside |\n|---|---|---|---|---|")
        for name, named in kinds.get(kind, {}).items():
            found = [row for row in named if set(row["probes"]) <= set(row["found"])]
            first = sum(next(iter(row["found"])) in row["probes"] for row in found)
            weakest = min((row["found"][p] for row in found for p in row["probes"]), default=0)
            beside = Counter(p for row in named for p in row["found"] if p not in row["probes"])
            others = ", ".join(f"{probe} {count}" for probe, count in beside.items())
            count = len(named)
            print(f"| {name} | {len(found)} of {count} | {first} | {weakest:.1f} | {others} |")


def main() -> None:
    """Read the command line; add rows to a file, or print those of files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--part", choices=list(PARTS), help="what to measure; none prints tables")
    parser.add_argument("--sets", type=int, default=1, help="of each kind")
    parser.add_argument("--share", default="1/1", help="I/N: every N-th diagnosis from the I-th on")
    parser.add_argument("--rows", type=Path, nargs="+", required=True, help="JSON lines")
    args = parser.parse_args()
    prepare_torch(CPU)
    if args.part is None:
        lines = [line for path in args.rows for line in path.read_text().splitlines()]
        tables([json.loads(line) for line in lines])
        return
    index, count = (int(number) for number in args.share.split("/"))
    with args.rows[0].open("a") as file:
        for diagnose_it in itertools.islice(PARTS[args.part](args.sets), index - 1, None, count):
            file.write(json.dumps(diagnose_it()) + "\n")
            file.flush()


if __name__ == "__main__":
    main()
