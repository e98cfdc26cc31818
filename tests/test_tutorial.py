"""docs/tutorial.ipynb does what it says, on the run that these tests share."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

from harness import REPOSITORY, FinishedRun, environment
from notebook_runner import cells_of

NOTEBOOK = REPOSITORY / "docs" / "tutorial.ipynb"
RUNNER = Path(__file__).with_name("notebook_runner.py")


def test_it_runs_from_top_to_bottom(digits_run: FinishedRun, tmp_path: Path) -> None:
    """Its first command finds the images of `digits_run`, which is of the same plan."""
    shutil.copytree(digits_run.path, tmp_path / "runs" / "tutorial")
    done = subprocess.run(
        [sys.executable, str(RUNNER), str(NOTEBOOK)],
        cwd=tmp_path,
        env=environment(private=True),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    record = digits_run.json["metrics"]["fid"]
    assert f"digits-FID-200 = {record['value']:.3f}, 95 % interval" in done.stdout
    assert "<table>" in done.stdout
    assert done.stdout.count("<png of ") == 3
    assert re.search(r"\{100: \d+\.\d+, 200: \d+\.\d+\}", done.stdout)
    (attempt,) = {path.name for path in (tmp_path / "runs/tutorial/attempts").glob("*.json")} - {
        path.name for path in (digits_run.path / "attempts").glob("*.json")
    }
    made = json.loads((tmp_path / "runs/tutorial/attempts" / attempt).read_text())
    assert made["images_made"] == 0


def test_it_holds_no_output_and_no_place_of_a_machine() -> None:
    content = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    code = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert len({cell["id"] for cell in content["cells"]}) == len(content["cells"])
    assert len(cells_of(NOTEBOOK)) == len(code) > 8
    assert not re.search(r"/(home|root|tmp|work|Users)/", NOTEBOOK.read_text(encoding="utf-8"))
