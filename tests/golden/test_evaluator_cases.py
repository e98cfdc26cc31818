"""The evaluator's goldens: whole evaluations, files in and five numbers out, as ADM computed them.

The networks differ in float32 rounding, by at most 6e-5 of a feature. That is worth less than 5e-5
of FID and sFID and 5e-6 of the Inception Score; float16 ties move a share by up to three images.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from golden.evaluator_kit import Graph, program

from evalsuite.artifacts.features import FeatureTable
from evalsuite.artifacts.references import open_reference
from evalsuite.artifacts.samples import open_samples
from evalsuite.config import ExtractorSpec, ProtocolSpec, load_spec
from evalsuite.metrics.moments import moments_of
from evalsuite.pipeline.embedding import embed
from evalsuite.pipeline.evaluation import score_samples
from evalsuite.pipeline.measure import Measure

DISTANCE = 5e-5
SCORE = 5e-6
SHARES = 3
CPU = torch.device("cpu")


def extractor_of(graph: Path, meta: dict[str, Any], folder: Path) -> ExtractorSpec:
    """The case's network as a user's own extractor."""
    content = {
        "name": "kit",
        "title": "synthetic Inception",
        "short": "kit-",
        "family": "inception-2015-12-05",
        "version": 1,
        "weights": {"file": str(graph), "sha256": hashlib.sha256(graph.read_bytes()).hexdigest()},
        "resize": "tf1-bilinear-299",
        "default_protocol": "adm",
        "batch_size": 64,
        "pool_dim": meta["network"]["pool_dim"],
        "spatial_dim": meta["network"]["spatial_dim"],
        "num_classes": 1008,
        "licence": "none",
    }
    path = folder / "kit.yaml"
    path.write_text(yaml.safe_dump(content))
    return load_spec(ExtractorSpec, str(path))


def write_images(goldens: Path, recipe: dict[str, Any], path: Path) -> np.ndarray:
    """The images of a recipe, checked against their digest."""
    make = program(goldens / "evaluator", "make_images")
    images = make.images(recipe["seed"], recipe["n"], recipe["size"], recipe["variant"])
    assert hashlib.sha256(images.tobytes()).hexdigest() == recipe["sha256"]
    np.savez(path, images)
    return images


def features_of(path: Path, spec: ExtractorSpec) -> FeatureTable:
    """Features of an NPZ."""
    samples = open_samples(path)
    return embed(samples, samples.num_images, spec, CPU).table


def reference_of(goldens: Path, meta: dict[str, Any], spec: ExtractorSpec, folder: Path) -> Path:
    """The case's reference: images, and moments of other images where it has them."""
    path = folder / "reference.npz"
    arrays = {"arr_0": write_images(goldens, meta["ref"], path)}
    if "ref_stats_from" in meta:
        write_images(goldens, meta["ref_stats_from"], folder / "others.npz")
        table = features_of(folder / "others.npz", spec)
        pool, spatial = moments_of(table.pool_ND), moments_of(table.spatial_NP)
        arrays |= {"mu": pool.mean_D.astype(np.float32), "sigma": pool.cov_DD}
        arrays |= {"mu_s": spatial.mean_D.astype(np.float32), "sigma_s": spatial.cov_DD}
        np.savez(path, **arrays)
    return path


def test_five_numbers_of_the_original_evaluator(
    evaluator_images_case: Any,
    goldens: Path,
    synthetic_inception: Callable[[int], Graph],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """FID, sFID, Inception Score, precision and recall."""
    monkeypatch.setenv("EVALSUITE_CACHE", str(tmp_path / "cache"))
    meta = evaluator_images_case.meta
    graph = synthetic_inception(meta["width_divisor"]).pb
    assert hashlib.sha256(graph.read_bytes()).hexdigest() == meta["network"]["pb_sha256"]
    spec = extractor_of(graph, meta, tmp_path)
    samples = tmp_path / "samples.npz"
    write_images(goldens, meta["sample"], samples)
    reference = open_reference(str(reference_of(goldens, meta, spec, tmp_path)))
    adm = load_spec(ProtocolSpec, "adm")
    single = load_spec(ProtocolSpec, "adm-float32")
    measures = [
        Measure(spec, reference, list(adm.metrics), CPU, adm),
        Measure(spec, reference, ["precision", "recall"], CPU, single),
    ]
    scored = score_samples(open_samples(samples), measures)
    ours = {(s.record.protocol_name, s.record.metric): s.record.value for s in scored}
    expected = meta["adm"]
    for name, key, tolerance in (
        ("fid", "fid", DISTANCE),
        ("sfid", "sfid", DISTANCE),
        ("inception_score", "inception_score", SCORE),
    ):
        value = float(expected[key])
        if np.isnan(value):
            assert ours["adm", name] is None
        else:
            assert ours["adm", name] == pytest.approx(value, rel=tolerance), name
    for name, count in (("precision", meta["sample"]["n"]), ("recall", meta["ref"]["n"])):
        for protocol, value in (
            ("adm", expected[name]),
            ("adm-float32", meta["pr_by_arithmetic"]["fp32"][name]),
        ):
            assert abs(ours[protocol, name] - value) <= SHARES / count + 1e-9, (protocol, name)
