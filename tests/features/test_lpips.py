"""LPIPS: an oracle of plain loops, distances that must hold, layouts of weights, refusals."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from evalsuite.errors import DataError
from evalsuite.features.lpips.files import load_lpips
from evalsuite.features.lpips.network import BACKBONES, Lpips, lpips_shapes

CPU = torch.device("cpu")
Images = NDArray[np.uint8]
ALEX = "features: 0 3 6 8 10, taps 64 192 384 256 256"
VGG = "features: 0 2 5 7 10 12 14 17 19 21 24 26 28, taps 64 128 256 512 512"


def random_weights(backbone: str) -> dict[str, Tensor]:
    """He's scale, so that every layer has something to say; linear weights are not negative."""
    generator = torch.Generator().manual_seed(len(backbone))
    weights = {}
    for key, shape in lpips_shapes(backbone).items():
        fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 100
        tensor = torch.randn(shape, generator=generator) * (2 / fan_in) ** 0.5
        weights[key] = tensor.abs() if key.startswith("lin") else tensor
    return weights


@pytest.fixture(scope="module")
def weights() -> dict[str, dict[str, Tensor]]:
    """Of both backbones. Not to be changed."""
    torch.set_num_threads(1)
    return {backbone: random_weights(backbone) for backbone in BACKBONES}


@pytest.fixture(scope="module")
def networks(weights: dict[str, dict[str, Tensor]]) -> dict[str, Lpips]:
    return {backbone: Lpips(backbone, weights[backbone], CPU) for backbone in BACKBONES}


def pairs_of(count: int, height: int = 40, width: int = 33) -> tuple[Images, Images]:
    """Random blocks, and the same with noise that grows from pair to pair."""
    rng = np.random.default_rng(4)
    blocks = rng.integers(0, 256, (count, height // 4 + 1, width // 4 + 1, 3))
    large = blocks.repeat(4, axis=1).repeat(4, axis=2)[:, :height, :width]
    noise = rng.normal(0, 1, large.shape) * 8 * np.arange(count)[:, None, None, None]
    return large.astype(np.uint8), (large + noise).clip(0, 255).astype(np.uint8)


def in_batches(network: Lpips, a: Images, b: Images) -> NDArray[np.float64]:
    size = network.batch_size
    assert len(a) % size == 0
    return np.concatenate(
        [network(a[i : i + size], b[i : i + size]) for i in range(0, len(a), size)]
    )


def conv(x_CHW: Any, weight: Tensor, bias: Tensor, stride: int, padding: int) -> Any:
    """In float64, by a sum over the places of the kernel."""
    x_CHW = np.pad(x_CHW, ((0, 0), (padding, padding), (padding, padding)))
    kernel = weight.double().numpy()
    side = kernel.shape[-1]
    rows = (x_CHW.shape[1] - side) // stride + 1
    columns = (x_CHW.shape[2] - side) // stride + 1
    out = np.zeros((len(kernel), rows, columns)) + bias.double().numpy()[:, None, None]
    for i in range(side):
        for j in range(side):
            part = x_CHW[:, i : i + stride * rows : stride, j : j + stride * columns : stride]
            out += np.einsum("oc,chw->ohw", kernel[:, :, i, j], part, optimize=True)
    return out


def pool(x_CHW: Any, side: int, stride: int = 2) -> Any:
    rows, columns = ((length - side) // stride + 1 for length in x_CHW.shape[1:])
    parts = [
        x_CHW[:, i : i + stride * rows : stride, j : j + stride * columns : stride]
        for i in range(side)
        for j in range(side)
    ]
    return np.max(parts, axis=0)


def taps_by_hand(backbone: str, weights: dict[str, Tensor], image: Images) -> list[Any]:
    """The networks as their papers draw them, written out again."""
    scaled = image.astype(float) / 255 * 2 - 1
    x = ((scaled - [-0.030, -0.088, -0.188]) / [0.458, 0.448, 0.450]).transpose(2, 0, 1)

    def relu_conv(x: Any, place: int, stride: int = 1, padding: int = 1) -> Any:
        names = (f"features.{place}.weight", f"features.{place}.bias")
        return np.maximum(conv(x, *(weights[name] for name in names), stride, padding), 0)

    if backbone == "alex":
        taps = [relu_conv(x, 0, stride=4, padding=2)]
        taps.append(relu_conv(pool(taps[-1], 3), 3, padding=2))
        taps.append(relu_conv(pool(taps[-1], 3), 6))
        taps.append(relu_conv(taps[-1], 8))
        return [*taps, relu_conv(taps[-1], 10)]
    taps = []
    for block in ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28)):
        x = pool(x, 2) if taps else x
        for place in block:
            x = relu_conv(x, place)
        taps.append(x)
    return taps


def lpips_by_hand(backbone: str, weights: dict[str, Tensor], a: Images, b: Images) -> float:
    total = 0.0
    pairs = zip(taps_by_hand(backbone, weights, a), taps_by_hand(backbone, weights, b), strict=True)
    for k, (u, v) in enumerate(pairs):
        u = u / (np.sqrt((u**2).sum(axis=0)) + 1e-10)
        v = v / (np.sqrt((v**2).sum(axis=0)) + 1e-10)
        line = weights[f"lin{k}.model.1.weight"].double().numpy().reshape(-1, 1, 1)
        total += ((u - v) ** 2 * line).sum(axis=0).mean()
    return float(total)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_distances_are_those_of_an_oracle(backbone: str, weights: Any, networks: Any) -> None:
    """In float64 and numpy alone; images that are not square."""
    network = networks[backbone]
    a, b = pairs_of(16, *((40, 33) if backbone == "alex" else (22, 17)))
    found = in_batches(network, a, b)
    for i in (1, 15):
        expected = lpips_by_hand(backbone, weights[backbone], a[i], b[i])
        assert found[i] == pytest.approx(expected, rel=2e-5)
    assert found[1] < found[15]


@pytest.mark.parametrize("backbone", BACKBONES)
def test_what_a_distance_must_hold(backbone: str, networks: Any) -> None:
    """0 for identical pairs, symmetric, positive, and each pair by itself."""
    network = networks[backbone]
    a, b = pairs_of(network.batch_size)
    b[0] = a[0] ^ 1
    assert network(a, a).tolist() == [0] * network.batch_size
    found = network(a, b)
    assert (found.dtype, found.shape) == (np.float64, (network.batch_size,))
    assert (found > 0).all()
    np.testing.assert_allclose(found, network(b, a), rtol=1e-5)
    np.testing.assert_allclose(found[::-1], network(a[::-1], b[::-1]), rtol=1e-5)


def test_outputs_of_zero_have_no_direction_and_no_distance(weights: Any) -> None:
    """0 and not NaN."""
    features = {k: v * 0 for k, v in weights["alex"].items() if k.startswith("features.")}
    silent = Lpips("alex", weights["alex"] | features, CPU)
    assert (silent(*pairs_of(16)) == 0).all()


def test_the_file_says_which_backbone_it_is(weights: Any, tmp_path: Path) -> None:
    save_file(weights["vgg"], tmp_path / "any.safetensors")
    assert load_lpips([tmp_path / "any.safetensors"], CPU).backbone == "vgg"


def test_the_backbones_are_torchvisions() -> None:
    """Places and widths, written out."""
    for backbone, text in (("alex", ALEX), ("vgg", VGG)):
        shapes = lpips_shapes(backbone)
        features = [k.split(".")[1] for k in shapes if k.endswith("weight") and k[0] == "f"]
        taps = [str(shapes[f"lin{k}.model.1.weight"][1]) for k in range(5)]
        assert f"features: {' '.join(features)}, taps {' '.join(taps)}" == text
    count = {b: sum(int(np.prod(s)) for s in lpips_shapes(b).values()) for b in BACKBONES}
    assert count == {"alex": 2_469_696 + 1152, "vgg": 14_714_688 + 1472}


def test_every_layout_gives_the_same_network(weights: Any, tmp_path: Path) -> None:
    """A classifier and linear weights, the lpips package's own network, one safetensors file."""
    backbone, mine = "alex", weights["alex"]
    features = {k: v for k, v in mine.items() if k.startswith("features.")}
    lines = {k: v for k, v in mine.items() if k.startswith("lin")}
    torch.save({**features, "classifier.6.weight": torch.ones(10, 4)}, tmp_path / "classifier.pth")
    torch.save(lines, tmp_path / f"{backbone}.pth", _use_new_zipfile_serialization=False)
    whole = {f"net.slice1.{k.removeprefix('features.')}": v for k, v in features.items()}
    whole |= lines | {f"lins.{k.removeprefix('lin')}": v for k, v in lines.items()}
    whole["scaling_layer.shift"] = torch.zeros(1, 3, 1, 1)
    torch.save(whole, tmp_path / "whole.pth")
    save_file(mine, tmp_path / "one.safetensors")
    pair = ["classifier.pth", f"{backbone}.pth"]
    found = [
        load_lpips([tmp_path / name for name in names], CPU)
        for names in (pair, pair[::-1], ["whole.pth"], ["one.safetensors"])
    ]
    assert {network.backbone for network in found} == {backbone}
    assert len({network.weights_sha256 for network in found}) == 1
    changed = mine | {"lin0.model.1.weight": mine["lin0.model.1.weight"] * 2}
    assert Lpips(backbone, changed, CPU).weights_sha256 != found[0].weights_sha256
    a, b = pairs_of(found[0].batch_size)
    assert len({found_one(a, b).tobytes() for found_one in found}) == 1


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_files_that_are_none_are_refused_in_one_line(weights: Any, tmp_path: Path) -> None:
    """Also one that would run something, which it does not."""
    alex = weights["alex"]
    lines = {k: v for k, v in alex.items() if k.startswith("lin")}
    save_file(lines, tmp_path / "lines.safetensors")
    save_file(weights["alex"], tmp_path / "alex.safetensors")
    save_file({k: v + 1 for k, v in lines.items()}, tmp_path / "others.safetensors")
    twice = {**lines, "lins.0.model.1.weight": lines["lin0.model.1.weight"] + 1}
    save_file(twice, tmp_path / "twice.safetensors")
    save_file({"features.0.weight": torch.ones(2, 2)}, tmp_path / "small.safetensors")
    torch.save({**alex, "more": Bomb(tmp_path / "ran")}, tmp_path / "bomb.pth")
    torch.save({"state_dict": alex}, tmp_path / "nested.pth")
    (tmp_path / "junk.pth").write_bytes(b"x" * 50)
    (tmp_path / "junk.safetensors").write_bytes(b"x" * 50)
    for names, text in {
        ("absent.pth",): "cannot read",
        ("junk.pth",): "cannot read",
        ("junk.safetensors",): "cannot read",
        ("bomb.pth",): "cannot read",
        ("nested.pth",): "no state dict",
        ("lines.safetensors",): "no features.0.weight",
        ("small.safetensors",): "neither an AlexNet nor a VGG16",
        ("alex.safetensors", "others.safetensors"): "other values than in the file before",
        ("twice.safetensors",): "holds lin0.model.1.weight twice",
    }.items():
        with pytest.raises(DataError, match=text) as caught:
            load_lpips([tmp_path / name for name in names], CPU)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_weights_that_do_not_fit_are_refused(weights: Any) -> None:
    alex, vgg = weights["alex"], weights["vgg"]
    mixed = {k: (vgg if k.startswith("lin") else alex)[k] for k in alex}
    for wrong, text in (
        ({k: v for k, v in alex.items() if k != "features.3.bias"}, "features.3.bias is missing"),
        ({**alex, "features.1.weight": torch.ones(3)}, "features.1.weight is not one"),
        (mixed, r"lin1.model.1.weight is \(1, 128, 1, 1\), not \(1, 192, 1, 1\)"),
        ({**alex, "features.3.bias": torch.full((192,), torch.nan)}, "NaN"),
    ):
        with pytest.raises(DataError, match=text):
            Lpips("alex", wrong, CPU)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_images_that_are_too_small_are_refused(backbone: str, networks: Any) -> None:
    """The least size is just large enough for every layer."""
    network = networks[backbone]
    least = BACKBONES[backbone].least_side
    a, b = pairs_of(network.batch_size, least, least)
    assert np.isfinite(network(a, b)).all()
    with pytest.raises(DataError, match=f"at least {least} x {least} pixels, .* {least - 1} x"):
        network(a[:, 1:], b[:, 1:])


def test_what_are_no_batches_of_pairs_is_refused(networks: Any) -> None:
    a, b = pairs_of(16)
    for x, y in ((a[:1], b[:1]), (a, b[:, 1:]), (a, b / 255.0), (a[..., :1], b[..., :1])):
        with pytest.raises(ValueError, match="16 pairs"):
            networks["alex"](x, y)
