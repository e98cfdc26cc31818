"""Scorers of others: the numbers of a program, with what it was, and its processes."""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from harness import call_main, is_running, wait_for
from judging_kit import Kit
from prompted_run import PROMPTS, make_drawn_run

from evalsuite.errors import CorruptionError, DataError, EnvironmentProblem, UsageError
from evalsuite.pipeline.export_t2i import export_geneval
from evalsuite.pipeline.exported import open_exported
from evalsuite.pipeline.external_scorer import parse_scores, run_scorer
from evalsuite.pipeline.scorer_command import parse_command
from evalsuite.report.verdicts import verdict_sets

SCORER = """import json, sys
images, output, mode = sys.argv[1:]
if mode == "fail":
    sys.exit("no kernel image is available")
if mode == "garbage":
    print("Overall: about 0.7")
elif mode == "nan":
    print('{"overall": NaN}')
elif mode == "names":
    print('{"\\\\u009b31m": 1}')
elif mode == "line":
    print("hello"); print(json.dumps({"overall": 0.25}))
else:
    json.dump({"overall": 0.5, "counting": 1, "total_images": 2212}, open(output, "w"))
"""


def test_an_external_scorers_numbers_are_taken_with_their_provenance(tmp_path: Path) -> None:
    script, images = tmp_path / "score.py", tmp_path / "images"
    script.write_text(SCORER)
    images.mkdir()
    (images / "x.png").write_bytes(b"x")
    command = f"command:{sys.executable} {script} {{images}} {{output}}"
    out = tmp_path / "scores.json"
    base = ("t2i", "external", images, "--layout", "geneval")
    odd = call_main(*base, "--scorer", f"{command} names")
    assert (odd.code, odd.stdout.split()) == (0, ["\\x9b31m", "1"])
    done = call_main(*base, "--scorer", f"{command} file", "--json", out)
    assert done.code == 0, done.stderr
    assert done.stdout.split() == ["overall", "0.5", "counting", "1", "total_images", "2212"]
    assert "images is of is not known" in done.stderr
    provenance = json.loads(out.read_text())["provenance"]
    assert provenance["command"][1] == str(script)
    digest = hashlib.sha256(script.read_bytes()).hexdigest()
    assert provenance["files_sha256"][str(script)] == digest
    assert (provenance["of"]["images"], provenance["of"]["num_files"]) == (str(images), 1)
    other = open_exported(images, "geneval").digest
    assert provenance["of"]["files_sha256"] == other.sha256
    (images / "x.png").write_bytes(b"y")
    assert open_exported(images, "geneval").digest != other
    parsed = parse_command(f"{command} line", tmp_path)
    line = run_scorer(parsed, open_exported(images, "geneval"), "geneval")
    assert (line["scores"], line["provenance"]["scores_from"]) == ({"overall": 0.25}, "last line")
    for mode, code, words in [
        ("fail", 6, "ended with 1: no kernel image is available"),
        ("garbage", 3, "gave no JSON in its last line: 'Overall: about 0.7'"),
        ("nan", 3, "NaN is no number in JSON"),
    ]:
        done = call_main(*base, "--scorer", f"{command} {mode}")
        assert (done.code, done.stderr.count("\n")) == (code, 2)  # of no run, and the error
        assert words in done.stderr


def test_an_external_scorers_numbers_enter_the_run_and_its_page(kit: Kit, tmp_path: Path) -> None:
    """The run is the one that the images were exported from, to the byte."""
    images, script = tmp_path / "images", tmp_path / "score.py"
    script.write_text(SCORER)
    export_geneval(kit.run, 32, kit.metadata, images)
    assert not list(images.glob("*.json"))  # official scorers read all that is in there
    scorer = ("--scorer", f"command:{sys.executable} {script} {{images}} {{output}} file")
    base = ("t2i", "external", images, "--layout")
    done = call_main(*base, "geneval", *scorer)
    assert (done.code, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1].startswith(f"kept in {kit.run.root}/verdicts/external-gen")
    (shown,) = [one for one in verdict_sets(kit.run, "verdicts") if "external" in one.title]
    assert [(bar.name, bar.value) for bar in shown.bars] == [("counting", 1.0), ("overall", 0.5)]
    assert (shown.num_images, str(script) in shown.notes[0]) == (32, True)
    assert (shown.most, shown.notes[1]) == (1.0, "total_images 2212.")  # no bar, and no scale
    kept = kit.run.root / "verdicts" / shown.name
    sound = kept.read_text()
    damaged = ["[" * 9000, "[]", '{"scores": []}', sound.replace("0.5", "9" * 5000)]
    damaged += [sound.replace("0.5", value) for value in ("NaN", '"x"', "1e999", "true", "[1]")]
    for text in damaged:
        kept.write_text(text)
        with pytest.raises(CorruptionError, match="cannot be read: remove it"):
            verdict_sets(kit.run, "verdicts")
    kept.write_text(sound)
    again = call_main(*base, "geneval", *scorer, "--run", kit.run.root)
    assert again.stdout == done.stdout
    assert call_main(*base, "dpg", *scorer).stderr.endswith("was exported as geneval, not dpg\n")
    other = make_drawn_run(tmp_path / "other", list(PROMPTS), np.zeros((96, 32, 32, 3), np.uint8))
    refused = call_main(*base, "geneval", *scorer, "--run", other.root)
    assert (refused.code, "was not exported from" in refused.stderr) == (3, True)
    next(images.rglob("*.png")).write_bytes(b"another")
    refused = call_main(*base, "geneval", *scorer)
    assert (refused.code, "holds other files than" in refused.stderr) == (3, True)
    (tmp_path / "images.export.json").unlink()
    refused = call_main(*base, "geneval", *scorer, "--run", kit.run.root)
    assert (refused.code, "nothing says that the images are" in refused.stderr) == (2, True)


def test_what_a_scorer_started_ends_with_it(tmp_path: Path) -> None:
    """Whether it ends well, and before the limit or not; what it left running holds nobody up."""
    script, images = tmp_path / "score.py", tmp_path / "images"
    images.mkdir()
    (images / "x.png").write_bytes(b"x")
    script.write_text(
        "import subprocess, sys, time\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        "open(sys.argv[2], 'w').write(str(child.pid))\n"
        "print('{\"overall\": 1}', flush=True)\n"
        "time.sleep(float(sys.argv[3]))\n"
    )
    exported = open_exported(images, "dpg")
    for seconds, limit_s in ((0, 60.0), (600, 1.0)):
        text = f"command:{sys.executable} {script} {{images}} {tmp_path / 'pid'} {seconds}"
        command = parse_command(text, tmp_path)
        if seconds:
            with pytest.raises(EnvironmentProblem, match="was stopped after 1 s: give another --t"):
                run_scorer(command, exported, "dpg", limit_s)
        else:
            assert run_scorer(command, exported, "dpg", limit_s)["scores"] == {"overall": 1}
        pid = int((tmp_path / "pid").read_text())
        wait_for(lambda pid=pid: not is_running(pid))


def test_commands_and_scores_that_are_none(tmp_path: Path) -> None:
    for text in ("python x", "command:", "command:x", "command:'x {images}"):
        with pytest.raises(UsageError, match="--scorer"):
            parse_command(text, tmp_path)
    garbage = ("[" * 9000, '{"a": ' + "9" * 400 + "}", '{"a": ' + "9" * 5000 + "}")
    large = ('{"a": -1.7e308}', '{"a": ' + "9" * 290 + "}")
    for text in ("[]", "{}", '{"a": "0.5"}', '{"a": true}', "0.5", *garbage, *large):
        with pytest.raises(DataError, match="the scorer gave"):
            parse_scores(text, "x")
    for program in ("/nowhere/x", "./x.sh", "no-such-program"):
        with pytest.raises(EnvironmentProblem, match=f"cannot start {program}"):
            parse_command(f"command:{program} {{images}}", tmp_path)


RECIPES = Path(__file__).parents[2] / "docs" / "recipes"
OFFICIAL = {
    "evaluation/evaluate_images.py": "import sys\nopen(sys.argv[3], 'w').write('x')\n",
    "evaluation/summary_scores.py": "print('Total images: 2212')\n"
    "print('colors           = 81.91% (308 / 376)')\n"
    "print('Overall score (avg. over tasks): 0.73456')\n",
    "accelerate/__init__.py": "",
    "accelerate/commands/__init__.py": "",
    "accelerate/commands/launch.py": "print('Failed filename: partiprompts97.png 1')\n"
    "print('L1 category scores:\\n\\tentity: 91.5\\n\\tglobal: 80.0\\nL2 category scores:')\n"
    "print('\\tentity - whole: 92.0\\nDPG-Bench score: 80.9')\n",
}
"""What the official programs print, without their networks."""


def test_the_recipes_read_what_the_official_programs_print(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in OFFICIAL.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    for name in ("GENEVAL", "ELLA", "PYTHONPATH", "GENEVAL_DETECTOR"):
        monkeypatch.setenv(name, str(tmp_path))
    for name in ("GENEVAL_PYTHON", "ELLA_PYTHON"):
        monkeypatch.setenv(name, sys.executable)
    monkeypatch.chdir(tmp_path.parent)
    for name in ("GENEVAL", "ELLA", "GENEVAL_DETECTOR"):
        monkeypatch.setenv(name, tmp_path.name)
    geneval = parse_command(
        f"command:{RECIPES / 'geneval.sh'} {{images}} {{output}}", tmp_path.parent
    )
    images = open_exported(tmp_path, "geneval")
    scores = run_scorer(geneval, images, "geneval")["scores"]
    expected = {"colors": 0.8191, "overall": 0.73456}
    assert scores == pytest.approx(expected)
    dpg = parse_command(f"command:{RECIPES / 'dpg.sh'} {{images}} {{output}} 512", tmp_path.parent)
    assert run_scorer(dpg, images, "dpg")["scores"] == {
        "overall": 80.9,
        "dropped_files": 1,
        "unreliable_entity": 91.5,
        "unreliable_global": 80.0,
    }
    launch = tmp_path / "evaluation" / "evaluate_images.py"
    launch.write_text("print('CUDA error: no kernel image is available')\n")
    with pytest.raises(EnvironmentProblem, match="mmcv was not built for this GPU"):
        run_scorer(geneval, images, "geneval")
