"""JSON beside weights: objects, and the index that names the file of each tensor."""

import json
from pathlib import Path
from typing import Any

from evalsuite.errors import DataError


def read_shard_index(path: Path) -> dict[str, Path]:
    """For each tensor of a sharded checkpoint, the file that holds it.

    Raises:
        DataError: the index is malformed, leaves its folder, or names a file that is missing.
    """
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise DataError(f"{path} has no weight_map")
    files: dict[str, Path] = {}
    for key, name in weight_map.items():
        if not isinstance(name, str) or Path(name).name != name:
            raise DataError(f"{path}: {key} is said to be in {name!r}, which is no plain file name")
        files[str(key)] = path.parent / name
    for shard in sorted(set(files.values())):
        if not shard.is_file():
            raise DataError(f"{path} names {shard.name}, which is missing: download it")
    return files


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        DataError: the file is not one.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"cannot read {path} as JSON: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} is not a JSON object")
    return content
