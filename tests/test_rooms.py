"""The house: which room may import which, what stands in one room alone, and what rooms promise."""

import ast
import functools
import gc
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from evalsuite.config import ModelPreset, load_spec, names_of
from evalsuite.features.registry import EXTRACTORS
from evalsuite.models.registry import MODELS

PACKAGE = Path(__file__).parents[1] / "evalsuite"
LAYERS = (
    ("errors",),
    ("config",),
    ("seeding",),
    ("sampling", "metrics", "artifacts"),
    ("models", "conditioning", "features", "t2i"),
    ("pipeline",),
    ("runtime", "diagnosis"),
    ("sweep",),
    ("report",),
    ("cli",),
)
"""From the bottom to the top; rooms of one layer do not import each other."""
HEIGHT = {room: height for height, layer in enumerate(LAYERS) for room in layer}
BARE_ROOMS = ("models", "sampling", "features", "metrics")
"""They run on a machine that has torch and numpy, but no Ray, no TensorFlow and no network."""
NETWORK = {"urllib", "http", "socket", "ssl", "ftplib", "requests", "httpx", "aiohttp", "urllib3"}
NETWORK |= {"pooch", "huggingface_hub", "fsspec", "s3fs", "gcsfs"}
HOMES = {
    "ray": {"runtime"},
    "tensorflow": {"features/tensorflow_graph/server.py"},
    "click": {"cli"},
    "rich": {"cli"},
}
"""Packages that stand in certain rooms, or files, alone."""
PLUG_INS = PACKAGE / "models" / "foreign.py"
"""Imports the module that a user names with `python:` and allows to run."""
MODULES = sorted(PACKAGE.rglob("*.py"))


@functools.cache
def tree_of(path: Path) -> ast.Module:
    """The syntax tree of a file, parsed once.

    CPython 3.11 may raise SystemError ("recursion depth mismatch") when garbage is collected while
    it builds a tree (gh-106905), so none is meanwhile.
    """
    gc.disable()
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    finally:
        gc.enable()


def room_of(path: Path) -> str:
    """`pipeline` for pipeline/plan.py, `config` for config.py; "" for the package itself."""
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "" if first in {"__init__", "__main__"} else first


def dotted(path: Path) -> str:
    """The module's full name."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imports_of(path: Path) -> Iterator[str]:
    """Full names of everything imported anywhere in a file, in functions and for types as well."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide which room they reach"
            assert node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            first = node.args[0]
            if isinstance(first, ast.Constant):
                yield str(first.value)
            elif path != PLUG_INS:  # the top room may import every room, so it may compute names
                assert room_of(path) == "cli", f"{path} imports a computed name"


def test_every_module_is_in_a_room_of_the_design() -> None:
    assert len(MODULES) > 60
    assert {room_of(path) for path in MODULES} - {""} <= HEIGHT.keys()


def test_imports_point_downwards() -> None:
    """Strictly to a lower layer, or within the own room."""
    faults = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for path in MODULES
        if (room := room_of(path))
        for name in imports_of(path)
        if name.startswith("evalsuite.") and name != "evalsuite.__version__"
        if (other := name.split(".")[1]) != room and HEIGHT[other] >= HEIGHT[room]
    ]
    assert not faults


def test_packages_stand_in_their_own_rooms() -> None:
    """`ray` in runtime, `click` and `rich` in cli, `tensorflow` in one file, no network below."""
    faults = []
    for path in MODULES:
        room, packages = room_of(path), {name.partition(".")[0] for name in imports_of(path)}
        places = {room, path.relative_to(PACKAGE).as_posix()}
        faults += [(path, p) for p, homes in HOMES.items() if p in packages and not places & homes]
        faults += [(path, p) for p in packages & NETWORK if room in BARE_ROOMS]
    assert not faults


def test_only_the_command_line_prints_and_exits() -> None:
    forbidden = {"print", "input", "exit", "quit", "sys.exit", "os._exit"}
    faults = []
    for path in MODULES:
        if room_of(path) == "cli":
            continue
        for node in ast.walk(tree_of(path)):
            text = ast.unparse(node) if isinstance(node, ast.Call | ast.Raise) else ""
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if called in forbidden or "SystemExit" in text or called.startswith("sys.std"):
                faults.append(f"{path.relative_to(PACKAGE)}:{node.lineno} {text}")
    assert not faults


def test_every_module_says_what_lives_in_it() -> None:
    for path in MODULES:
        docstring = ast.get_docstring(tree_of(path)) or ""
        first = docstring.partition("\n\n")[0]
        assert len(first) > 10, f"{path} has no docstring"
        assert first.endswith((".", ":", "?")), f"{path}: {first!r} is no sentence"


def test_the_walk_sees_imports_in_functions_and_for_types(tmp_path: Path) -> None:
    """The reader of imports itself, on a file that hides them."""
    path = tmp_path / "sly.py"
    path.write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from evalsuite.runtime import driver\n"
        "def f():\n    import ray.util as u\n    import importlib\n"
        "    importlib.import_module('tensorflow.io')\n"
    )
    found = set(imports_of(path))
    assert {"evalsuite.runtime.driver", "ray.util", "tensorflow.io"} <= found


def test_the_bare_rooms_load_neither_ray_nor_tensorflow_nor_a_network() -> None:
    """A fresh process imports every module of four rooms; what that really loads is looked at."""
    modules = [dotted(path) for path in MODULES if room_of(path) in BARE_ROOMS]
    assert len(modules) > 12
    code = (
        "import importlib, json, sys\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    )
    loaded = set(json.loads(done.stdout))
    assert "torch" in loaded
    assert not loaded & {"ray", "tensorflow", "click", "rich", "pooch", "requests", "aiohttp"}


def test_the_command_line_starts_without_heavy_imports() -> None:
    """Heavy packages are imported inside commands."""
    code = "import sys, json, evalsuite.cli.main; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    )
    loaded = {name.partition(".")[0] for name in json.loads(done.stdout)}
    assert not loaded & {"torch", "ray", "numpy", "pydantic", "scipy", "pyarrow"}


def test_every_preset_names_a_registered_family() -> None:
    assert MODELS
    for name in names_of(ModelPreset):
        preset = load_spec(ModelPreset, name)
        assert preset.family in MODELS, name
        assert preset.name == name


def test_every_family_folder_has_a_registry_entry() -> None:
    """A folder of models/ is reached from its registry, and so is each extractor's file."""
    registry = (PACKAGE / "models" / "registry.py").read_text(encoding="utf-8")
    for folder in (p for p in (PACKAGE / "models").iterdir() if (p / "__init__.py").is_file()):
        assert folder.name == "checkpoints" or f"evalsuite.models.{folder.name} import" in registry
    assert EXTRACTORS
    extractors = (PACKAGE / "features" / "registry.py").read_text(encoding="utf-8")
    helpers = {"__init__", "base", "registry", "aligned"}
    for path in (PACKAGE / "features").glob("*.py"):
        assert path.stem in helpers or f"evalsuite.features.{path.stem} import" in extractors
    for folder in (p for p in (PACKAGE / "features").iterdir() if (p / "__init__.py").is_file()):
        others = {"lpips", "tensorflow_graph"}  # of pairs of images; another backend of Inception
        assert folder.name in others or f"evalsuite.features.{folder.name}." in extractors
