"""DPG-Bench's score: dependency zeroing, the published aggregation, and a corrected one.

Source: DPG-Bench (ELLA, Hu et al. 2024) and its published scorer, commit 3c228f1. Published
category scores use answers before zeroing, of the last image of each prompt only, and where several
processes were used they are mixed up besides: they cannot be trusted, nor compared with overall.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from evalsuite.errors import DataError
from evalsuite.t2i.dpg_questions import Item, parents_first

Answers = Mapping[int, str]
"""The judge's words about one image, by question."""
_WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")
"""Letters and digits; an apostrophe or a hyphen between them parts no word."""


class Verdicts(NamedTuple):
    """One image: each question's own answer, and what counts once its parents are looked at."""

    plain: dict[int, bool]
    zeroed: dict[int, bool]

    @property
    def score(self) -> float:
        """Share of the questions that count."""
        return sum(self.zeroed.values()) / len(self.zeroed)


@dataclass(frozen=True)
class PromptResult:
    """One prompt: its images in their order."""

    item_id: str
    images: tuple[Verdicts, ...]

    @property
    def score(self) -> float:
        """Mean over the images."""
        return sum(image.score for image in self.images) / len(self.images)


@dataclass(frozen=True)
class DpgSummary:
    """What a run of DPG-Bench comes to; scores are out of 100."""

    overall: float
    broad: dict[str, float]
    """L1, in alphabetical order."""
    detailed: dict[str, float]
    """L2, in alphabetical order."""
    num_prompts: int
    num_answers: int
    dropped: dict[str, str] = field(default_factory=dict)
    """Prompts that the published rules leave out without a word, and why."""


def is_exactly_yes(answer: str) -> bool:
    """The published rule: the word `yes` and nothing else."""
    return answer == "yes"


def is_yes(answer: str) -> bool:
    """Whether an answer begins with the word yes, in whatever case and punctuation."""
    return first_word(answer) == "yes"


def is_neither(answer: str) -> bool:
    """Whether a judge answered something else than yes or no."""
    return first_word(answer) not in {"yes", "no"}


def first_word(answer: str) -> str:
    """The first word in lower case without punctuation; empty when there is none."""
    found = _WORD.search(answer)
    return found[0].lower() if found else ""


def judge_as_published(item: Item, answers: Answers) -> Verdicts:
    """One image by the published rule: in the order of the csv, against what then counts.

    A child whose row stands before its parent's does not see that the parent was zeroed.

    Raises:
        DataError: a parent that is looked at does not exist; the original drops the prompt.
    """
    plain = {
        q.question_id: is_exactly_yes(_answer(answers, q.question_id, item)) for q in item.questions
    }
    counts = dict(plain)
    for question in item.questions:
        for parent in question.parents:
            if parent not in counts:
                raise DataError(
                    f"question {question.question_id} of {item.item_id} depends on {parent}, which"
                    " is not there"
                )
            if not counts[parent]:
                counts[question.question_id] = False
                break
    return Verdicts(plain, counts)


def judge(item: Item, answers: Answers) -> Verdicts:
    """One image by the graph: a question counts when it and all its ancestors are answered yes.

    Raises:
        DataError: the graph is broken, or an answer is missing.
    """
    plain = {q.question_id: is_yes(_answer(answers, q.question_id, item)) for q in item.questions}
    counts: dict[int, bool] = {}
    for question in parents_first(item):
        yes = plain[question.question_id]
        counts[question.question_id] = yes and all(counts[parent] for parent in question.parents)
    return Verdicts(plain, {q.question_id: counts[q.question_id] for q in item.questions})


def _answer(answers: Answers, question_id: int, item: Item) -> str:
    if question_id not in answers:
        raise DataError(f"question {question_id} of {item.item_id} has no answer")
    return answers[question_id]


def summarise_as_published(
    items: Mapping[str, Item], answers: Mapping[str, Sequence[Answers]]
) -> tuple[DpgSummary, dict[str, PromptResult]]:
    """The published aggregation over the prompts that have images.

    Args:
        items: from `items_as_published`.
        answers: of each prompt that has images, one mapping for each image.

    Raises:
        DataError: no prompt is left, or an image has not the same number as the others.
    """
    _check_counts(answers)
    results, dropped = {}, {}
    for item_id in sorted(answers):
        if item_id not in items:
            dropped[item_id] = "no item of this name"
            continue
        try:
            images = tuple(judge_as_published(items[item_id], one) for one in answers[item_id])
        except DataError as error:
            dropped[item_id] = str(error)
            continue
        results[item_id] = PromptResult(item_id, images)
    summary = _summary(items, results, lambda result: [result.images[-1].plain], dropped)
    return summary, results


def summarise(
    items: Mapping[str, Item], answers: Mapping[str, Sequence[Answers]]
) -> tuple[DpgSummary, dict[str, PromptResult]]:
    """The corrected aggregation: every row, every image, categories from what counts.

    Args:
        items: from `items_of`.
        answers: of every prompt, one mapping for each image.

    Raises:
        DataError: a prompt or an image is missing, or surplus.
    """
    _check_counts(answers)
    missing, surplus = sorted(items.keys() - answers.keys()), sorted(answers.keys() - items.keys())
    if missing or surplus:
        names = missing or surplus
        what = "have no images" if missing else "are no items of the csv"
        raise DataError(f"{len(names)} prompts {what}, such as {names[0]}")
    results = {
        item_id: PromptResult(
            item_id, tuple(judge(items[item_id], one) for one in answers[item_id])
        )
        for item_id in sorted(answers)
    }
    return _summary(items, results, lambda r: [image.zeroed for image in r.images], {}), results


def _check_counts(answers: Mapping[str, Sequence[Answers]]) -> None:
    counts = {len(images) for images in answers.values()}
    if len(counts) > 1 or 0 in counts:
        raise DataError(
            f"prompts have {sorted(counts)} images each: each must have the same number"
        )


def _summary(
    items: Mapping[str, Item],
    results: Mapping[str, PromptResult],
    counted: Callable[[PromptResult], list[dict[int, bool]]],
    dropped: dict[str, str],
) -> DpgSummary:
    if not results:
        raise DataError("no prompt of DPG-Bench could be scored")
    broad: dict[str, list[bool]] = {}
    detailed: dict[str, list[bool]] = {}
    for item_id, result in results.items():
        for image in counted(result):
            for question in items[item_id].questions:
                broad.setdefault(question.broad, []).append(image[question.question_id])
                detailed.setdefault(question.category, []).append(image[question.question_id])
    return DpgSummary(
        overall=100 * sum(r.score for r in results.values()) / len(results),
        broad=_means(broad),
        detailed=_means(detailed),
        num_prompts=len(results),
        num_answers=sum(len(image.plain) for r in results.values() for image in r.images),
        dropped=dropped,
    )


def _means(values: Mapping[str, Sequence[bool]]) -> dict[str, float]:
    return {name: 100 * sum(values[name]) / len(values[name]) for name in sorted(values)}
