"""Names of DPG-Bench's prompts: item_id => prompt, from its csv or from JSON lines."""

from pathlib import Path

from evalsuite.config import parse_json
from evalsuite.errors import DataError, StorageError, UsageError
from evalsuite.t2i.dpg_questions import read_dpg_rows


def read_items(path: Path) -> dict[str, str]:
    """Each item's prompt, outer blanks removed, in the order of the file.

    Args:
        path: `dpg_bench.csv`; or .jsonl with `item_id` and `prompt`.

    Raises:
        StorageError: the file cannot be read.
        UsageError: another ending, or a line that is none of these.
        DataError: an item or a prompt is there twice, or an item has two prompts.
    """
    if path.suffix.lower() == ".csv":
        pairs = [(row.item_id, row.prompt) for row in read_dpg_rows(path)]
    elif path.suffix.lower() == ".jsonl":
        pairs = _json_pairs(path)
        if len({item for item, _ in pairs}) != len(pairs):
            raise DataError(f"{path} holds an item twice")
    else:
        raise UsageError(f"{path}: give DPG-Bench's .csv, or .jsonl with item_id and prompt")
    items: dict[str, str] = {}
    for item_id, prompt in pairs:
        if items.setdefault(item_id, prompt.strip()) != prompt.strip():
            raise DataError(f"{path} has two prompts for item {item_id}")
    if len(set(items.values())) != len(items):
        raise DataError(f"{path} has one prompt under two items")
    return items


def _json_pairs(path: Path) -> list[tuple[str, str]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 (byte {error.start})") from error
    pairs = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = parse_json(line)
            item_id, prompt = record["item_id"], record["prompt"]
        except (ValueError, TypeError, KeyError) as error:
            raise UsageError(f"{path} line {number} has no item_id and prompt") from error
        if not isinstance(item_id, str) or not isinstance(prompt, str) or not prompt.strip():
            raise UsageError(f"{path} line {number}: item_id and prompt must be texts")
        pairs.append((item_id, prompt))
    return pairs
