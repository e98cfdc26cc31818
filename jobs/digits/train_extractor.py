"""Train the digits extractor on the training split and measure it on the held-out split.

About 3 minutes on one core of a 2-core x86 CPU. Seeded: on the same machine and library versions
it gives the same weights.

    python -m jobs.digits.train_extractor --out configs/extractors/digits-convnet.safetensors
"""

import argparse
import copy
import math
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import affine_grid, cross_entropy, grid_sample

from evalsuite.features.digits import IMAGE_SIZE, DigitsConvNet, to_unit_range
from jobs.digits.data import Digits, split

CPU = torch.device("cpu")


def jitter(images_BCHW: Tensor, generator: torch.Generator) -> Tensor:
    """Move each image by up to 1.5 pixels, turn, stretch and shear it a little, and add noise."""
    batch = len(images_BCHW)
    theta = torch.zeros(batch, 2, 3)
    theta[:, :, :2] = torch.eye(2) + 0.08 * torch.randn(batch, 2, 2, generator=generator)
    reach = 2 * 1.5 / IMAGE_SIZE
    theta[:, :, 2] = reach * (2 * torch.rand(batch, 2, generator=generator) - 1)
    grid = affine_grid(theta, list(images_BCHW.shape), align_corners=False)
    moved = grid_sample(images_BCHW + 1, grid, align_corners=False) - 1
    grey_noise = torch.randn(batch, 1, IMAGE_SIZE, IMAGE_SIZE, generator=generator)
    return moved + 0.05 * grey_noise


def new_network() -> DigitsConvNet:
    """The network with He's initialisation, which leaves fewer dead features than the default."""
    network = DigitsConvNet(dropout=0.3)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.constant_(module.bias, 0.05)  # type: ignore[arg-type]
    return network


@torch.no_grad()
def accuracy(network: nn.Module, digits: Digits) -> float:
    """Share of images whose most likely class is their label."""
    logits = network.eval()(to_unit_range(digits.images_NHWC, CPU)).logits_BK
    right = logits.argmax(-1) == torch.from_numpy(digits.labels_N)
    return float(right.double().mean())


def train(args: argparse.Namespace) -> nn.Module:
    """Train and return the averaged copy of the network."""
    torch.manual_seed(args.seed)
    generator = torch.Generator("cpu").manual_seed(args.seed)
    digits, held_out = split()
    images = to_unit_range(digits.images_NHWC, CPU)
    labels = torch.from_numpy(digits.labels_N)
    network = new_network()
    average = copy.deepcopy(network)
    optimizer = torch.optim.AdamW(network.parameters(), lr=args.learning_rate, weight_decay=0.01)
    start_s = time.process_time()
    for step in range(args.num_steps):
        for group in optimizer.param_groups:
            warm = min(1.0, (step + 1) / 50)
            decay = 0.5 * (1 + math.cos(math.pi * step / args.num_steps))
            group["lr"] = args.learning_rate * warm * decay
        chosen = torch.randint(len(images), (args.batch_size,), generator=generator)
        logits = network.train()(jitter(images[chosen], generator)).logits_BK
        loss = cross_entropy(logits, labels[chosen], label_smoothing=0.1)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        with torch.no_grad():
            weight = 1 - min(0.99, (1 + step) / (10 + step))
            for mean, value in zip(average.parameters(), network.parameters(), strict=True):
                mean.lerp_(value, weight)
        if (step + 1) % 200 == 0:
            seconds = time.process_time() - start_s
            print(f"step {step + 1} loss {loss.item():.3f} {seconds:.0f} CPU s", flush=True)
    print(f"accuracy: training {accuracy(average, digits):.4f}", end=", ")
    print(f"held-out {accuracy(average, held_out):.4f}", flush=True)
    return average


def main() -> None:
    """Read the command line, train and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, help="weights to write (safetensors)")
    parser.add_argument("--num-steps", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    network = train(args)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in network.state_dict().items()}, args.out)


if __name__ == "__main__":
    main()
