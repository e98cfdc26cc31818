"""Pictures of coloured shapes with their captions: drawn from a seed, 32 x 32 RGB.

A caption is a GenEval record (`prompt`, `tag`, `include`, `exclude`), and a picture of it is any
picture that GenEval's rules find right; everything that the caption leaves open is drawn at random.

Run as a program it writes the prompts of the benchmark `shapes`:

    python -m jobs.shapes.data --out configs/benchmarks/shapes.jsonl
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evalsuite.t2i.shapes import GROUND, PALETTE, SHAPES, outline

SIZE = 32
HALF = SIZE // 2
SIDES = (10, 12)
"""Smallest and largest side of a shape, in pixels; one of ground is left to its quarter's edge."""
COLORS = tuple(PALETTE)
NUMBERS = {2: "two", 3: "three", 4: "four"}
RELATIONS = ("left of", "right of", "above", "below")
PREFIXES = ("", "a photo of ", "a picture of ")
SHARES = {
    "single_object": 0.06,
    "colors": 0.12,
    "two_object": 0.12,
    "counting": 0.14,
    "colored_counting": 0.10,
    "position": 0.14,
    "colored_position": 0.16,
    "color_attr": 0.16,
}
"""Of the kinds of captions in training."""

Record = dict[str, Any]


class Thing(NamedTuple):
    """A shape in a picture, its box from (top, left) with equal sides."""

    shape: str
    color: str
    top: int
    left: int
    side: int


class Picture(NamedTuple):
    """uint8 [32,32,3], what it shows and what it is a picture of."""

    image: NDArray[np.uint8]
    things: tuple[Thing, ...]
    record: Record


def clause(shape: str, color: str | None = None, count: int = 1) -> Record:
    """One entry of `include`."""
    return {"class": shape, "count": count, **({"color": color} if color else {})}


def words_of(entry: Record) -> str:
    """`a red circle`, `two circles`."""
    color = f"{entry['color']} " if "color" in entry else ""
    if entry["count"] == 1:
        return f"a {color}{entry['class']}"
    return f"{NUMBERS[entry['count']]} {color}{plural(entry['class'])}"


def plural(shape: str) -> str:
    """Of the four words."""
    return f"{shape}es" if shape.endswith("s") else f"{shape}s"


def counted(prefix: str, entry: Record) -> Record:
    """A caption of one kind of shape, one or more of it."""
    tag = "colors" if "color" in entry else "single_object"
    record: Record = {"tag": tag if entry["count"] == 1 else "counting", "include": [entry]}
    if entry["count"] > 1:
        record["exclude"] = [{"class": entry["class"], "count": entry["count"] + 1}]
    return {**record, "prompt": prefix + words_of(entry)}


def paired(prefix: str, first: Record, second: Record) -> Record:
    """`a circle and a square`."""
    tag = "color_attr" if "color" in first else "two_object"
    prompt = f"{prefix}{words_of(first)} and {words_of(second)}"
    return {"tag": tag, "include": [first, second], "prompt": prompt}


def placed(prefix: str, subject: Record, relation: str, reference: Record) -> Record:
    """`a circle left of a square`; the reference is the first clause, as in GenEval."""
    prompt = f"{prefix}{words_of(subject)} {relation} {words_of(reference)}"
    include = [reference, {**subject, "position": [relation, 0]}]
    return {"tag": "position", "include": include, "prompt": prompt}


def draw_record(rng: np.random.Generator) -> Record:
    """A caption, its kind drawn by SHARES."""
    kind = str(rng.choice(list(SHARES), p=list(SHARES.values())))
    prefix = str(rng.choice(PREFIXES))
    a, b = (str(shape) for shape in rng.permutation(SHAPES)[:2])
    c, d = (str(color) for color in rng.permutation(COLORS)[:2])
    number, relation = int(rng.integers(2, 5)), str(rng.choice(RELATIONS))
    made = {
        "single_object": lambda: counted(prefix, clause(a)),
        "colors": lambda: counted(prefix, clause(a, c)),
        "two_object": lambda: paired(prefix, clause(a), clause(b)),
        "counting": lambda: counted(prefix, clause(a, None, number)),
        "colored_counting": lambda: counted(prefix, clause(a, c, number)),
        "position": lambda: placed(prefix, clause(a), relation, clause(b)),
        "colored_position": lambda: placed(prefix, clause(a, c), relation, clause(b, d)),
        "color_attr": lambda: paired(prefix, clause(a, c), clause(b, d)),
    }
    return made[kind]()


def draw_picture(record: Record, rng: np.random.Generator) -> Picture:
    """A picture of a caption: each shape in a quarter of its own, somewhere in it."""
    wanted = [entry for entry in record["include"] for _ in range(entry["count"])]
    things = []
    for entry, (row, column) in zip(wanted, _cells(record, rng), strict=True):
        side = int(rng.integers(SIDES[0], SIDES[1] + 1))
        down, right = (int(n) for n in rng.integers(1, HALF - side, size=2))
        color = str(entry.get("color") or rng.choice(COLORS))
        place = (row * HALF + down, column * HALF + right)
        things.append(Thing(entry["class"], color, *place, side))
    return Picture(render(tuple(things)), tuple(things), record)


def _cells(record: Record, rng: np.random.Generator) -> list[tuple[int, int]]:
    """A quarter (row, column) of the picture for each shape, in the order of the clauses."""
    if record["tag"] != "position":
        count = sum(entry["count"] for entry in record["include"])
        return [(int(n) // 2, int(n) % 2) for n in rng.permutation(4)[:count]]
    relation = record["include"][1]["position"][0]
    line, after = int(rng.integers(2)), int(relation in ("right of", "below"))
    ends = (1 - after, after)
    if relation in ("left of", "right of"):
        return [(line, end) for end in ends]
    return [(end, line) for end in ends]


def render(things: tuple[Thing, ...]) -> NDArray[np.uint8]:
    """uint8 [32,32,3] with the shapes on the ground."""
    image = np.empty((SIZE, SIZE, 3))
    image[:] = GROUND
    for thing in things:
        cover = outline(thing.shape, thing.side, thing.side)[:, :, None]
        rows = slice(thing.top, thing.top + thing.side)
        columns = slice(thing.left, thing.left + thing.side)
        image[rows, columns] += cover * (np.array(PALETTE[thing.color]) - image[rows, columns])
    return np.floor(image + 0.5).astype(np.uint8)


def training_pictures(count: int, seed: int, held_out: frozenset[str]) -> Iterator[Picture]:
    """Pictures for training; a caption whose words after the prefix are held out is not drawn."""
    rng = np.random.default_rng(seed)
    while count:
        record = draw_record(rng)
        if bare(record["prompt"]) not in held_out:
            yield draw_picture(record, rng)
            count -= 1


def bare(prompt: str) -> str:
    """A caption without its prefix."""
    for prefix in PREFIXES[1:]:
        prompt = prompt.removeprefix(prefix)
    return prompt


def benchmark_records() -> list[Record]:
    """The prompts of the benchmark `shapes`: 24 a tag, in blocks, drawn from a seed of their own.

    Those of `color_attr`, and those of `position` with colours, are held out of training.
    """
    rng = np.random.default_rng(2024_11_26)
    records: list[Record] = []
    wanted = dict.fromkeys(
        ("single_object", "two_object", "counting", "colors", "position", "color_attr"), 24
    ) | {"single_object": len(SHAPES) * len(PREFIXES)}
    for tag, count in wanted.items():
        block: dict[str, Record] = {}
        while len(block) < count:
            record = draw_record(rng)
            if record["tag"] == tag:
                block.setdefault(record["prompt"], record)
        records += block.values()
    return records


def held_out() -> frozenset[str]:
    """Captions, without prefix, that no training picture has."""
    return frozenset(
        bare(record["prompt"])
        for record in benchmark_records()
        if record["tag"] in ("position", "color_attr") and "color" in record["include"][0]
    )


def main() -> None:
    """Read the command line and write the prompts of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, help="GenEval's metadata (JSON lines)")
    lines = [json.dumps(record) for record in benchmark_records()]
    parser.parse_args().out.write_text("".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    main()
