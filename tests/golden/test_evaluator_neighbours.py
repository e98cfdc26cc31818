"""Precision, recall, density, coverage, radii and AuthPct as the original programs gave them.

Every case `m*` of `evaluator/metric_math.json`, whose matrices `make_features.py` beside it makes.
"""

import hashlib
import importlib.util
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from evalsuite.metrics.authenticity import auth_pct
from evalsuite.metrics.distances import Arithmetic
from evalsuite.metrics.manifolds import ManifoldSettings, manifold_metrics, reference_radii

OWN_CASES = Path(__file__).parent / "cases"
FOLDER = Path(os.environ.get("EVALSUITE_GOLDENS") or OWN_CASES) / "evaluator"
ADM = ManifoldSettings(k=3, arithmetic=Arithmetic.ADM_FLOAT16)
FLOAT32 = ManifoldSettings(k=3, arithmetic=Arithmetic.FLOAT32)


@dataclass(frozen=True, eq=False)
class MatrixCase:
    """Two feature sets and what other programs computed of them."""

    reference_MD: NDArray[np.float32]
    samples_ND: NDArray[np.float32]
    expected: dict[str, Any]


def metric_math() -> dict[str, Any]:
    """All cases; a folder without them is a failure."""
    cases: dict[str, Any] = json.loads((FOLDER / "metric_math.json").read_text())
    return cases


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    names = [name for name in metric_math() if name.startswith("m")]
    assert names, f"{FOLDER} has no matrices"
    metafunc.parametrize("case", names, ids=[f"evaluator-{name}" for name in names], indirect=True)


@pytest.fixture
def case(request: pytest.FixtureRequest) -> MatrixCase:
    """The matrices of a case, which must have the bytes that the goldens were made of."""
    expected = metric_math()[request.param]
    path = FOLDER / "make_features.py"
    spec = importlib.util.spec_from_file_location("golden_features", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sets = [module.features(expected["recipe"], which) for which in ("ref", "gen")]
    for features_ND, which in zip(sets, ("ref", "gen"), strict=True):
        assert hashlib.sha256(features_ND.tobytes()).hexdigest() == expected[f"sha256_{which}"]
    return MatrixCase(*sets, expected)


def test_precision_and_recall_are_adms_exactly(case: MatrixCase) -> None:
    values = manifold_metrics(case.samples_ND, case.reference_MD, ADM).values
    adm = case.expected["adm"]
    assert (values.precision, values.recall) == (adm["precision"], adm["recall"])


def test_squared_radii_are_adms(case: MatrixCase) -> None:
    adm = case.expected["adm"]
    for features_ND, key in (
        (case.reference_MD, "radii_sq_ref_first8"),
        (case.samples_ND, "radii_sq_gen_first8"),
    ):
        radii, expected = reference_radii(features_ND, ADM)[:8], np.array(adm[key])
        if np.array_equal(expected, expected.astype(np.float16)):
            assert radii.tolist() == expected.tolist()
        else:
            # A block that left float16 is float32, which TensorFlow sums in another order.
            np.testing.assert_allclose(radii, expected, rtol=1e-5)


def test_float32_shares_are_torch_fidelitys_and_those_of_float64(case: MatrixCase) -> None:
    values = manifold_metrics(case.samples_ND, case.reference_MD, FLOAT32).values
    modes, theirs = case.expected["float64_and_modes"], case.expected["torch_fidelity_0.4.0"]
    assert list(values[:2]) == modes["precision_recall_fp32"] == modes["precision_recall_fp64"]
    assert values.precision == pytest.approx(theirs["precision"], rel=1e-6)  # float32 there
    assert values.recall == pytest.approx(theirs["recall"], rel=1e-6)


def test_strict_shares_are_dgm_evals(case: MatrixCase) -> None:
    expected = {
        int(key.removeprefix("prdc_k")): values
        for key, values in case.expected["dgm_eval"].items()
        if key.startswith("prdc_k")
    }
    assert expected
    for k, shares in expected.items():
        settings = ManifoldSettings(k=k, strict=True)
        values = manifold_metrics(case.samples_ND, case.reference_MD, settings).values
        assert values._asdict() == pytest.approx(shares, rel=1e-12)


def test_auth_pct_is_dgm_evals(case: MatrixCase) -> None:
    value = auth_pct(case.samples_ND, case.reference_MD, torch.device("cpu"))
    assert value == pytest.approx(case.expected["dgm_eval"]["compute_authpct"], rel=1e-6)
