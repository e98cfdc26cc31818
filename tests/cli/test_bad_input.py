"""Bad input of every kind: one clear line, the right exit code, nothing lost."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from harness import (
    NUM_SAMPLES,
    PLAN,
    REPOSITORY,
    HostedCluster,
    Outcome,
    attempts,
    bytes_of,
    pixel_hashes,
    receipts,
    small_disk,
    start,
)
from PIL import Image

USAGE, DATA, INCOMPLETE, STORAGE, ENVIRONMENT = 2, 3, 4, 5, 6
MODEL = ("--model", "pixnerd-digits")
REFERENCE = ("--reference", "digits-16-train")
Refuse = Callable[..., str]


@pytest.fixture
def refuse(call: Callable[..., Outcome], tmp_path: Path) -> Refuse:
    """`refuse(code, *arguments)` gives the one line of a command that must fail with `code`."""

    def check(code: int, *arguments: object) -> str:
        before = set(tmp_path.rglob("*"))
        outcome = call(*arguments)
        assert outcome.code == code, outcome
        assert outcome.stdout == ""
        (line,) = outcome.complaints
        assert line.startswith("evalsuite: ")
        assert len(line) > 30
        if arguments[0] in {"sample", "evaluate"}:
            assert set(tmp_path.rglob("*")) == before
        return line

    return check


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--model", "pixnerd-digit"], USAGE, "did you mean 'pixnerd-digits'?"),
        (["--model", "none.yaml"], USAGE, "model file 'none.yaml' does not exist"),
        ([*MODEL, "--num-samples", "-5"], USAGE, "-5 is not in the range x>=1"),
        ([*MODEL, "--num-samples", "0"], USAGE, "0 is not in the range"),
        ([*MODEL, "--num-samples", "many"], USAGE, "'many' is not a valid integer"),
        ([*MODEL, "--batch-size", "-1"], USAGE, "--batch-size"),
        ([*MODEL, "--shard-size", "0"], USAGE, "--shard-size"),
        ([*MODEL, "--num-workers", "0"], USAGE, "--num-workers"),
        ([*MODEL, "--num-steps", "0"], USAGE, "--num-steps"),
        ([*MODEL, "--guidance-scale", "-1"], USAGE, "--guidance-scale"),
        ([*MODEL, "--guidance-scale", "nan"], USAGE, "'nan' is not a finite number"),
        ([*MODEL, "--guidance-scale", "inf"], USAGE, "'inf' is not a finite number"),
        ([*MODEL, "--set", "guidance_scale=.nan"], USAGE, "guidance_scale"),
        ([*MODEL, "--price-per-gpu-hour", "nan"], USAGE, "'nan' is not a finite number"),
        ([*MODEL, "--price-per-gpu-hour", "inf"], USAGE, "'inf' is not a finite number"),
        ([*MODEL, "--gpus-per-worker", "nan"], USAGE, "'nan' is not a finite number"),
        ([*MODEL, "--gpus-per-worker", "1.5"], USAGE, "1.5 is not in the range 0<x<=1"),
        ([*MODEL, "--gpus-per-worker", "0"], USAGE, "is not in the range 0<x<=1"),
        ([*MODEL, "--guidance-interval", "0.7", "0.1"], USAGE, "0 <= LO < HI <= 1"),
        ([*MODEL, "--guidance-interval", "-1", "0.5"], USAGE, "0 <= LO < HI <= 1"),
        ([*MODEL, "--guidance-interval", "0.1", "nan"], USAGE, "'nan' is not a finite number"),
        ([*MODEL, "--timeshift", "0"], USAGE, "timeshift"),
        ([*MODEL, "--noise-scale", "-1"], USAGE, "noise_scale"),
        ([*MODEL, "--last-step", "2"], USAGE, "last_step"),
        ([*MODEL, "--solver", "heum"], USAGE, "solver"),
        ([*MODEL, "--solver", "euler", "--order", "2"], USAGE, "--order is for solver adams"),
        ([*MODEL, "--order", "5"], USAGE, "--order"),
        ([*MODEL, "--dtype", "float16"], USAGE, "--dtype"),
        ([*MODEL, "--replicate", "1", "--first-seed", "5"], USAGE, "exclude each other"),
        ([*MODEL, "--replicate", "-1"], USAGE, "--replicate"),
        ([*MODEL, "--first-seed", "-1"], USAGE, "--first-seed"),
        ([*MODEL, "--size", "18x16"], USAGE, "multiples of 4"),
        ([*MODEL, "--size", "big"], USAGE, "'big' is not a size such as 256x256"),
        ([*MODEL, "--size", "20x20"], USAGE, "digits-convnet takes images of"),
        ([*MODEL, "--classes", "3,10"], USAGE, "label 10 is out of range: the model has classes"),
        ([*MODEL, "--classes", "-1"], USAGE, "label -1 is out of range"),
        ([*MODEL, "--classes", "sevn"], USAGE, "did you mean 'seven'?"),
        ([*MODEL, "--classes", "3,3"], USAGE, "twice"),
        ([*MODEL, "--labels", "modul"], USAGE, "did you mean 'modulo'?"),
        ([*MODEL, "--labels", "random:x"], USAGE, "random:SEED"),
        ([*MODEL, "--labels", "file:none.txt"], DATA, "label file none.txt"),
        ([*MODEL, "--part", "4/3"], USAGE, "'4/3' is not I/N with 1 <= I <= N"),
        ([*MODEL, "--part", "0/3"], USAGE, "'0/3' is not I/N"),
        ([*MODEL, "--tag", "mine"], USAGE, "'mine' is not KEY=VALUE"),
        ([*MODEL, "--images", "some"], USAGE, "--images"),
        ([*MODEL, "--shard-format", "npz", "--images", "grid"], USAGE, "use it with --images all"),
        ([*MODEL, "--negative-prompt", "blurry"], USAGE, "class-conditional"),
        ([*MODEL, "--weights", "none.safetensors"], DATA, "--weights none.safetensors does not"),
        ([*MODEL, "--extractor", "digits-convne"], USAGE, "did you mean 'digits-convnet'?"),
        ([*MODEL, "--reference", "digits-16-trian"], USAGE, "did you mean 'digits-16-train'?"),
        ([*MODEL, "--reference", "none.npz"], DATA, "none.npz does not exist"),
        ([*MODEL, "--metrics", "fid,sfidd"], USAGE, "did you mean 'sfid'?"),
        ([*MODEL, "--metrics", ","], USAGE, "names no metric"),
        ([*MODEL, "--num-samples", "3"], DATA, "precision needs at least 4 samples, not 3"),
        ([*MODEL, "--num-samples", "1", "--metrics", "fid"], DATA, "fid needs at least 2 samples"),
        ([*MODEL, "--device", "cuda"], ENVIRONMENT, "torch sees no GPU here"),
        ([*MODEL, "--json", "no/such/folder.json"], STORAGE, "--json no/such/folder.json"),
        ([*MODEL, "--output", "ftp://host/run"], USAGE, "give a local path, s3:// or gs://"),
        ([*MODEL, "--surprise"], USAGE, "--surprise"),
        ([], USAGE, "--model"),
    ],
    ids=lambda value: " ".join(value[2:] or value) if isinstance(value, list) else "",
)
def test_run_refuses(
    options: list[str], code: int, words: str, refuse: Refuse, tmp_path: Path
) -> None:
    if words.startswith("torch sees no GPU"):
        import torch

        if torch.cuda.is_available():
            pytest.skip("there is a GPU")
    line = refuse(code, "run", *options)
    assert words in line
    assert list(tmp_path.iterdir()) == []


def preset(tmp_path: Path, **changes: object) -> Path:
    """The digits preset as a file of one's own, with changes by dotted key."""
    source = REPOSITORY / "configs/models/pixnerd-digits.yaml"
    tree = yaml.safe_load(source.read_text())
    tree["weights"]["file"] = str(source.with_name(tree["weights"]["file"]))
    for key, value in changes.items():
        *path, last = key.split("__")
        at = tree
        for part in path:
            at = at[part]
        at[last] = value
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(tree))
    return tmp_path / "mine.yaml"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"guidance": 1.5}, "unknown key 'guidance'"),
        (
            {"sampling__num_stepps": 5},
            "key 'sampling.num_stepps': did you mean 'num_steps'?",
        ),
        (
            {"network__hidden_sise": 5},
            "key 'network.hidden_sise': did you mean 'hidden_size'?",
        ),
        ({"sampling__num_steps": 0}, "sampling.num_steps"),
        ({"sampling__solver": "rk45"}, "sampling.solver"),
        ({"family": "pixnerd-clas"}, "did you mean 'pixnerd-class'?"),
        ({"num_classes": -1}, "num_classes"),
        ({"path": "/etc"}, "unknown key 'path'"),
    ],
    ids=str,
)
def test_presets_with_faults(
    changes: dict[str, object], words: str, refuse: Refuse, tmp_path: Path
) -> None:
    assert words in refuse(USAGE, "run", "--model", preset(tmp_path, **changes), "--dry-run")


def test_a_preset_without_a_key(refuse: Refuse, tmp_path: Path) -> None:
    path = preset(tmp_path)
    path.write_text("\n".join(t for t in path.read_text().splitlines() if "batch_size" not in t))
    assert "batch_size" in refuse(USAGE, "run", "--model", path)


@pytest.mark.parametrize("content", ["a: [1, 2", "just text", "!!python/object:os.system {}"])
def test_presets_that_are_no_mapping(content: str, refuse: Refuse, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(content)
    assert "mine.yaml" in refuse(USAGE, "run", "--model", tmp_path / "mine.yaml")


def test_weights_that_are_not_the_presets(refuse: Refuse, tmp_path: Path) -> None:
    path = preset(tmp_path, weights__sha256="0" * 64)
    assert "their SHA-256 is not 000000000000" in refuse(DATA, "run", "--model", path)


def test_weights_of_another_kind(refuse: Refuse, tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"no weights")
    options = ("--weights", "w.safetensors", "--index", 0)
    assert "neither safetensors nor a torch checkpoint" in refuse(DATA, "sample", *MODEL, *options)


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        ("0 1 10 " * 10, USAGE, "label 10 is out of range: the model has classes 0..9"),
        ("0 -1 " * 10, USAGE, "label -1 is out of range"),
        ("0 one", DATA, "whole numbers"),
        ("", DATA, "holds no labels"),
        ("1 2 3", USAGE, "has 3 labels; 20 samples in whole batches of 10 need 20"),
    ],
)
def test_label_files_with_faults(
    content: str, code: int, words: str, refuse: Refuse, tmp_path: Path
) -> None:
    (tmp_path / "labels.txt").write_text(content)
    options = ("--labels", "file:labels.txt", "--num-samples", 20)
    assert words in refuse(code, "run", *PLAN, *options)


def test_a_label_file_and_classes_exclude_each_other(refuse: Refuse, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("1 " * 20)
    options = ("--labels", "file:labels.txt", "--classes", "1")
    assert "exclude each other" in refuse(USAGE, "run", *PLAN, *options)


@pytest.mark.ray
@pytest.mark.parametrize("command", ["run", "generate"])
def test_the_output_of_another_plan(command: str, run_copy: Path, refuse: Refuse) -> None:
    before = bytes_of(run_copy)
    other = ("--num-steps", 5, "--batch-size", 10, "--guidance-scale", 2.5, "--output", run_copy)
    line = refuse(USAGE, command, *MODEL, *other)
    assert "holds a run of another plan" in line
    assert "sampling.num_steps is 4 there, 5 was asked" in line
    assert "sampling.guidance_scale is 1.5 there, 2.5 was asked" in line
    assert "batch_size" not in line
    assert bytes_of(run_copy) == before


def test_an_output_that_holds_other_files(refuse: Refuse, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("precious")
    assert "holds other files" in refuse(USAGE, "run", *PLAN, "--output", "mine")
    assert bytes_of(tmp_path / "mine") == {"thesis.tex": b"precious"}


@pytest.mark.parametrize("output", ["file", "file/below"])
def test_an_output_at_or_below_a_file(output: str, refuse: Refuse, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    assert "a file stands where a directory is needed" in refuse(
        STORAGE, "run", *PLAN, "--output", output
    )


def test_an_output_on_a_read_only_disk(refuse: Refuse, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        line = refuse(STORAGE, "generate", *PLAN, "--num-samples", 10, "--output", disk / "run")
    assert "Read-only file system" in line


def test_a_disk_that_is_too_small_is_said_before_any_work(refuse: Refuse, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "200k") as disk:
        line = refuse(STORAGE, "generate", *PLAN, "--num-samples", 5000, "--output", disk / "run")
        assert list(disk.iterdir()) == []
    assert "are needed" in line
    assert "are free" in line


@pytest.mark.ray
def test_a_disk_that_fills_up_in_the_middle(
    cluster: HostedCluster, call: Callable[..., Outcome], tmp_path: Path, expected: dict[int, str]
) -> None:
    """What was committed stays, and once there is room the same command completes the run."""
    where = ("--address", cluster.address, "--num-workers", 1, "--shard-size", 10)
    with small_disk(tmp_path / "disk", "256k") as disk:
        run = disk / "run"
        command = ("generate", *PLAN, "--num-samples", NUM_SAMPLES, "--output", run, *where)
        full = call(*command)
        assert full.code == STORAGE, full
        (line,) = full.complaints
        assert "No space left on device: free some space and run the same command again" in line
        assert full.stdout == ""
        standing = pixel_hashes(run)
        assert 0 < len(standing) < NUM_SAMPLES
        assert standing.items() <= expected.items()
        named = {file["path"] for receipt in receipts(run) for file in receipt["files"]}
        assert {f"images/{p.name}" for p in (run / "images").iterdir()} >= named

        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        again = call(*command)
        assert again.code == 0, again.stderr
        assert pixel_hashes(run) == expected
        assert attempts(run)[-1]["images_made"] == NUM_SAMPLES - len(standing)
        assert call("gc", run, "--force").code == 0
        named = {file["path"] for receipt in receipts(run) for file in receipt["files"]}
        assert {f"images/{p.name}" for p in (run / "images").iterdir()} == named


def images(count: int = 8, size: int = 16) -> np.ndarray:
    """Random pictures."""
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"arr_0": images()[..., 0]}, "must be uint8 of shape (N, H, W, 3)"),
        ({"arr_0": images()[..., :2]}, "must be uint8 of shape (N, H, W, 3)"),
        ({"arr_0": images().astype(np.float32)}, "arr_0 is float32 with values from 0 to 255"),
        ({"arr_0": images().transpose(0, 3, 1, 2)}, "which looks like N,C,H,W: transpose it"),
        ({"arr_0": images()[:0]}, "arr_0 holds 0 images"),
        ({"images": images()}, "has no arr_0 (images); it holds images: if 'images' is them"),
        ({"arr_0": images(), "arr_1": np.arange(5)}, "arr_1 must hold 8 whole-number labels"),
        ({"arr_0": np.array([{"a": 1}], dtype=object)}, "pickled objects, which are never loaded"),
        ({"arr_0": images(size=32)}, "holds images of 32x32, but extractor digits-convnet takes"),
        ({"arr_0": images(3)}, "precision needs at least 4 samples, not 3"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_npz_with_faults(
    arrays: dict[str, np.ndarray], words: str, refuse: Refuse, tmp_path: Path
) -> None:
    np.savez(tmp_path / "s.npz", **arrays)
    assert words in refuse(DATA, "evaluate", "s.npz", *REFERENCE)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.95])
def test_a_truncated_npz(share: float, refuse: Refuse, tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", arr_0=images(64))
    content = (tmp_path / "s.npz").read_bytes()
    (tmp_path / "s.npz").write_bytes(content[: int(share * len(content))])
    assert "s.npz" in refuse(DATA, "evaluate", "s.npz", *REFERENCE)


def test_an_npz_with_damaged_bytes(refuse: Refuse, tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", arr_0=images(64))
    content = bytearray((tmp_path / "s.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "s.npz").write_bytes(content)
    assert "s.npz" in refuse(DATA, "evaluate", "s.npz", *REFERENCE)


def pngs(folder: Path, count: int = 8) -> Path:
    """A folder of pictures."""
    folder.mkdir()
    for number, picture in enumerate(images(count)):
        Image.fromarray(picture).save(folder / f"{number:03d}.png")
    return folder


def test_a_folder_with_an_unreadable_image(refuse: Refuse, tmp_path: Path) -> None:
    (pngs(tmp_path / "p") / "003.png").write_bytes(b"no picture")
    assert "003.png cannot be read as an image" in refuse(DATA, "evaluate", "p", *REFERENCE)


def test_a_folder_with_a_truncated_image(refuse: Refuse, tmp_path: Path) -> None:
    file = pngs(tmp_path / "p") / "003.png"
    file.write_bytes(file.read_bytes()[:300])
    assert "003.png cannot be read as an image" in refuse(DATA, "evaluate", "p", *REFERENCE)


def test_a_folder_with_an_odd_size(refuse: Refuse, tmp_path: Path) -> None:
    Image.fromarray(images(1, 20)[0]).save(pngs(tmp_path / "p") / "003.png")
    line = refuse(DATA, "evaluate", "p", *REFERENCE)
    assert "003.png is 20x20 (height x width), but 000.png is 16x16: all images must" in line


@pytest.mark.parametrize(
    ("samples", "words"),
    [("empty", "holds no PNG, JPEG or WebP images"), ("none", "none does not exist")],
)
def test_samples_that_are_not_there(
    samples: str, words: str, refuse: Refuse, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    assert words in refuse(DATA, "evaluate", samples, *REFERENCE)


def test_more_samples_than_there_are(refuse: Refuse, tmp_path: Path) -> None:
    pngs(tmp_path / "p")
    line = refuse(DATA, "evaluate", "p", *REFERENCE, "--num-samples", 9)
    assert "holds 8 images, fewer than --num-samples 9" in line


def test_metrics_without_a_reference(refuse: Refuse, tmp_path: Path) -> None:
    pngs(tmp_path / "p")
    own = (REPOSITORY / "configs/protocols/digits.yaml").read_text().partition("references:")[0]
    (tmp_path / "mine.yaml").write_text(own)
    asked = ("--extractor", "digits-convnet", "--protocol", "mine.yaml", "--metrics", "fid")
    line = refuse(USAGE, "evaluate", "p", *asked)
    assert "fid needs a --reference" in line


def test_a_protocol_of_another_network(refuse: Refuse, tmp_path: Path) -> None:
    """Digits have no ADM number, whatever prefix it would wear."""
    pngs(tmp_path / "p")
    line = refuse(
        USAGE, "evaluate", "p", *REFERENCE, "--protocol", "adm", "--extractor", "digits-convnet"
    )
    assert "protocol adm is of extractor inception-2015-12-05" in line


def changed_weights(target: Path, change: Callable[[np.ndarray], np.ndarray]) -> Path:
    """The digits extractor's weights with one tensor changed."""
    from safetensors.numpy import load_file, save_file

    weights = load_file(REPOSITORY / "configs/extractors/digits-convnet.safetensors")
    weights["conv1.bias"] = change(weights["conv1.bias"])
    save_file(weights, target)
    return target


def test_extractor_weights_with_nan(refuse: Refuse, tmp_path: Path) -> None:
    changed_weights(tmp_path / "nan.safetensors", lambda bias: bias * np.float32(np.nan))
    pngs(tmp_path / "p")
    options = ("--extractor", "digits-convnet", "--extractor-weights", "nan.safetensors")
    line = refuse(DATA, "evaluate", "p", *options, "--metrics", "inception_score")
    assert "NaN" in line


def test_a_reference_of_another_extractor(refuse: Refuse, tmp_path: Path) -> None:
    changed_weights(tmp_path / "other.safetensors", lambda bias: bias + np.float32(1))
    options = ("--extractor", "digits-convnet", "--extractor-weights", "other.safetensors")
    pngs(tmp_path / "p")
    for command in (["evaluate", "p", *REFERENCE], ["run", *PLAN]):
        line = refuse(DATA, *command, *options)
        assert "was made with extractor digits-convnet" in line
        assert "their features cannot be compared" in line


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"mu": np.zeros(64)}, "has one of mu and sigma, but needs both"),
        ({"mu": np.zeros(64), "sigma": np.eye(60)}, "do not fit"),
        ({"mu": np.zeros(2048), "sigma": np.eye(2048)}, "extractor digits-convnet gives 64"),
        ({"mu": np.full(64, np.nan), "sigma": np.eye(64)}, "holds NaN or infinite values"),
        ({"x": np.zeros(3)}, "holds neither mu and sigma nor images"),
        ({"mu": np.zeros(64), "sigma": np.eye(64)}, "holds no images, which precision needs"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_references_with_faults(
    arrays: dict[str, np.ndarray], words: str, refuse: Refuse, tmp_path: Path
) -> None:
    np.savez(tmp_path / "ref.npz", **arrays)
    pngs(tmp_path / "p")
    options = ("--extractor", "digits-convnet", "--metrics", "fid,precision")
    assert words in refuse(DATA, "evaluate", "p", "--reference", "ref.npz", *options)


def test_a_reference_file_that_changed(refuse: Refuse, tmp_path: Path) -> None:
    for suffix in ("yaml", "npz"):
        shutil.copy(REPOSITORY / f"reference_stats/digits-16-train.{suffix}", tmp_path)
    with (tmp_path / "digits-16-train.npz").open("ab") as file:
        file.write(b"more")
    pngs(tmp_path / "p")
    line = refuse(DATA, "evaluate", "p", "--reference", "digits-16-train.yaml")
    assert "is not the file that digits-16-train.yaml names" in line


def first_file(run: Path, stage: str) -> Path:
    """The data file of the third shard of a stage."""
    return run / receipts(run, stage)[2]["files"][0]["path"]


def feature_stage(run: Path) -> str:
    """The stage of the extractor whose features a run has."""
    (extractor,) = (run / "receipts/features").iterdir()
    return f"features/{extractor.name}"


def flip(file: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.ray
def test_evaluate_finds_a_corrupted_feature_shard(run_copy: Path, refuse: Refuse) -> None:
    flip(first_file(run_copy, feature_stage(run_copy)))
    line = refuse(DATA, "evaluate", run_copy)
    assert "other bytes than its receipt names (SHA-256 differs)" in line
    assert "again to repair" in line


@pytest.mark.ray
def test_evaluate_finds_a_corrupted_image_shard(run_copy: Path, refuse: Refuse) -> None:
    flip(first_file(run_copy, "images"))
    assert "SHA-256 differs" in refuse(DATA, "evaluate", run_copy)


@pytest.mark.ray
def test_evaluate_finds_a_replaced_feature_shard(run_copy: Path, refuse: Refuse) -> None:
    """A well-formed shard of NaN is still not the one that was committed."""
    from safetensors.numpy import load_file, save_file

    file = first_file(run_copy, feature_stage(run_copy))
    save_file(
        {k: v if k == "sample_index" else v * np.nan for k, v in load_file(file).items()}, file
    )
    assert "its receipt" in refuse(DATA, "evaluate", run_copy)


@pytest.mark.ray
def test_evaluate_names_what_is_missing(run_copy: Path, refuse: Refuse) -> None:
    (run_copy / "receipts" / feature_stage(run_copy) / "0000000040-0000000060.json").unlink()
    line = refuse(INCOMPLETE, "evaluate", run_copy)
    assert "features of samples 40..59 are missing" in line
    assert "run the same" in line
    line = refuse(INCOMPLETE, "evaluate", run_copy, "--num-samples", 300)
    assert "200..299" in line


@pytest.mark.ray
def test_damage_beyond_what_is_scored_stops_no_score(
    run_copy: Path, call: Callable[..., Outcome]
) -> None:
    """The report shows the whole run, so it is not written; the table and the records are there."""
    first_file(run_copy, "images").unlink()
    cut = sorted((run_copy / "receipts/images").glob("*.json"))[-1]
    cut.write_text(cut.read_text()[:100])
    scored = call("evaluate", run_copy, "--num-samples", 40, "--json", "out.json")
    assert scored.code == 0, scored.stderr
    assert [line for line in scored.complaints if "no report was written: " in line]
    assert "FID" in scored.stdout
    assert json.loads(Path("out.json").read_text())["num_samples"] == 40


@pytest.mark.ray
def test_export_finds_a_corrupted_image_shard(run_copy: Path, refuse: Refuse) -> None:
    flip(first_file(run_copy, "images"))
    line = refuse(DATA, "export", run_copy, "--format", "adm-npz", "--output", "s.npz")
    assert "is corrupted" in line
    assert not (run_copy.parent / "s.npz").exists()


@pytest.mark.ray
def test_verify_finds_every_fault_and_run_repairs_them(
    run_copy: Path, cluster: HostedCluster, call: Callable[..., Outcome], expected: dict[int, str]
) -> None:
    """Corrupted, truncated and missing shards, a receipt that is no JSON, and one that is gone."""
    before = bytes_of(run_copy)
    stage = feature_stage(run_copy)
    files = {s: [r["files"][0]["path"] for r in receipts(run_copy, s)] for s in ("images", stage)}
    flip(run_copy / files["images"][1])
    (run_copy / files["images"][3]).unlink()
    (run_copy / "receipts/images/0000000120-0000000140.json").write_text("{broken")
    (run_copy / "receipts/images/0000000180-0000000200.json").unlink()
    shard = run_copy / files[stage][5]
    shard.write_bytes(shard.read_bytes()[:-7])

    found = call("verify", run_copy)
    assert found.code == DATA
    faults = [line for line in found.stdout.splitlines() if line.startswith("fault: ")]
    assert len(faults) == 4
    for place in (files["images"][1], files["images"][3], "0000000120-0000000140", shard.name):
        assert len([fault for fault in faults if str(place) in fault]) == 1, place
    (line,) = found.complaints
    assert "4 committed shard(s) are damaged or missing" in line

    command = ("run", *PLAN, "--num-samples", NUM_SAMPLES, "--images", "all", "--output", run_copy)
    repaired = call(*command, "--address", cluster.address, "--num-workers", 1, "--shard-size", 20)
    assert repaired.code == 0, repaired.stderr
    assert len([t for t in repaired.complaints if t.endswith("this shard is made again")]) == 4
    last = attempts(run_copy)[-1]
    assert len(last["repaired"]) == 4
    assert last["images_made"] == 100
    assert pixel_hashes(run_copy) == expected
    assert call("verify", run_copy, "--num-batches", 1).code == 0
    untouched = files["images"][0]
    assert (run_copy / untouched).read_bytes() == before[untouched]


@pytest.mark.ray
@pytest.mark.parametrize("command", ["status", "verify", "report", "gc", "evaluate"])
def test_a_manifest_that_was_edited(command: str, run_copy: Path, refuse: Refuse) -> None:
    manifest = json.loads((run_copy / "manifest.json").read_text())
    manifest["plan"]["sampling"]["guidance_scale"] = 3.0
    (run_copy / "manifest.json").write_text(json.dumps(manifest))
    assert "does not hash to its plan_id; it was edited" in refuse(DATA, command, run_copy)


@pytest.mark.ray
def test_a_manifest_of_a_newer_version(run_copy: Path, refuse: Refuse) -> None:
    manifest = json.loads((run_copy / "manifest.json").read_text())
    (run_copy / "manifest.json").write_text(json.dumps({**manifest, "schema_version": 99}))
    assert "upgrade evalsuite" in refuse(DATA, "status", run_copy)


@pytest.mark.ray
def test_overlapping_runs_are_not_averaged(run_copy: Path, refuse: Refuse, tmp_path: Path) -> None:
    from evalsuite.config import Plan

    manifest = json.loads((run_copy / "manifest.json").read_text())
    shifted = {**manifest["plan"], "first_seed": 50}
    plan_id = Plan.model_validate(shifted).plan_id
    other = tmp_path / "other"
    shutil.copytree(run_copy / "attempts", other / "attempts")
    (other / "manifest.json").write_text(
        json.dumps({**manifest, "plan": shifted, "plan_id": plan_id})
    )
    line = refuse(USAGE, "evaluate", run_copy, other)
    assert "share 150 of 200 samples" in line
    assert "use --replicate" in line
    assert "share 200 of 200 samples" in refuse(USAGE, "evaluate", run_copy, run_copy)


@pytest.mark.parametrize("command", ["status", "verify", "report", "gc"])
def test_a_folder_that_is_no_run(command: str, refuse: Refuse, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    assert "mine is not a run directory" in refuse(USAGE, command, "mine")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--index", "-1"], "--index"),
        (["--index", "0", "--output", "file/one.png"], "a file stands where a directory is needed"),
    ],
)
def test_sample_refuses(options: list[str], words: str, refuse: Refuse, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    code = STORAGE if "--output" in options else USAGE
    assert words in refuse(code, "sample", *PLAN, *options)


def test_sample_says_what_it_computes(
    call: Callable[..., Outcome], refuse: Refuse, tmp_path: Path
) -> None:
    """One batch, whole; noise is called noise; hours without a GPU are asked for."""
    rate = {"device": "cpu", "seconds_per_evaluation": 1000, "source": "a guess"}
    slow = {"extends": "pixnerd-digits", "name": "slow", "known_rates": [rate]}
    (tmp_path / "slow.yaml").write_text(yaml.safe_dump(slow))
    model = ("--model", "slow.yaml", "--num-steps", 1, "--guidance-scale", 1, "--index", 0)
    few = (*model, "--batch-size", 2, "--device", "cpu")
    assert "about 33.3 min" in call("sample", *few, "--weights", "random:1").stderr
    many = (*model, "--batch-size", 20, "--device", "cpu")
    (tmp_path / "slow-0.png").unlink()
    line = refuse(USAGE, "sample", *many)
    assert "this is about 5.6 h of work on a machine without GPU (a guess): add --yes" in line
    said = call("sample", *many, "--yes", "--weights", "random:1").stderr
    assert "computing one batch of 20 images, NFE 1: about 5.6 h" in said
    assert "RANDOM WEIGHTS: the image is noise" in said


def test_a_stopped_sample_does_not_promise_that_anything_stays(tmp_path: Path) -> None:
    process = start("sample", *MODEL, "--num-steps", 4000, "--index", 0, cwd=tmp_path)
    assert process.stderr is not None
    assert process.stderr.readline().startswith("evalsuite: computing one batch")
    process.terminate()
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 143
    assert stderr.splitlines()[-1] == "evalsuite: stopped by SIGTERM: run the same command again"


def test_debug_shows_the_traceback(call: Callable[..., Outcome]) -> None:
    from evalsuite.errors import UsageError

    with pytest.raises(UsageError):
        call("--debug", "models", "show", "nothing")
