"""Inception by name: which files it accepts, where it finds them, and what its id is made of."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from golden.evaluator_kit import Graph

from evalsuite.artifacts.downloads import cached_path
from evalsuite.config import ExtractorSpec, data_root, load_spec, names_of
from evalsuite.errors import ConfigError, DataError
from evalsuite.features.registry import build_extractor
from evalsuite.pipeline.plan import with_weights
from evalsuite.pipeline.worker import check_extractor_weights, load_extractor

NAME = "inception-2015-12-05"
CPU = torch.device("cpu")
PB = "009d6814d1bc560d4e7b236e170e9b2d5ca6f4b57bd8037f6db05776204415c6"
PTH = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
MISSING = object()


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_yaml(folder: Path, **changes: Any) -> Path:
    """The YAML of the real Inception with other keys."""
    path = data_root() / "configs" / "extractors" / f"{NAME}.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8")) | changes
    path = folder / "kit.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not MISSING}))
    return path


@pytest.fixture
def kit(narrow_graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ExtractorSpec:
    """An extractor whose two containers have places, with nothing in the cache yet."""
    monkeypatch.setenv("EVALSUITE_CACHE", str(tmp_path / "cache"))
    places = [
        {"url": f"https://example.org/{p.name}", "filename": p.name, "sha256": sha256_of(p)}
        for p in (narrow_graph.pb, narrow_graph.torch_fidelity)
    ]
    weights = {"sha256": places[0]["sha256"], "ema": "none", "places": places}
    changes = {"name": "kit", "short": "kit-", "weights": weights, "pool_dim": 256}
    return load_spec(ExtractorSpec, str(write_yaml(tmp_path, batch_size=2, **changes)))


def test_the_published_extractor_pins_its_three_files() -> None:
    spec = load_spec(ExtractorSpec, NAME)
    assert spec.weights.accepted_sha256 == {PB, PTH}
    assert [place.sha256 for place in spec.weights.places] == [PB, PTH, PTH]
    assert (spec.weights.sha256, spec.short, spec.default_protocol) == (PB, "", "adm")


def test_the_bfloat16_twin_is_another_extractor_of_the_same_files() -> None:
    exact, rough = load_spec(ExtractorSpec, NAME), load_spec(ExtractorSpec, f"{NAME}-bf16")
    assert rough.weights == exact.weights
    assert (rough.precision, rough.short) == ("bfloat16", "bf16-")
    assert rough.extractor_id.rpartition("-")[2] != exact.extractor_id.rpartition("-")[2]


def test_no_two_extractors_share_a_prefix() -> None:
    prefixes = [load_spec(ExtractorSpec, name).short for name in names_of(ExtractorSpec)]
    assert len(set(prefixes)) == len(prefixes) > 2


def test_the_default_protocol_is_not_part_of_the_id(tmp_path: Path) -> None:
    spec = load_spec(ExtractorSpec, NAME)
    other = load_spec(ExtractorSpec, str(write_yaml(tmp_path, default_protocol="jit")))
    assert other.extractor_id == spec.extractor_id


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"weights": {"sha256": "a" * 64}}, "short must not be empty"),
        ({"precision": "bfloat16"}, "short must not be empty"),
        ({"family": "digits-convnet"}, "short must not be empty"),
        (
            {
                "short": "my-",
                "weights": {
                    "sha256": PB,
                    "places": [{"url": "https://x", "filename": "x", "sha256": "b" * 64}],
                },
            },
            "b{64} is no known file of inception-2015-12-05's weights",
        ),
        ({"default_protocol": MISSING}, "default_protocol"),
        ({"precision": "float16"}, "precision"),
    ],
)
def test_only_the_real_network_may_be_called_fid(
    changes: dict[str, Any], why: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=why):
        load_spec(ExtractorSpec, str(write_yaml(tmp_path, **changes)))


@pytest.mark.parametrize("name", [NAME, f"{NAME}-bf16"])
def test_other_weights_than_pinned_are_refused(
    name: str, narrow_graph: Graph, tmp_path: Path
) -> None:
    """Given by hand, or named by a YAML that lies about them."""
    for path in (narrow_graph.pb, narrow_graph.torch_fidelity):
        with pytest.raises(DataError, match=f"holds other weights than {name} .*{PTH} or|or {PTH}"):
            with_weights(load_spec(ExtractorSpec, name), path)
    lying = {"sha256": PB, "file": str(narrow_graph.pb)}
    spec = load_spec(ExtractorSpec, str(write_yaml(tmp_path, weights=lying)))
    with pytest.raises(DataError, match="another SHA-256"):
        load_extractor(spec, CPU)
    with pytest.raises(DataError, match="other weights"):  # it has no places, but no prefix either
        with_weights(spec, narrow_graph.torch_fidelity)


def test_every_container_is_the_same_extractor(kit: ExtractorSpec, narrow_graph: Graph) -> None:
    """The id is that of the pinned weights, whichever file holds them."""
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    specs = [with_weights(kit, path) for path in (narrow_graph.pb, narrow_graph.torch_fidelity)]
    assert {spec.extractor_id for spec in specs} == {kit.extractor_id}
    first, second = (load_extractor(spec, CPU)(images) for spec in specs)
    for one, other in zip(first, second, strict=True):
        assert np.array_equal(one, other)
    with pytest.raises(DataError, match="holds other weights than kit"):
        with_weights(kit, narrow_graph.pytorch_fid)


@pytest.mark.parametrize("which", [0, 1])
def test_weights_are_found_where_fetch_puts_them(
    which: int, kit: ExtractorSpec, narrow_graph: Graph
) -> None:
    with pytest.raises(DataError, match=r"extractors fetch .*kit\.yaml` or .*--extractor-wei"):
        check_extractor_weights(kit)
    path = cached_path(kit.weights.places[which])
    path.parent.mkdir(parents=True)
    shutil.copy((narrow_graph.pb, narrow_graph.torch_fidelity)[which], path)
    assert check_extractor_weights(kit) == path
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(DataError, match=str(path)):
        check_extractor_weights(kit)


@pytest.mark.parametrize(
    ("change", "error", "why"),
    [
        ({"pool_dim": 2048}, DataError, "pool_dim is 2048 .* gives 256"),
        ({"spatial_dim": None}, DataError, "spatial_dim is None .* gives 2023"),
        ({"num_classes": 1000}, DataError, "num_classes is 1000 .* gives 1008"),
        ({"resize": "none"}, ConfigError, "resizes by tf1-bilinear-299, not none"),
    ],
)
def test_what_the_yaml_says_must_be_what_the_network_is(
    change: dict[str, Any],
    error: type[Exception],
    why: str,
    kit: ExtractorSpec,
    narrow_graph: Graph,
) -> None:
    with pytest.raises(error, match=why):
        build_extractor(kit.model_copy(update=change), narrow_graph.pb, CPU)


def test_the_digits_extractor_has_no_bfloat16() -> None:
    spec = load_spec(ExtractorSpec, "digits-convnet")
    rough = spec.model_copy(update={"precision": "bfloat16"})
    with pytest.raises(ConfigError, match="float32 only"):
        load_extractor(rough, CPU)
