"""A run of drawn shapes, a third of them of another prompt, for the shapes' own detector."""

import sys
from pathlib import Path

import numpy as np
from harness import call_main

from jobs.shapes import data

sys.path.insert(0, str(Path(__file__).parent))
from prompted_run import make_drawn_run
from tiny_scorers import write_lines

PROMPTS, PER_PROMPT = 20, 4


class Drawn:
    """A run of drawn shapes, a third of them of the wrong prompt, and its metadata."""

    def __init__(self, root: Path, num_prompts: int = PROMPTS) -> None:
        records = [one for one in data.benchmark_records() if one["tag"] != "color_attr"]
        records = records[:: len(records) // num_prompts][:num_prompts]
        self.metadata = write_lines(root / "metadata.jsonl", records)
        rng = np.random.default_rng(0)
        images = []
        for index in range(num_prompts * PER_PROMPT):
            shown = records[(index + (index % 3 == 0)) % num_prompts]
            images.append(data.draw_picture(shown, rng).image)
        self.run = make_drawn_run(root / "run", [r["prompt"] for r in records], np.stack(images))

    def judged(self, root: object, output: Path, *options: object) -> bytes:
        """The file of verdicts."""
        command = ("t2i", "geneval", root, "--metadata", self.metadata, "--detector", "shapes")
        done = call_main(*command, "--output", output, "--device", "cpu", *options)
        assert done.code == 0, done.stderr
        return output.read_bytes()
