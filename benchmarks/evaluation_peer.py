"""What torch-fidelity and pytorch-fid compute, in the Python that they are installed in.

    PYTHON -m benchmarks.evaluation_peer fidelity|pytorch-fid|fidelity-prc ...

Legend: N images, H height, W width, C channels, D feature dimensions.
"""

import argparse
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contestants import Answer, serve

_BATCH = 64


def image_batches(path: Path, limit: int) -> Iterator[Any]:
    """Batches uint8 [n,H,W,3] of the first images of an NPZ, never the whole of it."""
    with zipfile.ZipFile(path) as archive, archive.open("arr_0.npy") as member:
        np.lib.format.read_magic(member)
        shape, _, _ = np.lib.format.read_array_header_1_0(member)
        left = min(limit, shape[0])
        while left:
            count = min(_BATCH, left)
            content = member.read(count * int(np.prod(shape[1:])))
            yield np.frombuffer(content, np.uint8).reshape(count, *shape[1:])
            left -= count


def fidelity_network(weights: Path, device: str) -> Callable[[Any], Any]:
    """torch-fidelity's Inception: uint8 [n,H,W,3] => pooled features [n,2048]."""
    import torch
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    network = FeatureExtractorInceptionV3(
        "inception-v3-compat",
        ["2048", "logits_unbiased"],
        feature_extractor_weights_path=str(weights),
    ).to(device)

    def features(images_NHWC: Any) -> Any:
        images = torch.from_numpy(images_NHWC.transpose(0, 3, 1, 2).copy()).to(device)
        return network(images)[0].cpu().numpy()

    return features


def pytorch_fid_network(device: str) -> Callable[[Any], Any]:
    """pytorch-fid's Inception; its weights come from TORCH_HOME, where it would load them to."""
    import torch
    from pytorch_fid.inception import InceptionV3

    network = InceptionV3([InceptionV3.BLOCK_INDEX_BY_DIM[2048]]).eval().to(device)

    def features(images_NHWC: Any) -> Any:
        images = torch.from_numpy(images_NHWC.transpose(0, 3, 1, 2).copy()).float() / 255
        return network(images.to(device))[0].flatten(1).cpu().numpy()

    return features


def features_work(arguments: argparse.Namespace) -> Callable[[], Answer]:
    """One pass over the images."""
    import torch

    if arguments.program == "fidelity":
        features = fidelity_network(arguments.weights, arguments.device)
    else:
        features = pytorch_fid_network(arguments.device)

    def run() -> Answer:
        began = time.perf_counter()
        with torch.no_grad():
            batches = image_batches(arguments.samples, arguments.limit)
            pool_ND = np.concatenate([features(images) for images in batches])
        np.save(arguments.save, pool_ND)
        return {"seconds": time.perf_counter() - began, "torch": torch.__version__}

    return run


def neighbours_work(arguments: argparse.Namespace) -> Callable[[], Answer]:
    """torch-fidelity's precision and recall, by its defaults."""
    import torch
    from torch_fidelity.metric_prc import prc_features_to_metric

    samples_ND, reference_MD = (
        torch.from_numpy(np.load(path)) for path in (arguments.samples, arguments.reference)
    )

    def run() -> Answer:
        found = prc_features_to_metric(samples_ND, reference_MD, verbose=False)
        return {"precision": found["precision"], "recall": found["recall"]}

    return run


def main() -> None:
    """Load, then work whenever asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", choices=["fidelity", "pytorch-fid", "fidelity-prc"])
    parser.add_argument("--samples", type=Path, required=True)
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--limit", type=int, default=1 << 40)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    import torch

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    is_prc = arguments.program == "fidelity-prc"
    serve(neighbours_work(arguments) if is_prc else features_work(arguments))


if __name__ == "__main__":
    main()
