"""DPG-Bench's answers on a page: bars by category, and images with their questions."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from evalsuite.errors import DataError
from evalsuite.pipeline.dpg_run import MOST, answers_of, category_estimates, clusters_of
from evalsuite.report.verdict_view import Bar, Card, Group, bar_of, spread
from evalsuite.t2i.clustered import mean_within
from evalsuite.t2i.dpg import judge, summarise
from evalsuite.t2i.dpg_questions import L1, Item, Question, parents_first

Row = Mapping[str, Any]
_SHOWN = 6


def items_of_rows(rows: Sequence[Row]) -> dict[str, Item]:
    """Prompts and questions, which stand in the row of each prompt's first image."""
    return {
        row["item_id"]: Item(
            row["item_id"],
            row["prompt"],
            tuple(
                Question(q["id"], tuple(q["parents"]), q["category"], q["text"])
                for q in row["questions"]
            ),
        )
        for row in rows
        if row["number"] == 0
    }


def fault_of(rows: Sequence[Row]) -> str:
    """Why there is no corrected score; empty where there is one."""
    try:
        for item in items_of_rows(rows).values():
            parents_first(item)
    except DataError as error:
        return f"There is no corrected score: {error}."
    return ""


def answer_bars(rows: Sequence[Row], published: Mapping[str, float]) -> list[Bar]:
    """The corrected score, out of 100, beside published ones by model, and those of categories."""
    items = items_of_rows(rows)
    found, results = summarise(items, answers_of(rows))
    overall, broad = mean_within(clusters_of(results), MOST), category_estimates(items, results)
    bars = [
        bar_of(name, {"score": found.broad[name], "interval": broad[name].interval}, MOST, {})
        for name in (*L1, *sorted(found.broad.keys() - set(L1)))
        if name in found.broad
    ]
    whole = {"score": found.overall, "interval": overall.interval}
    return [*bars, bar_of("overall", whole, MOST, published)]


def answer_groups(
    rows: Sequence[Row],
    pictures_of: Callable[[Sequence[int]], Mapping[int, str]],
    size: tuple[int, int],
) -> list[Group]:
    """Images of which the least counts, and images of which the most does."""
    items = items_of_rows(rows)
    scores = [
        judge(items[row["item_id"]], {int(k): v for k, v in row["answers"].items()}).score
        for row in rows
    ]
    order = sorted(range(len(rows)), key=lambda i: (scores[i], i))
    ends = {"lowest": _spread(order, rows), "highest": _spread(order[::-1], rows)}
    pictures = pictures_of([i for places in ends.values() for i in places])
    return [
        Group(name, "", [_card(i, rows[i], items, pictures[i], size) for i in places], [])
        for name, places in ends.items()
    ]


def _spread(order: Sequence[int], rows: Sequence[Row]) -> list[int]:
    """The first of an order, one of each prompt before a second of any."""
    ranks = spread([(rank, rows[i]["item_id"]) for rank, i in enumerate(order)], _SHOWN)
    return [order[rank] for rank in ranks]


def _card(index: int, row: Row, items: Mapping[str, Item], uri: str, size: tuple[int, int]) -> Card:
    item = items[row["item_id"]]
    verdicts = judge(item, {int(k): v for k, v in row["answers"].items()})
    lines = [f"{100 * verdicts.score:.0f} of 100"]
    for question in item.questions:
        words = row["answers"][str(question.question_id)]
        zeroed = verdicts.plain[question.question_id] and not verdicts.zeroed[question.question_id]
        after = " (counts as no: what it depends on is not there)" if zeroed else ""
        lines.append(f"{question.text} {words}{after}")
    return Card(index, uri, (size[1], size[0]), item.prompt, None, lines, [])
