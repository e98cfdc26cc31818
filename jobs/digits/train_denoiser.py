"""Train the denoiser of the `pixnerd-digits` preset on the training split.

About 14 minutes on one core of a 2-core x86 CPU for the default 2,500 steps. Seeded: on the same
machine and library versions it gives the same weights. Writes plain float32 safetensors.

    python -m jobs.digits.train_denoiser --out configs/models/pixnerd-digits.safetensors

With `--stop-after 200` it takes a minute and writes the average after 8 % of the same training.
"""

import argparse
import copy
import math
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from evalsuite.models.pixnerd.class_conditional import PixNerdClassConditional, PixNerdClassConfig
from jobs.digits.data import NUM_CLASSES, split

CONFIG = PixNerdClassConfig(
    hidden_size=128,
    num_groups=4,
    num_blocks=5,
    num_cond_blocks=4,
    hidden_size_x=24,
    nerf_mlpratio=2,
    patch_size=4,
    num_classes=NUM_CLASSES,
)
LABEL_DROPOUT = 0.1
WARM_UP_STEPS = 100


def new_model() -> PixNerdClassConditional:
    """The network with modulation and output starting at zero."""
    model = PixNerdClassConditional(CONFIG)
    for name, parameter in model.named_parameters():
        if "adaLN_modulation" in name or name.startswith("final_layer.linear"):
            nn.init.zeros_(parameter)
        elif name.endswith("embedding_table.weight"):
            nn.init.normal_(parameter, std=0.02)
    return model


def flow_matching_loss(
    model: nn.Module, data_BCHW: Tensor, labels_B: Tensor, generator: torch.Generator
) -> Tensor:
    """Squared error of the velocity data - noise at t = sigmoid(normal), labels dropped at 10 %.

    Source: Lipman et al. 2023 with the straight path x_t = t data + (1 - t) noise; times as in
    Esser et al. 2024, section 3.1.
    """
    batch = len(data_BCHW)
    noise = torch.randn(data_BCHW.shape, generator=generator)
    t = torch.sigmoid(torch.randn(batch, generator=generator))
    dropped = torch.rand(batch, generator=generator) < LABEL_DROPOUT
    labels = torch.where(dropped, NUM_CLASSES, labels_B)
    t_B111 = t[:, None, None, None]
    velocity: Tensor = model(t_B111 * data_BCHW + (1 - t_B111) * noise, t, labels)
    return (velocity - (data_BCHW - noise)).square().mean()


def learning_rate_factor(step: int, num_steps: int) -> float:
    """Linear warm-up, then half a cosine down to 2 % of the peak."""
    if step < WARM_UP_STEPS:
        return (step + 1) / WARM_UP_STEPS
    progress = (step - WARM_UP_STEPS) / max(1, num_steps - WARM_UP_STEPS)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress))


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, step: int, decay: float) -> None:
    """Move the averaged copy towards the model; the decay rises to `decay` over the first steps."""
    weight = 1 - min(decay, (1 + step) / (10 + step))
    for mean, value in zip(average.parameters(), model.parameters(), strict=True):
        mean.lerp_(value, weight)


def save(model: nn.Module, path: Path) -> None:
    """Write the state dict under its plain keys."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, path)


def train(args: argparse.Namespace) -> None:
    """Run the training that the arguments describe."""
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    generator = torch.Generator("cpu").manual_seed(args.seed)
    digits = split()[0]
    images = torch.from_numpy(digits.images_NHWC).permute(0, 3, 1, 2).float() / 127.5 - 1
    labels = torch.from_numpy(digits.labels_N)
    model = new_model()
    average = copy.deepcopy(model)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=args.learning_rate, betas=(0.9, 0.99), weight_decay=0.01
    )
    start_s, running = time.process_time(), 0.0
    for step in range(min(args.num_steps, args.stop_after or args.num_steps)):
        for group in optimizer.param_groups:
            group["lr"] = args.learning_rate * learning_rate_factor(step, args.num_steps)
        chosen = torch.randint(len(images), (args.batch_size,), generator=generator)
        loss = flow_matching_loss(model, images[chosen], labels[chosen], generator)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        update_average(average, model, step, args.average_decay)
        running += loss.item()
        if (step + 1) % 100 == 0:
            seconds = time.process_time() - start_s
            print(f"step {step + 1} loss {running / 100:.4f} {seconds:.0f} CPU s", flush=True)
            running = 0.0
    save(average, args.out)


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, help="weights to write (safetensors)")
    parser.add_argument("--num-steps", type=int, default=2500)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--average-decay", type=float, default=0.995)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stop-after", type=int, help="end early, after this many steps")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
