"""Scores of any prompts: CLIPScore by hand, a class, a command, categories, pairs, refusals."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from harness import call_main
from PIL import Image
from tiny_networks import save_clip as save_clip_vision

from evalsuite.artifacts.run_directory import RunDirectory
from evalsuite.errors import DataError
from evalsuite.pipeline.prompt_scores import CommandSource
from evalsuite.pipeline.row_file import read_rows
from evalsuite.pipeline.scorer_command import parse_command
from evalsuite.report.verdicts import verdict_sets

sys.path.insert(0, str(Path(__file__).parent))
from prompted_run import NUM, PROMPTS, make_prompted_run
from tiny_scorers import save_clip

MODULE = """
import numpy as np
class Bright:
    def __init__(self, device):
        assert device == "cpu"
    def score(self, images, prompts):
        return [float(image.mean()) + len(prompt) for image, prompt in zip(images, prompts)]
class Wrong:
    def __init__(self, device): pass
    def score(self, images, prompts):
        return [0.5]
class Nan(Wrong):
    def score(self, images, prompts):
        return [float("nan")] * len(images)
class Failing(Wrong):
    def score(self, images, prompts):
        raise IndexError("no such thing")
"""
PROGRAM = """import json, sys
from pathlib import Path
import numpy as np
from PIL import Image
images, output, mode = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
lines = [json.loads(line) for line in (images / "prompts.jsonl").read_text().splitlines()]
found = {
    line["file"]: float(np.asarray(Image.open(images / line["file"])).mean()) + len(line["prompt"])
    for line in lines
}
if mode == "short":
    found.pop("000003.png")
json.dump(found, open(output, "w"))
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """Four random images of each of eight prompts. Not to be changed but by scores."""
    return make_prompted_run(tmp_path_factory.mktemp("scores") / "run")


def test_clipscore_is_that_of_transformers_called_by_hand(
    run: RunDirectory, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer, CLIPModel

    folder = save_clip(tmp_path / "clip")
    base = ("t2i", "score", run.root, "--scorer", f"clip:{folder}", "--device", "cpu")
    done = call_main(*base, "--output", tmp_path / "s.jsonl", "--json", tmp_path / "s.json")
    assert done.code == 0, done.stderr
    assert f"CLIPScore: {NUM} images of {len(PROMPTS)} prompts" in done.stdout
    header, rows = read_rows(tmp_path / "s.jsonl")
    assert (header["scorer"]["prefix"], len(rows)) == ("A photo depicts ", NUM)
    network, tokenizer = (
        CLIPModel.from_pretrained(folder).eval(),
        AutoTokenizer.from_pretrained(folder),
    )
    for index, image in list(run.read_images(0, NUM))[::11]:
        resized = Image.fromarray(image).resize((32, 32), Image.Resampling.BICUBIC)
        mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
        std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
        pixels = (torch.tensor(np.array(resized)).permute(2, 0, 1) / 255 - mean) / std
        text = f"A photo depicts {PROMPTS[index % len(PROMPTS)]}"
        tokens = tokenizer(text, padding="max_length", max_length=24, return_tensors="pt")
        with torch.inference_mode():
            out = network(
                input_ids=tokens["input_ids"],
                attention_mask=tokens["attention_mask"],
                pixel_values=pixels[None],
            )
        cosine = float((out.text_embeds * out.image_embeds).sum())
        assert rows[index]["score"] == pytest.approx(2.5 * max(cosine, 0), abs=1e-5)
    found = json.loads((tmp_path / "s.json").read_text())
    assert found["overall"] == pytest.approx(np.mean([row["score"] for row in rows]))


def test_a_class_and_a_command_of_ones_own(
    run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same numbers by both ways; categories as T2I-CompBench's files have them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_scores.py").write_text(MODULE)
    (tmp_path / "score.py").write_text(PROGRAM)
    (tmp_path / "few.txt").write_text("".join(f"{prompt}\n" for prompt in PROMPTS[:3]))
    (tmp_path / "many.txt").write_text("".join(f"{prompt}\n" for prompt in PROMPTS[3:]))
    base = ("t2i", "score", run.root, "--device", "cpu", "--scorer")
    files = ("--category-file", "few.txt", "--category-file", "many.txt")
    trust = ("--trust-remote-code", *files)
    done = call_main(*base, "python:own_scores:Bright", *trust, "--output", "p.jsonl")
    assert done.code == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()[:3]] == ["few", "many", "mean"]
    command = f"command:{sys.executable} {tmp_path / 'score.py'} {{images}} {{output}}"
    by_command = call_main(*base, f"{command} all", *files, "--output", "c.jsonl")
    assert by_command.code == 0, by_command.stderr
    (_, ours), (header, theirs) = (read_rows(Path(name)) for name in ("p.jsonl", "c.jsonl"))
    assert [row["score"] for row in ours] == pytest.approx([row["score"] for row in theirs])
    assert ours[5]["category"] == "many"
    sets = {one.title: one for one in verdict_sets(run, "verdicts")}
    shown = sets["python:own_scores:Bright"]
    assert [bar.name for bar in shown.bars] == ["few", "many", "mean"]
    least = min(range(NUM), key=lambda i: ours[i]["score"])
    assert shown.groups[0].cards[0].sample == least
    assert header["scorer"]["command"][-1] == "all"
    compared = call_main("t2i", "compare", "p.jsonl", "p.jsonl")
    assert compared.stdout.split()[:2] == ["difference", "+0.0000"]
    refused = call_main("t2i", "compare", "p.jsonl", "c.jsonl")
    assert "judged by other scorer: no comparison" in refused.stderr
    only = ("--trust-remote-code", "--category-file", "few.txt")
    for scorer, options, code, words in [
        ("python:own_scores:Bright", (), 2, "its code would run here"),
        ("python:own_scores:None", trust, 2, "--scorer python:own_scores:None: own_scores has no"),
        ("python:own_scores:Bright", only, 2, "5 prompts of the run are in no --category-file"),
        ("python:own_scores:Wrong", trust, 3, "one finite number for each is wanted"),
        ("python:own_scores:Nan", trust, 3, "one finite number for each is wanted"),
        (
            "python:own_scores:Failing",
            trust,
            3,
            "failed in score(): own_scores.py, line 17: IndexError: no such",
        ),
        (f"command:{sys.executable} -m x {{images}}", (), 2, "names no file of the scorer"),
        ("clip:x", ("--time-limit", 5), 2, "--time-limit are of --scorer command:"),
        (f"{command} short", files, 3, "gave 31 numbers for 32 images: '000003.png'"),
        ("clip:none", (), 3, "is no folder"),
        ("blip", (), 2, "is neither clip:, python: nor command:"),
    ]:
        refused = call_main(*base, scorer, *options)
        assert (refused.code, words in refused.stderr) == (code, True), refused.stderr
        assert len(refused.stderr.splitlines()) <= 2  # what is to be judged, and the error


def test_a_scorer_that_has_changed_scores_anew(
    run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its script, or its version where it names none; a worker whose file is another refuses."""
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "own.sh"
    text = f"""#!/bin/sh\nexec {sys.executable} - "$@" <<'END'\n{PROGRAM}END\n"""
    script.write_text(text)
    script.chmod(0o755)
    base = ("t2i", "score", run.root, "--num-samples", 8, "--device", "cpu", "--scorer")

    def scored(scorer: str, *options: str) -> str:
        done = call_main(*base, scorer, *options)
        assert done.code == 0, done.stderr
        return str(done.stdout.split()[1])

    command = "command:./own.sh {images} {output} all"
    first = scored(command)
    assert scored(command) == first
    script.write_text(text.replace("+ len", "+ 1000 + len"))
    assert float(scored(command)) == pytest.approx(float(first) + 1000)
    other = f"command:sh -c '{script} {{images}} {{output}} all'"
    assert scored(other, "--scorer-version", "1") == scored(command)
    script.write_text(text)
    assert scored(other, "--scorer-version", "1") != first  # as it was told
    assert scored(other, "--scorer-version", "2") == first
    source = CommandSource(parse_command(command, tmp_path))
    source.load(torch.device("cpu"))
    script.write_text(text + "\n")
    with pytest.raises(DataError, match=r"the scorer's \./own\.sh in .* is not the file"):
        source.load(torch.device("cpu"))


def test_cmmd_of_a_prompt_run_is_that_of_its_images_by_hand(
    run: RunDirectory, tmp_path: Path
) -> None:
    """Against real images; `transformers` by hand has no part of ours but the pixels."""
    from transformers import CLIPVisionModelWithProjection

    folder = save_clip_vision(tmp_path / "clip", projection_dim=768)
    real_NHWC = np.random.default_rng(5).integers(0, 120, (NUM, 16, 16, 3), dtype=np.uint8)
    np.savez(tmp_path / "real.npz", arr_0=real_NHWC)
    asked = ("--protocol", "cmmd", "--extractor-weights", folder, "--device", "cpu")
    asked += ("--reference", tmp_path / "real.npz", "--json", tmp_path / "cmmd.json")
    done = call_main("evaluate", run.root, *asked)
    assert done.code == 0, done.stderr
    record = json.loads((tmp_path / "cmmd.json").read_text())["metrics"]["cmmd"]

    network = CLIPVisionModelWithProjection.from_pretrained(folder).eval()
    mean = np.array([0.48145466, 0.4578275, 0.40821073])
    std = np.array([0.26862954, 0.26130258, 0.27577711])

    def embedded(images: list[np.ndarray]) -> np.ndarray:
        sized = [Image.fromarray(i).resize((336, 336), Image.Resampling.BICUBIC) for i in images]
        pixels = (np.stack([np.asarray(i) for i in sized]) / 255 - mean) / std
        inputs = torch.from_numpy(pixels.transpose(0, 3, 1, 2).astype(np.float32))
        with torch.no_grad():
            found = network(pixel_values=inputs).image_embeds.double().numpy()
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    ours, real = embedded([image for _, image in run.read_images(0, NUM)]), embedded([*real_NHWC])

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.exp(-((a[:, None] - b[None]) ** 2).sum(-1) / (2 * 10.0**2)).mean())

    by_hand = 1000 * (kernel(ours, ours) + kernel(real, real) - 2 * kernel(ours, real))
    assert record["value"] == pytest.approx(by_hand, rel=1e-4)
