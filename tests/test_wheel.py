"""The wheel carries presets, weights and references, and runs the main job outside the checkout."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    subprocess.run([*command, str(ROOT)], check=True, capture_output=True)
    return next(folder.glob("evalsuite-*.whl"))


def test_wheel_holds_what_the_checkout_has(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("configs", "reference_stats"):
        files = [p for p in (ROOT / folder).rglob("*") if p.is_file()]
        assert files
        for file in files:
            assert f"evalsuite/_data/{file.relative_to(ROOT)}" in held
    assert any(name.endswith("report.html.j2") for name in held)
    assert not any(name.startswith(("tests/", "jobs/")) for name in held)


@pytest.mark.ray
def test_installed_wheel_runs_the_main_job(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*install, "--target", str(site), str(wheel)], check=True)
    command = [sys.executable, "-m", "evalsuite", "run", "--model", "pixnerd-digits"]
    command += ["--num-samples", "50", "--num-steps", "2", "--num-workers", "1"]
    command += ["--json", "result.json"]
    environment = {**os.environ, "PYTHONPATH": str(site)}
    subprocess.run(command, check=True, cwd=tmp_path, env=environment, capture_output=True)
    result = json.loads((tmp_path / "result.json").read_text())
    assert set(result["metrics"]) == {"fid", "sfid", "inception_score", "precision", "recall"}
    attempts = list((tmp_path / result["run"] / "attempts").glob("*.json"))
    assert json.loads(attempts[0].read_text())["git"] is None  # the code of the wheel ran
