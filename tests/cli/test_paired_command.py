"""`evaluate RECON --paired-with ORIGINALS`: pairs by name or order, four metrics, refusals."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from harness import FinishedRun, Outcome
from numpy.typing import NDArray
from PIL import Image

from evalsuite.artifacts.records import Record
from evalsuite.features.lpips.network import lpips_shapes
from evalsuite.metrics.reconstruction import psnr, ssim

USAGE, DATA = 2, 3
DIGITS = ("--extractor", "digits-convnet")
Images = NDArray[np.uint8]
Call = Callable[..., Outcome]


@pytest.fixture
def originals(tmp_path: Path) -> Images:
    """140 real digits, as a folder and as an NPZ with labels."""
    with np.load(Path(__file__).parents[2] / "reference_stats/digits-16-train.npz") as archive:
        images, labels = archive["arr_0"][:140], archive["arr_1"][:140]
    np.savez(tmp_path / "originals.npz", arr_0=images, arr_1=labels)
    folder_of(tmp_path / "originals", images)
    return images


def folder_of(path: Path, images: Images) -> None:
    path.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(path / f"{i:04}.png")


@pytest.fixture
def samples(tmp_path: Path, originals: Images) -> Images:
    """Reconstructions: some levels off, but for three that are exact."""
    errors = np.random.default_rng(0).normal(0, 6, originals.shape)
    images = (originals + errors).clip(0, 255).astype(np.uint8)
    images[[3, 30, 139]] = originals[[3, 30, 139]]
    folder_of(tmp_path / "recon", images)
    return images


def records_of(path: Path) -> dict[str, Record]:
    content = json.loads(path.read_text())
    return {r["metric"]: Record.model_validate(r) for r in content["records"]}


def test_pairs_have_records_like_all_others(
    call: Call, tmp_path: Path, samples: Images, originals: Images
) -> None:
    """Means and errors over pairs; rFID is FID against the originals, number and protocol."""
    outcome = call("evaluate", "recon", "--paired-with", "originals", *DIGITS, "--json", "p.json")
    assert outcome.code == 0, outcome.stderr
    assert "140 pairs by names, 3 of them identical in every pixel" in outcome.stdout
    found = records_of(tmp_path / "p.json")
    assert list(found) == ["psnr", "ssim", "fid"]
    per_pair = {"psnr": psnr(samples, originals), "ssim": ssim(samples, originals)}
    for name, values in per_pair.items():
        finite = values[np.isfinite(values)]
        assert found[name].value == pytest.approx(finite.mean(), rel=1e-12)
        error = finite.std(ddof=1) / np.sqrt(len(finite))
        assert found[name].standard_error == pytest.approx(error, rel=1e-9)
        assert found[name].protocol.extractor == "none"
        assert found[name].protocol_id == found[name].protocol.protocol_id
        assert (found[name].better, found[name].protocol.num_samples) == ("higher", 140)
        assert found[name].samples["num_identical"] == 3
    assert [found[name].display for name in found] == ["PSNR-140", "SSIM-140", "digits-rFID-140"]
    for text in ("PSNR-140", "SSIM-140", "digits-rFID-140", "3 of 140 pairs are identical"):
        assert text in outcome.stdout

    plain = call(
        *("evaluate", "recon", "--reference", "originals", *DIGITS),
        *("--metrics", "fid", "--json", "f.json"),
    )
    assert plain.code == 0, plain.stderr
    other = records_of(tmp_path / "f.json")["fid"]
    assert found["fid"].value == pytest.approx(other.value, rel=1e-12)
    assert found["fid"].protocol_id == other.protocol_id
    assert other.standard_error is not None
    assert 0 < found["fid"].standard_error < other.standard_error
    assert found["fid"].extrapolated is None
    assert found["fid"].reference == "originals"


def test_lpips_with_the_users_weights(
    call: Call, tmp_path: Path, samples: Images, originals: Images
) -> None:
    """From two files, as torchvision and LPIPS give them; the record names their digest."""
    folder_of(tmp_path / "large", np.repeat(np.repeat(samples[:5], 3, 1), 3, 2))
    folder_of(tmp_path / "there", np.repeat(np.repeat(originals[:5], 3, 1), 3, 2))
    generator = torch.Generator().manual_seed(0)
    weights = {
        key: torch.randn(shape, generator=generator).abs() * 0.1
        for key, shape in lpips_shapes("alex").items()
    }
    torch.save({k: v for k, v in weights.items() if k[0] == "f"}, tmp_path / "alex.pth")
    torch.save({k: v for k, v in weights.items() if k[0] == "l"}, tmp_path / "lin.pth")
    files = ("--lpips-weights", "alex.pth", "--lpips-weights", "lin.pth", "--metrics", "lpips")
    outcome = call("evaluate", "large", "--paired-with", "there", *files, "--json", "p.json")
    assert outcome.code == 0, outcome.stderr
    (record,) = records_of(tmp_path / "p.json").values()
    assert (record.metric, record.better) == ("lpips-alex", "lower")
    assert record.protocol.extractor == "lpips-alex"
    assert len(record.protocol.extractor_sha256) == 64
    assert record.protocol.details["version"] == "0.1"
    assert record.value > 0


def test_a_prefix_and_sources_without_names(call: Call, tmp_path: Path, samples: Images) -> None:
    """An NPZ has no names, so order decides; the first 20 pairs score as a set of 20."""
    one = ("--metrics", "psnr,ssim", "--num-samples", 20, "--json", "a.json")
    outcome = call("evaluate", "recon", "--paired-with", "originals.npz", *one)
    assert outcome.code == 0, outcome.stderr
    assert "20 pairs by order, 1 of them identical" in outcome.stdout
    with np.load("originals.npz") as archive:
        np.savez("o20.npz", arr_0=archive["arr_0"][:20])
    np.savez("s20.npz", arr_0=samples[:20])
    same = ("--metrics", "psnr,ssim", "--json", "b.json")
    assert call("evaluate", "s20.npz", "--paired-with", "o20.npz", *same).code == 0
    here, there = records_of(tmp_path / "a.json"), records_of(tmp_path / "b.json")
    assert [r.value for r in here.values()] == [r.value for r in there.values()]
    assert here["psnr"].protocol.reference_sha256 == there["psnr"].protocol.reference_sha256


@pytest.mark.ray
def test_a_run_with_itself(call: Call, tmp_path: Path, digits_run: FinishedRun) -> None:
    """By sample_index, from stored pixels: no difference at all, and an infinite PSNR is said."""
    run = digits_run.path
    outcome = call("evaluate", run, "--paired-with", run, *DIGITS, "--json", "p.json")
    assert outcome.code == 0, outcome.stderr
    found = records_of(tmp_path / "p.json")
    assert found["psnr"].value is None
    assert found["ssim"].value == 1.0
    assert found["fid"].value == pytest.approx(0, abs=1e-6)
    assert "200 of 200 pairs are identical: their PSNR is infinite" in outcome.stdout
    assert "undefined" in outcome.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["recon", "--paired-with", "short"], DATA, "recon has 0000 and short has not (nor 1 more"),
        (["recon", "--paired-with", "o.npz"], DATA, "image 5 of o.npz and those after it have no"),
        (["recon", "--paired-with", "small"], DATA, "those of small 8x8: pairs need one size"),
        (["recon", "--paired-with", "nothing"], DATA, "--paired-with nothing does not exist"),
        (["recon", "--paired-with", "same"], DATA, "its weights are not on this machine"),
        (["recon", "recon", "--paired-with", "same"], USAGE, "takes one set of SAMPLES"),
        (["recon", "--paired-with", "same", "--reference", "digits-16-train"], USAGE, "leave"),
        (["recon", "--paired-with", "same", "--metrics", "kid"], USAGE, "kid is no metric of pai"),
        (["recon", "--paired-with", "same", "--metrics", ","], USAGE, "names no metric"),
        (["recon", "--paired-with", "same", "--metrics", "lpips"], USAGE, "--lpips-weights FILE"),
        (["recon", "--lpips-weights", "w.pth"], USAGE, "give --paired-with ORIGINALS"),
        (
            ["recon", "--paired-with", "same", "--metrics", "ssim", "--lpips-weights", "w.pth"],
            USAGE,
            "lpips is not among --metrics",
        ),
        (
            ["recon", "--paired-with", "same", "--metrics", "lpips", "--lpips-weights", "w.pth"],
            DATA,
            "cannot read weights w.pth: it is damaged, or holds other Python objects",
        ),
        (
            ["recon", "--paired-with", "same", "--metrics", "psnr", "--num-samples", 9],
            DATA,
            "fewer",
        ),
        (["small", "--paired-with", "small", "--metrics", "ssim"], DATA, "SSIM needs at least 11"),
    ],
)
def test_what_is_refused(
    call: Call, tmp_path: Path, arguments: list[str], code: int, words: str
) -> None:
    """In one line, before anything is written."""
    images = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3)).astype(np.uint8)
    for name in ("recon", "same"):
        folder_of(tmp_path / name, images)
    folder_of(tmp_path / "short", images[:3])
    for i, name in enumerate(("0001", "0002", "0004")):
        (tmp_path / f"short/{i:04}.png").rename(tmp_path / f"short/_{name}.png")
    for name in ("0001", "0002", "0004"):
        (tmp_path / f"short/_{name}.png").rename(tmp_path / f"short/{name}.png")
    folder_of(tmp_path / "small", images[:, :8, :8])
    np.savez(tmp_path / "o.npz", arr_0=np.concatenate([images, images[:2]]))
    (tmp_path / "w.pth").write_bytes(b"no weights")
    outcome = call("evaluate", *arguments)
    assert outcome.code == code, outcome
    assert outcome.stdout == ""
    (line,) = outcome.stderr.splitlines()
    assert words in line
