"""Metrics on small matrices against what ADM's evaluator and torch-fidelity computed on them.

The matrices come from the kit's own generator. ADM takes means in float32 and roots by sqrtm, which
is good to 6e-6 where covariances are singular; torch-fidelity takes kernels in float32, whose
rounding moves a distance by up to 1.5e-5 of it.
"""

import hashlib
import importlib.util
import json
import os
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from evalsuite.metrics.frechet import frechet_distance, frechet_fit
from evalsuite.metrics.inception_score import (
    even_splits,
    inception_score,
    inception_score_with_zeros,
    score_of_splits,
)
from evalsuite.metrics.kernel_distance import (
    KID_KERNEL,
    RBF_KERNEL,
    SUBSET_SEED,
    kernel_distance,
    kernel_distance_of_subsets,
    kid_reference,
)
from evalsuite.metrics.mmd import biased_mmd, cmmd, cmmd_reference
from evalsuite.metrics.moments import moments_of

OWN_CASES = Path(__file__).parent / "cases"
FOLDER = Path(os.environ.get("EVALSUITE_GOLDENS") or OWN_CASES) / "evaluator"
ADM_FRECHET = 5e-5
EXACT_FRECHET = 1e-9
SCORE = 5e-6
KID = 5e-5
KERNELS = {"poly3": KID_KERNEL, "rbf10": RBF_KERNEL}


def all_cases() -> dict[str, dict[str, Any]]:
    """Every case of the folder's `metric_math.json`."""
    path = FOLDER / "metric_math.json"
    cases: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.is_file() else {}
    return cases


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`matrices` are cases with two feature sets, `scores` those with logits."""
    for argument, key in (("matrices", "sha256_ref"), ("scores", "sha256")):
        if argument in metafunc.fixturenames:
            found = {name: case for name, case in all_cases().items() if key in case}
            ids = [f"evaluator-{name}" for name in found]
            metafunc.parametrize(argument, list(found.values()), ids=ids)


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    """`make_features.py` of the kit; our copy when the folder brings none."""
    path = FOLDER / "make_features.py"
    path = path if path.is_file() else OWN_CASES / "evaluator" / "make_features.py"
    spec = importlib.util.spec_from_file_location("make_features", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def features_of(case: dict[str, Any], generator: ModuleType) -> list[NDArray[np.float32]]:
    """Generated and reference features, which must be those of the goldens."""
    found = [generator.features(case["recipe"], which) for which in ("gen", "ref")]
    for features_ND, which in zip(found, ("gen", "ref"), strict=True):
        digest = hashlib.sha256(features_ND.tobytes()).hexdigest()
        assert digest == case[f"sha256_{which}"]
    return found


def logits_of(case: dict[str, Any], generator: ModuleType) -> torch.Tensor:
    """Logits, which must be those of the goldens."""
    logits_NK = generator.logits(case["recipe"])
    assert hashlib.sha256(logits_NK.tobytes()).hexdigest() == case["sha256"]
    return torch.from_numpy(logits_NK)


def test_evaluator_cases_are_there_and_each_has_a_test():
    cases = all_cases()
    assert cases, f"no metric_math.json in {FOLDER}"
    assert [name for name, case in cases.items() if not {"sha256_ref", "sha256"} & set(case)] == []


def test_evaluator_frechet(matrices, generator):
    gen_ND, ref_ND = features_of(matrices, generator)
    sample, reference = moments_of(gen_ND), moments_of(ref_ND)
    exact = matrices["float64_and_modes"]["frechet_nuclear"]
    for distance in (
        frechet_distance(sample, reference),
        frechet_distance(reference, sample),
        frechet_fit(sample, reference).value,
    ):
        assert distance == pytest.approx(exact, rel=EXACT_FRECHET)
        assert distance == pytest.approx(matrices["adm"]["frechet"], rel=ADM_FRECHET)
        assert distance == pytest.approx(matrices["torch_fidelity_0.4.0"]["fid"], rel=ADM_FRECHET)


def test_evaluator_kid_of_subsets(matrices, generator):
    gen_ND, ref_ND = (rows.astype(np.float64) for rows in features_of(matrices, generator))
    count = 0
    for key, expected in matrices["torch_fidelity_0.4.0"].items():
        found = re.fullmatch(r"kid_(\w+)_subsets(\d+)_size(\d+)_seed(\d+)", key)
        if not found:
            continue
        kernel, (num_subsets, size, seed) = KERNELS[found[1]], map(int, found.groups()[1:])
        assert seed == SUBSET_SEED
        mean, std = kernel_distance_of_subsets(gen_ND, ref_ND, kernel, num_subsets, size)
        spread = expected["kernel_inception_distance_std"]
        assert std == pytest.approx(spread, rel=KID)
        # Kernels of features far apart are near 0, and so is their mean.
        wanted = expected["kernel_inception_distance_mean"]
        assert mean == pytest.approx(wanted, rel=KID, abs=1e-6 * spread)
        count += 1
    assert count


def test_evaluator_discrepancies_over_all_pairs(matrices, generator):
    gen_ND, ref_ND = features_of(matrices, generator)
    count = 0
    for key, expected in matrices["torch_fidelity_0.4.0"].items():
        found = re.fullmatch(r"mmd2_poly3_(unbiased|biased)_first(\d+)", key)
        if not found:
            continue
        first = int(found[2])
        estimate = {"unbiased": kernel_distance, "biased": biased_mmd}[found[1]]
        value = estimate(gen_ND[:first], kid_reference(ref_ND[:first])).value
        assert value == pytest.approx(expected, rel=KID)
        count += 1
    assert count


def test_evaluator_cmmd(matrices, generator):
    gen_ND, ref_ND = features_of(matrices, generator)
    expected = matrices["cmmd_own_formula"]
    # In float32 as in the pipeline, and in float64 as the goldens were computed.
    assert cmmd(gen_ND, cmmd_reference(ref_ND)).value == pytest.approx(expected, rel=1e-6)
    gen_ND, ref_ND = gen_ND.astype(np.float64), ref_ND.astype(np.float64)
    assert cmmd(gen_ND, cmmd_reference(ref_ND)).value == pytest.approx(expected, rel=1e-10)


def test_evaluator_inception_score_in_order(scores, generator):
    single_NK = torch.softmax(logits_of(scores, generator), dim=1).numpy()
    expected = float(scores["adm_is"])
    assert inception_score(single_NK) == pytest.approx(expected, rel=SCORE, nan_ok=True)
    otherwise = scores["float64_split5000"]
    assert inception_score_with_zeros(single_NK) == pytest.approx(otherwise, rel=SCORE)


def test_evaluator_inception_score_of_ten_splits(scores, generator):
    double_NK = torch.softmax(logits_of(scores, generator).double(), dim=1).numpy()
    for name, seed in (("shuffled", 2020), ("unshuffled", None)):
        expected = scores[f"torch_fidelity_10splits_{name}"]
        mean, std = score_of_splits(double_NK, even_splits(len(double_NK), seed=seed))
        assert mean == pytest.approx(expected["inception_score_mean"], rel=1e-9)
        assert std == pytest.approx(expected["inception_score_std"], rel=1e-9)
