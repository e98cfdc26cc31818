"""Runs the code cells of a notebook in order, in one namespace, and shows what a notebook would.

Run as a program: `notebook_runner.py NOTEBOOK`. The value of a cell's last expression is shown by
its rich form where it has one. A cell that fails ends it.
"""

import ast
import json
import sys
from pathlib import Path


def cells_of(path: Path) -> list[str]:
    """The sources of the code cells."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return ["".join(c["source"]) for c in content["cells"] if c["cell_type"] == "code"]


def run_cell(source: str, names: dict, where: str) -> object:
    """Run one cell; gives the value of its last expression."""
    tree = ast.parse(source, where)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, where, "exec"), names)
    return None if last is None else eval(compile(ast.Expression(last.value), where, "eval"), names)


def shown(value: object) -> str:
    """A value as a notebook shows it: HTML, a picture, or its `repr`."""
    if hasattr(value, "_repr_html_"):
        return str(value._repr_html_())
    if hasattr(value, "_repr_png_"):
        return f"<png of {len(value._repr_png_())} bytes>"
    return repr(value)


def main() -> None:
    names: dict = {"__name__": "__main__"}
    for number, source in enumerate(cells_of(Path(sys.argv[1])), start=1):
        value = run_cell(source, names, f"cell {number}")
        if value is not None:
            sys.stdout.write(f"[{number}] {shown(value)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
