"""Scores of images against their prompts: CLIPScore, a user's Python class, or any command.

Categories, as T2I-CompBench has them, are files of prompts: a prompt is of the file that holds it.
"""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from evalsuite.artifacts.images import Images, encode_png
from evalsuite.artifacts.storage import Place
from evalsuite.conditioning.prompts import read_prompts
from evalsuite.errors import DataError, UsageError
from evalsuite.features.foundation.files import network_sha256, read_config
from evalsuite.models.foreign import PYTHON, import_class, source_sha256, users_code
from evalsuite.pipeline.external_scorer import LONGEST_S, run_command
from evalsuite.pipeline.judged_images import Shown
from evalsuite.pipeline.judgements import Row
from evalsuite.pipeline.prompt_digests import scored_prompts_sha256
from evalsuite.pipeline.row_file import protocol_of, read_both, read_rows
from evalsuite.pipeline.scorer_command import COMMAND, ScorerCommand, parse_command
from evalsuite.pipeline.stage_names import SCORES
from evalsuite.pipeline.t2i_networks import load_clip
from evalsuite.t2i.clip_score import PREFIX, WEIGHT, ClipScore
from evalsuite.t2i.clustered import LARGEST_SCORE, Cluster, Estimate, difference, mean

Score = Callable[[Sequence[Images], Sequence[str]], Sequence[float]]
"""Pictures uint8 [H,W,3] and the prompt of each => a number for each."""
CLIP = "clip:"
_PROMPTS = "prompts.jsonl"


class ScoreSource(Protocol):
    """How to make a score on any machine, and what names it; it travels to workers."""

    @property
    def name(self) -> str:
        """A short one."""
        ...

    @property
    def portion(self) -> int:
        """Images that are scored together."""
        ...

    @property
    def limit_s(self) -> float:
        """Seconds after which it ends a portion by itself; 0 where it never does.

        Until then a worker that waits is not hung, unless it answers no question: while a command
        runs, another thread answers, and a stopped process or a frozen machine does not.
        """
        ...

    @property
    def pads(self) -> bool:
        """Whether a portion must be whole."""
        ...

    @property
    def protocol(self) -> Mapping[str, Any]:
        """What decides the numbers."""
        ...

    def load(self, device: torch.device) -> Score:
        """The score."""
        ...


@dataclass(frozen=True)
class ClipSource:
    """CLIPScore by a folder of CLIP."""

    folder: Path
    protocol: Mapping[str, Any] = field(init=False)
    name: str = "clipscore"
    portion: int = 16
    limit_s: float = 0.0
    pads: bool = True

    def __post_init__(self) -> None:
        """Hash the weights once, here."""
        object.__setattr__(self, "protocol", self._protocol())

    def load(self, device: torch.device) -> Score:
        """See `ScoreSource`."""
        if self._protocol() != self.protocol:
            raise DataError(f"{self.folder} holds other weights on this machine")
        return ClipScore(load_clip(self.folder, device))

    def _protocol(self) -> dict[str, Any]:
        read_config(self.folder, ("clip",))
        about = {"weights_sha256": network_sha256(self.folder), "precision": "float32"}
        return {"name": "CLIPScore", "prefix": PREFIX, "weight": WEIGHT, **about}


@dataclass(frozen=True)
class PythonSource:
    """A user's class: `Class(device)` once, then `score(images, prompts)` for each portion."""

    code: str
    """`python:package.module:Class`."""
    folder: Path
    """Where its module is looked for first."""
    protocol: Mapping[str, Any] = field(init=False)
    portion: int = 16
    limit_s: float = 0.0
    pads: bool = True

    @property
    def name(self) -> str:
        """The class's."""
        return self.code.rpartition(":")[2].lower()

    def __post_init__(self) -> None:
        """Import it and hash its code; nothing else runs yet."""
        cls = self._class()
        digest = source_sha256(self.code, cls, self.folder)
        object.__setattr__(self, "protocol", {"name": self.code, "source_sha256": digest})

    def load(self, device: torch.device) -> Score:
        """See `ScoreSource`."""
        cls, hint = self._class(), "`evalsuite --debug t2i score`"
        if source_sha256(self.code, cls, self.folder) != self.protocol["source_sha256"]:
            raise DataError(f"the code of {self.code} has changed since the command began")
        with users_code(self.code, self.folder, "its constructor", hint):
            made = cls(str(device))

        def score(images: Sequence[Images], prompts: Sequence[str]) -> Sequence[float]:
            with users_code(self.code, self.folder, "score()", hint):
                found: Sequence[float] = [float(x) for x in made.score(list(images), list(prompts))]
            return found

        return score

    def _class(self) -> type[Any]:
        return import_class(self.code, self.folder, "--scorer")


@dataclass(frozen=True)
class CommandSource:
    """A program, which is run once for each portion, in its own environment.

    It gets a folder of PNGs with `prompts.jsonl` (file and prompt of each), and gives one JSON
    object: the number of each file.
    """

    command: ScorerCommand
    limit_s: float = LONGEST_S
    """Seconds that one call may take, a day where nobody said; it decides no number."""
    portion: int = 256
    pads: bool = False

    def __post_init__(self) -> None:
        """Refuse a command that says nothing of what decides the numbers."""
        self.command.check_named()

    @property
    def name(self) -> str:
        """The program's."""
        program = Path(self.command.words[0]).stem.lower()
        return "".join(c for c in program if c.isalnum() or c in "-_") or "command"

    @property
    def protocol(self) -> Mapping[str, Any]:
        """See `ScoreSource`."""
        return self.command.protocol

    def load(self, device: torch.device) -> Score:  # noqa: ARG002 - the program finds its own
        """See `ScoreSource`."""
        self.command.check_here()
        return self._score

    def _score(self, images: Sequence[Images], prompts: Sequence[str]) -> Sequence[float]:
        names = [f"{place:06d}.png" for place in range(len(images))]
        with tempfile.TemporaryDirectory(prefix="evalsuite-images-") as folder:
            lines = []
            for name, image, prompt in zip(names, images, prompts, strict=True):
                (Path(folder) / name).write_bytes(encode_png(image))
                lines.append(json.dumps({"file": name, "prompt": prompt}) + "\n")
            (Path(folder) / _PROMPTS).write_text("".join(lines), encoding="utf-8")
            scores = run_command(self.command, Path(folder), self.limit_s).scores
        if scores.keys() != set(names):
            odd = min(scores.keys() ^ set(names))
            raise DataError(
                f"the scorer gave {len(scores)} numbers for {len(names)} images: {odd!r} is there"
                " on one side alone"
            )
        return [scores[name] for name in names]


class CommandOptions(NamedTuple):
    """What a user says of a command."""

    version: str | None = None
    limit_s: float = LONGEST_S


def score_source(
    text: str, folder: Path, options: CommandOptions | None, *, trust_code: bool
) -> ScoreSource:
    """What `--scorer` names.

    Args:
        text: `clip:FOLDER`, `python:package.module:Class` or `command:PROGRAM ... {images} ...`.
        folder: where modules are looked for first, and where a command runs.
        options: of a command; None where nothing was said.
        trust_code: whether the user allowed code to run.

    Raises:
        UsageError: none of these, code that was not allowed, or options of another kind.
        DataError: a folder that holds no CLIP.
    """
    if options is not None and not text.startswith(COMMAND):
        raise UsageError("--scorer-version and --time-limit are of --scorer command:")
    if text.startswith(CLIP):
        return ClipSource(Path(text.removeprefix(CLIP)).absolute())
    if text.startswith(COMMAND):
        asked = options or CommandOptions()
        return CommandSource(parse_command(text, folder, asked.version), asked.limit_s)
    if not text.startswith(PYTHON):
        raise UsageError(f"--scorer {text!r} is neither clip:, python: nor command:")
    if not trust_code:
        raise UsageError(
            f"--scorer {text}: its code would run here: look at it, then add --trust-remote-code"
        )
    return PythonSource(text, folder.absolute())


@dataclass(frozen=True)
class PromptScorer:
    """Scores images against prompts in the order of their places; see `Scorer`."""

    prompts: tuple[str, ...]
    categories: tuple[str, ...]
    """Of each prompt; empty where there are none."""
    source: ScoreSource
    kind: str = SCORES
    tested_by: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        """The score's."""
        return self.source.name

    @property
    def portion(self) -> int:
        """The score's."""
        return self.source.portion

    @property
    def portion_s(self) -> float:
        """The score's."""
        return self.source.limit_s

    @property
    def pads(self) -> bool:
        """The score's."""
        return self.source.pads

    @property
    def decides(self) -> dict[str, Any]:
        """Prompts with their categories, and what names the score."""
        categories = self.categories or [None] * len(self.prompts)
        return {
            "benchmark": "scores",
            "prompts_sha256": scored_prompts_sha256(zip(self.prompts, categories, strict=True)),
            "scorer": dict(self.source.protocol),
        }

    @property
    def says(self) -> dict[str, Any]:
        """Nothing else."""
        return {}

    def check(self, rows: Sequence[Row]) -> None:
        """Nothing that all rows together could show."""

    def load(self, device: torch.device) -> "PromptJudge":
        """See `Scorer`."""
        return PromptJudge(self, self.source.load(device))


class PromptJudge:
    """Scores and keeps the numbers."""

    def __init__(self, scorer: PromptScorer, score: Score) -> None:
        self._scorer, self._score = scorer, score

    def rows(self, shown: Sequence[Shown], images: Sequence[Images]) -> list[Row]:
        """The score of each image.

        Raises:
            DataError: not one finite number for each.
        """
        scorer = self._scorer
        numbers = self._score(images, [scorer.prompts[one.place] for one in shown])
        if len(numbers) != len(images) or not all(abs(x) <= LARGEST_SCORE for x in numbers):
            raise DataError(
                f"{scorer.name} gave {list(numbers)[:4]} ... for {len(images)} images: one finite"
                f" number for each is wanted, up to {LARGEST_SCORE:g}"
            )
        return [
            {
                "prompt": scorer.prompts[one.place],
                "category": scorer.categories[one.place] if scorer.categories else None,
                "number": one.number,
                "score": number,
            }
            for one, number in zip(shown, numbers, strict=True)
        ]


def categories_of(prompts: Sequence[str], files: Sequence[Path]) -> tuple[str, ...]:
    """The category of each prompt: the name of the file that holds it.

    Raises:
        UsageError: a prompt is in no file, or in two.
    """
    found: dict[str, str] = {}
    for file in files:
        for prompt in read_prompts(file):
            if found.setdefault(prompt.strip(), file.stem) != file.stem:
                raise UsageError(f"{prompt[:60]!r} is in {found[prompt.strip()]} and {file.stem}")
    missing = [prompt for prompt in prompts if files and prompt.strip() not in found]
    if missing:
        raise UsageError(
            f"{len(missing)} prompts of the run are in no --category-file, such as"
            f" {missing[0][:60]!r}"
        )
    return tuple(found[prompt.strip()] for prompt in prompts) if files else ()


def summary_of(place: Place) -> dict[str, Any]:
    """Means with intervals, over all prompts and by category.

    Raises:
        DataError: rows are missing.
    """
    header, rows = read_rows(place)
    categories = sorted({row["category"] for row in rows if row["category"] is not None})
    by_category = {
        name: mean(clusters_of([row for row in rows if row["category"] == name]))
        for name in categories
    }
    overall = mean(clusters_of(rows))
    return {
        "benchmark": "scores",
        "display": header["scorer"].get("name") or " ".join(header["scorer"]["command"]),
        "overall": overall.value,
        "overall_estimate": _shown(overall),
        "categories": {
            name: {"score": one.value, **_shown(one)} for name, one in by_category.items()
        },
        "total_images": len(rows),
        "total_prompts": overall.num_prompts,
        "protocol": protocol_of(header),
        "source": header["source"],
    }


def compare_scores(a: Place, b: Place) -> dict[str, Any]:
    """The mean of a less that of b, paired prompt by prompt.

    Raises:
        DataError: the prompts are not the same, or the protocols differ.
    """
    found = difference(*(clusters_of(rows) for rows in read_both(a, b)))
    return {"difference": found.value, **_shown(found)}


def clusters_of(rows: Sequence[Mapping[str, Any]]) -> list[Cluster]:
    """Each prompt's sum of scores and number of images."""
    scores: dict[str, list[float]] = {}
    for row in rows:
        scores.setdefault(row["prompt"], []).append(row["score"])
    return [Cluster(prompt, sum(values), len(values)) for prompt, values in scores.items()]


def _shown(estimate: Estimate) -> dict[str, Any]:
    return {
        "standard_error": estimate.standard_error,
        "interval": None if estimate.interval is None else list(estimate.interval),
        "num_prompts": estimate.num_prompts,
    }
