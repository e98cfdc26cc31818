"""Self-tests: the files, the comparison and what is remembered, on the synthetic kit."""

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray
from tensorflow_kit import KIT, NARROWEST, graph_file, images_of, read, running_graph

from evalsuite.artifacts.downloads import cached_path
from evalsuite.artifacts.storage import file_sha256
from evalsuite.cli.selftest import selftest
from evalsuite.config import ExtractorSpec, ProtocolSpec, SelftestSpec, load_spec, names_of
from evalsuite.errors import ConfigError, CorruptionError, DataError, UsageError
from evalsuite.metrics.frechet import frechet_distance
from evalsuite.metrics.inception_score import inception_score
from evalsuite.metrics.moments import moments_of
from evalsuite.pipeline.selftest import (
    FoundFiles,
    confirmed,
    find_files,
    installation,
    record,
    run_selftest,
)

CASE = sorted(KIT.glob("case_*.json"))[-1]
COUNT = 24
IDENTITY = {"evalsuite": "1", "torch": "2"}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVALSUITE_CACHE", str(tmp_path / "cache"))


def write_spec(folder: Path, expected: Mapping[str, Any], **changes: Any) -> Path:
    """A self-test of three files named graph.pb, reference.npz and samples.npz."""
    names = {"graph": "graph.pb", "reference": "reference.npz", "samples": "samples.npz"}
    files = {
        what: {"url": f"https://example.org/files/{name}", "filename": name}
        for what, name in names.items()
    }
    content = {
        "name": "kit-64",
        "title": "the first images of a case of the kit",
        "extractor": "digits-convnet",
        "protocol": "adm",
        "num_samples": COUNT,
        "files": files,
        "source": "this test",
        "expected": dict(expected),
    }
    path = folder / "kit-64.yaml"
    path.write_text(yaml.safe_dump({**content, **changes}))
    return path


def files_in(folder: Path) -> FoundFiles:
    """Three small files that are there, whatever they hold."""
    for name in ("graph.pb", "reference.npz", "samples.npz"):
        (folder / name).write_bytes(name.encode())
    return FoundFiles(folder / "graph.pb", folder / "reference.npz", folder / "samples.npz")


def test_the_published_one_is_as_published() -> None:
    assert names_of(SelftestSpec) == ["adm-256"]
    spec = load_spec(SelftestSpec, "adm-256")
    assert [place.filename for place in spec.files.places] == [
        "classify_image_graph_def.pb",
        "VIRTUAL_imagenet256_labeled.npz",
        "admnet_guided_upsampled_imagenet256.npz",
    ]
    expected = spec.expected.by_metric
    printed = {metric: round(known.value, 7) for metric, known in expected.items()}
    assert printed == {
        "fid": 3.9425574,
        "sfid": 6.1404337,
        "inception_score": 215.8370361,
        "precision": 0.8265,
        "recall": 0.5309,
    }
    assert expected["recall"].tolerance == 0.001
    assert expected["fid"].tolerance == pytest.approx(3.9425574 * 5e-5)
    float32_port = {"recall": 0.5282, "fid": 3.94335}  # as reported for these files
    for metric, value in float32_port.items():
        assert abs(value - expected[metric].value) > expected[metric].tolerance


@pytest.mark.parametrize(
    ("expected", "text"),
    [
        ({"fid": {"value": 1.0}}, "needs a tolerance"),
        ({"fidd": {"value": 1.0, "relative": 1e-3}}, "did you mean 'fid'"),
        ({"fid": {"value": 1.0, "relativ": 1e-3}}, "did you mean 'relative'"),
        ({"fid": {"value": 1.0, "relative": -1e-3}}, "it must be at least 0"),
        ({}, "no value is expected"),
    ],
)
def test_a_wrong_yaml_is_one_line(tmp_path: Path, expected: dict[str, Any], text: str) -> None:
    path = write_spec(tmp_path, expected)
    with pytest.raises(ConfigError, match=text):
        load_spec(SelftestSpec, str(path))


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(UsageError, match="did you mean 'adm-256'"):
        load_spec(SelftestSpec, "adm-265")


def independent(reference: Any, samples: Any) -> dict[str, float]:
    """The metrics once more, by other formulas and in float64, from features.

    The trace of the root of a product of two covariances is the nuclear norm of the product of the
    two sets of centred features. Radii and shares come from whole matrices of distances.
    """
    a_MD, b_ND = reference.pool_ND.astype(np.float64), samples.pool_ND.astype(np.float64)
    centred_a, centred_b = a_MD - a_MD.mean(axis=0), b_ND - b_ND.mean(axis=0)
    scale = math.sqrt((len(a_MD) - 1) * (len(b_ND) - 1))
    root = np.linalg.svd(centred_a @ centred_b.T, compute_uv=False).sum() / scale
    traces = (centred_a**2).sum() / (len(a_MD) - 1) + (centred_b**2).sum() / (len(b_ND) - 1)
    p_NK = samples.probabilities_NK.astype(np.float64)
    entropy = -(p_NK * np.log(p_NK)).sum(axis=1).mean()
    marginal = p_NK.mean(axis=0)
    distances = {
        (x, y): np.square(u[:, None] - v[None]).sum(axis=2)
        for x, u in (("a", a_MD), ("b", b_ND))
        for y, v in (("a", a_MD), ("b", b_ND))
    }
    radii = {x: np.sort(distances[x, x], axis=1)[:, 3] for x in "ab"}
    inside = (distances["a", "b"] <= radii["a"][:, None]).any(axis=0)
    covered = (distances["b", "a"] <= radii["b"][:, None]).any(axis=0)
    return {
        "fid": float(((a_MD.mean(axis=0) - b_ND.mean(axis=0)) ** 2).sum() + traces - 2 * root),
        "inception_score": math.exp(-(marginal * np.log(marginal)).sum() - entropy),
        "precision": inside.mean(),
        "recall": covered.mean(),
    }


def images_in(path: Path) -> NDArray[np.uint8]:
    with np.load(path, allow_pickle=False) as archive:
        images: NDArray[np.uint8] = archive["arr_0"]
    return images


def score_with_tensorflow(samples: Path, reference: Path, graph: Path) -> dict[str, float]:
    """All that evalsuite has, behind the graph that the kit's process runs."""
    assert graph.read_bytes() == graph_file(NARROWEST).read_bytes()
    running = running_graph(NARROWEST)
    real, made = (running.features(images_in(path)) for path in (reference, samples))
    manifolds = running.precision_recall(real.pool_ND, made.pool_ND)
    return {
        "fid": frechet_distance(moments_of(made.pool_ND), moments_of(real.pool_ND)),
        "inception_score": inception_score(made.probabilities_NK),
        "precision": manifolds.precision,
        "recall": manifolds.recall,
    }


@pytest.fixture(scope="module")
def kit_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first images of a case, and the graph."""
    folder = tmp_path_factory.mktemp("published")
    meta, _ = read(CASE)
    for which, name in (("ref", "reference.npz"), ("sample", "samples.npz")):
        np.savez(folder / name, arr_0=images_of(meta[which], count=COUNT))
    shutil.copy(graph_file(NARROWEST), folder / "graph.pb")
    return folder


@pytest.mark.tf
def test_the_kit_passes_and_a_wrong_value_does_not(kit_files: Path, tmp_path: Path) -> None:
    """Expected values come from other formulas; one is then moved by what a bias would do."""
    running = running_graph(NARROWEST)
    real, made = (
        running.features(images_in(kit_files / name)) for name in ("reference.npz", "samples.npz")
    )
    values = independent(real, made)
    expected = {
        "fid": {"value": float(values["fid"]), "relative": 5e-5},
        "inception_score": {"value": values["inception_score"] * 1.004, "relative": 5e-6},
        "precision": {"value": float(values["precision"]), "absolute": 3 / COUNT},
        "recall": {"value": float(values["recall"]), "absolute": 3 / COUNT},
    }
    spec = load_spec(SelftestSpec, str(write_spec(tmp_path, expected)))
    files = find_files(spec, kit_files)
    rows = run_selftest(spec, files, score_with_tensorflow)
    assert [row.metric for row in rows] == list(spec.expected.by_metric)
    assert {row.metric for row in rows if not row.passed} == {"inception_score"}
    expected["inception_score"]["value"] = values["inception_score"]
    spec = load_spec(SelftestSpec, str(write_spec(tmp_path, expected)))
    rows = run_selftest(spec, files, score_with_tensorflow)
    assert all(row.passed for row in rows)
    assert record(spec, IDENTITY, rows, files)


def write_extractor(folder: Path) -> Path:
    """The kit's network as a user's own extractor, whose weights come with the self-test."""
    meta, _ = read(CASE)
    content = {
        "name": "kit",
        "title": "synthetic Inception",
        "short": "kit-",
        "family": "inception-2015-12-05",
        "version": 1,
        "weights": {"sha256": "00" * 32},
        "resize": "tf1-bilinear-299",
        "default_protocol": "adm",
        "batch_size": 8,
        "pool_dim": 2048 // NARROWEST,
        "spatial_dim": meta["network"]["spatial_dim"],
        "num_classes": 1008,
        "licence": "none",
    }
    path = folder / "kit.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.tf
def test_the_command(kit_files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Our network against what TensorFlow gave: rows, JSON, and an error where one is off."""
    values = score_with_tensorflow(
        *(kit_files / n for n in ("samples.npz", "reference.npz", "graph.pb"))
    )
    extractor = {"extractor": str(write_extractor(tmp_path))}
    expected = {
        "fid": {"value": values["fid"], "relative": 5e-5},
        "inception_score": {"value": values["inception_score"], "relative": 5e-6},
        "precision": {"value": values["precision"], "absolute": 3 / COUNT},
        "recall": {"value": values["recall"], "absolute": 3 / COUNT},
    }
    arguments = ["--files", str(kit_files), "--json", str(tmp_path / "out.json")]
    path = write_spec(tmp_path, expected, **extractor)
    selftest.main([str(path), *arguments], standalone_mode=False)
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].split() == ["metric", "expected", "got", "tolerance", "result"]
    assert (shown[1].split()[0], shown[1].split()[-1]) == ("fid", "pass")
    content = json.loads((tmp_path / "out.json").read_text())
    assert content["passed"] is True
    assert content["rows"][0]["got"] == pytest.approx(values["fid"], rel=5e-5)
    assert content["rows"][0]["got"] != values["fid"]  # it is another network's
    assert confirmed(str(path), content["installation"]) is not None

    write_spec(
        tmp_path, {"recall": {"value": values["recall"] + 0.3, "absolute": 0.1}}, **extractor
    )
    with pytest.raises(DataError, match=r"kit-64 has not passed: recall") as caught:
        selftest.main([str(path), *arguments], standalone_mode=False)
    assert caught.value.exit_code == 3
    assert "FAIL" in capsys.readouterr().out
    assert json.loads((tmp_path / "out.json").read_text())["passed"] is False


FID = {"fid": {"value": 2.0, "absolute": 0.5}}


@pytest.mark.parametrize(
    ("got", "passed"),
    [(2.5, True), (1.5, True), (2.51, False), (math.nan, False), (math.inf, False)],
)
def test_a_value_passes_within_its_tolerance(tmp_path: Path, got: float, passed: bool) -> None:
    spec = load_spec(SelftestSpec, str(write_spec(tmp_path, FID)))
    (row,) = run_selftest(spec, files_in(tmp_path), lambda *paths: {"fid": got, "sfid": 1.0})
    assert row.passed is passed
    assert (row.metric, row.expected, row.tolerance) == ("fid", 2.0, 0.5)


def test_files_are_given_to_score_in_its_order(tmp_path: Path) -> None:
    spec = load_spec(SelftestSpec, str(write_spec(tmp_path, FID)))

    def score(samples: Path, reference: Path, graph: Path) -> dict[str, float]:
        assert (samples.stem, reference.stem, graph.stem) == ("samples", "reference", "graph")
        return {}

    with pytest.raises(DataError, match="no value of fid"):
        run_selftest(spec, files_in(tmp_path), score)


def test_missing_cut_and_other_files_are_one_line_each(tmp_path: Path) -> None:
    path = write_spec(tmp_path, FID)
    content = yaml.safe_load(path.read_text())
    files = files_in(tmp_path)
    content["files"]["graph"]["num_bytes"] = files.graph.stat().st_size + 1
    content["files"]["samples"]["sha256"] = "0" * 64
    path.write_text(yaml.safe_dump(content))
    spec = load_spec(SelftestSpec, str(path))
    with pytest.raises(DataError, match=r"graph\.pb has 8 bytes, not 9"):
        find_files(spec, tmp_path)
    files.graph.write_bytes(b"graph.pb.")
    with pytest.raises(CorruptionError, match=r"samples\.npz has another SHA-256"):
        find_files(spec, tmp_path)
    files.graph.unlink()
    files.samples.unlink()
    with pytest.raises(DataError, match=r"needs graph\.pb and samples\.npz in"):
        find_files(spec, tmp_path)


def test_files_without_a_digest_are_not_downloaded_unless_that_is_allowed() -> None:
    """Said before the gigabytes of the other files have come."""
    with pytest.raises(UsageError, match=r"admnet_guided.*--allow-unverified"):
        find_files(load_spec(SelftestSpec, "adm-256"), None)


def test_files_in_the_cache_are_taken(tmp_path: Path) -> None:
    path = write_spec(tmp_path, FID)
    files = files_in(tmp_path)
    content = yaml.safe_load(path.read_text())
    for what, file in files._asdict().items():
        content["files"][what]["sha256"] = file_sha256(file)
    path.write_text(yaml.safe_dump(content))
    spec = load_spec(SelftestSpec, str(path))
    for place, file in zip(spec.files.places, files, strict=True):
        cached_path(place).parent.mkdir(parents=True)
        shutil.copy(file, cached_path(place))
    found = find_files(spec, None)
    assert [file.read_bytes() for file in found] == [file.read_bytes() for file in files]


def passing_row(spec: SelftestSpec, files: FoundFiles, got: float = 2.0) -> list[Any]:
    return run_selftest(spec, files, lambda *paths: {"fid": got})


def test_a_pass_is_remembered_for_this_installation_alone(tmp_path: Path) -> None:
    path = write_spec(tmp_path, FID)
    spec, files = load_spec(SelftestSpec, str(path)), files_in(tmp_path)
    assert confirmed(str(path), IDENTITY) is None
    assert record(spec, IDENTITY, passing_row(spec, files), files)
    when = confirmed(str(path), IDENTITY)
    assert when is not None
    assert when.tzinfo is not None
    assert confirmed(str(path), {**IDENTITY, "torch": "3"}) is None
    write_spec(tmp_path, {"fid": {"value": 2.0, "absolute": 50}})
    assert confirmed(str(path), IDENTITY) is None, "it was another test that passed"


def test_a_later_failure_withdraws_a_pass(tmp_path: Path) -> None:
    path = write_spec(tmp_path, FID)
    spec, files = load_spec(SelftestSpec, str(path)), files_in(tmp_path)
    assert record(spec, IDENTITY, passing_row(spec, files), files)
    assert not record(spec, IDENTITY, passing_row(spec, files, got=9.0), files)
    assert confirmed(str(path), IDENTITY) is None


def test_half_a_record_confirms_nothing(tmp_path: Path) -> None:
    path = write_spec(tmp_path, FID)
    spec, files = load_spec(SelftestSpec, str(path)), files_in(tmp_path)
    assert record(spec, IDENTITY, passing_row(spec, files), files)
    (stored,) = (tmp_path / "cache" / "selftests").glob("kit-64-*.json")
    whole = json.loads(stored.read_text())
    assert set(whole["files"]) == {"graph.pb", "reference.npz", "samples.npz"}
    for content in ("", "[]", "{}", '{"confirmed": 3}', '{"confirmed": "soon"}'):
        stored.write_text(content)
        assert confirmed(str(path), IDENTITY) is None


def changed(one: dict[str, str], other: dict[str, str]) -> set[str]:
    assert set(one) == set(other)
    return {key for key in one if one[key] != other[key]}


def test_an_installation_is_code_and_all_that_decides_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = installation("inception-1")
    assert one == installation("inception-1", torch.device("cpu"), "adm")
    assert set(one) >= {"evalsuite", "source_sha256", "torch", "device", "numerics_id"}
    assert changed(one, installation("inception-2")) == {"extractor_id"}
    assert changed(one, installation("inception-1", protocol="jit")) == {"protocol_sha256"}
    registered = installation(load_spec(ExtractorSpec, "inception-2015-12-05").extractor_id)
    assert changed(one, registered) == {"extractor_id", "extractor_sha256"}
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")
    assert changed(one, installation("inception-1")) == {"numerics_id"}


def test_the_number_of_threads_withdraws_no_confirmation() -> None:
    """Metrics are compared with all of them, and read again with one."""
    before, one = torch.get_num_threads(), installation("inception-1")
    try:
        torch.set_num_threads(before + 1)
        assert installation("inception-1") == one
    finally:
        torch.set_num_threads(before)


def test_another_protocol_by_the_same_name_is_another_installation(tmp_path: Path) -> None:
    """Of a YAML what it says counts, and not where it lies or how it is laid out."""
    own = load_spec(ProtocolSpec, "adm").path.read_text()
    copy = tmp_path / "adm.yaml"
    copy.write_text(f"# a comment\n{own}")
    one = installation("inception-1")
    assert installation("inception-1", protocol=str(copy)) == one
    copy.write_text(own.replace("k: 3", "k: 4"))
    assert changed(one, installation("inception-1", protocol=str(copy))) == {"protocol_sha256"}
