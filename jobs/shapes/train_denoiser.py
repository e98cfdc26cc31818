"""Train the denoiser of the `pixnerd-shapes` preset on generated pictures and their captions.

Fifty minutes on one core of a 2-core x86 CPU. Seeded: on the same machine and library
versions it gives the same weights. Writes float16 safetensors, and what there is on the way.

    python -m jobs.shapes.train_denoiser --out configs/models/pixnerd-shapes.safetensors
"""

import argparse
import copy
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from evalsuite.conditioning.text_encoder import load_encoder
from evalsuite.models.pixnerd.text_conditional import PixNerdTextConditional, PixNerdTextConfig
from jobs.shapes.build_encoder import MAX_LENGTH, SPEC, WIDTH
from jobs.shapes.data import held_out, training_pictures

CONFIG = PixNerdTextConfig(
    hidden_size=96,
    num_groups=3,
    num_encoder_blocks=4,
    num_decoder_blocks=1,
    num_text_blocks=1,
    decoder_hidden_size=16,
    patch_size=8,
    txt_embed_dim=WIDTH,
    txt_max_length=MAX_LENGTH,
    pixel_range=8,
)
CAPTION_DROPOUT = 0.1
WARM_UP_STEPS = 200
DATA_SEED = 20_241_126


class TrainingSet(NamedTuple):
    """N pictures uint8 [N,3,32,32], which caption each has, and P captions' features [P,M,F].

    The last caption is the empty one.
    """

    images_NCHW: Tensor
    captions_N: Tensor
    features_PMF: Tensor


def training_set(count: int, encoder: Path) -> TrainingSet:
    """Pictures, and the features of their captions by the product's own text encoder."""
    numbers: dict[str, int] = {}
    images, captions = [], []
    for picture in training_pictures(count, DATA_SEED, held_out()):
        images.append(picture.image)
        captions.append(numbers.setdefault(picture.record["prompt"], len(numbers)))
    features = load_encoder(SPEC, encoder, torch.device("cpu")).encode([*numbers, ""])
    stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    return TrainingSet(stacked, torch.tensor(captions), features)


def new_model() -> PixNerdTextConditional:
    """The network with modulation and output starting at zero."""
    model = PixNerdTextConditional(CONFIG)
    for name, parameter in model.named_parameters():
        if "adaLN_modulation" in name or name.startswith("final_layer.linear"):
            nn.init.zeros_(parameter)
        elif name == "y_pos_embedding":
            nn.init.normal_(parameter, std=0.5)
        elif "param_generator1.0.weight" in name:
            nn.init.normal_(parameter, std=0.02)
    return model


def flow_matching_loss(
    model: nn.Module, data: TrainingSet, chosen_B: Tensor, generator: torch.Generator
) -> Tensor:
    """Squared error of the velocity data - noise, captions dropped at 10 %.

    t = sigmoid(1.2 normal - 0.2). Source: Lipman et al. 2023 with the straight path
    x_t = t data + (1 - t) noise; times as in Esser et al. 2024, section 3.1.
    """
    data_BCHW = data.images_NCHW[chosen_B].float() / 127.5 - 1
    batch = len(data_BCHW)
    noise = torch.randn(data_BCHW.shape, generator=generator)
    t = torch.sigmoid(1.2 * torch.randn(batch, generator=generator) - 0.2)
    dropped = torch.rand(batch, generator=generator) < CAPTION_DROPOUT
    empty = len(data.features_PMF) - 1
    text = data.features_PMF[torch.where(dropped, empty, data.captions_N[chosen_B])]
    t_B111 = t[:, None, None, None]
    velocity: Tensor = model(t_B111 * data_BCHW + (1 - t_B111) * noise, t, text)
    return (velocity - (data_BCHW - noise)).square().mean()


def learning_rate_factor(step: int, num_steps: int) -> float:
    """Linear warm-up, a plateau, and a fall to nothing over the last 40 %."""
    if step < WARM_UP_STEPS:
        return (step + 1) / WARM_UP_STEPS
    return min(1.0, 0.01 + (num_steps - step) / (0.4 * num_steps))


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, step: int, decay: float) -> None:
    """Move the averaged copy towards the model; the decay rises to `decay` over the first steps."""
    weight = 1 - min(decay, (1 + step) / (10 + step))
    for mean, value in zip(average.parameters(), model.parameters(), strict=True):
        mean.lerp_(value, weight)


def save(model: nn.Module, path: Path) -> None:
    """Write the state dict under its plain keys, in float16."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.half().contiguous() for key, value in model.state_dict().items()}, path)


def train(args: argparse.Namespace) -> None:
    """Run the training that the arguments describe."""
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    generator = torch.Generator("cpu").manual_seed(args.seed)
    start_s, running = time.process_time(), 0.0
    data = training_set(args.num_pictures, args.encoder)
    model = new_model()
    average = copy.deepcopy(model)
    print(
        f"{sum(p.numel() for p in model.parameters()):,} parameters,"
        f" {args.num_pictures:,} pictures, {len(data.features_PMF) - 1:,} captions,"
        f" {time.process_time() - start_s:.0f} CPU s",
        flush=True,
    )
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=args.learning_rate, betas=(0.9, 0.99), weight_decay=0.01
    )
    for step in range(min(args.num_steps, args.stop_after or args.num_steps)):
        for group in optimizer.param_groups:
            group["lr"] = args.learning_rate * learning_rate_factor(step, args.num_steps)
        chosen = torch.randint(args.num_pictures, (args.batch_size,), generator=generator)
        loss = flow_matching_loss(model, data, chosen, generator)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        update_average(average, model, step, args.average_decay)
        running += loss.item()
        if (step + 1) % 250 == 0:
            seconds = time.process_time() - start_s
            print(f"step {step + 1} loss {running / 250:.4f} {seconds:.0f} CPU s", flush=True)
            running = 0.0
            save(average, args.out)
    save(average, args.out)


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, help="weights to write (safetensors)")
    parser.add_argument(
        "--encoder", type=Path, default=Path("configs/models/pixnerd-shapes-text"), help="folder"
    )
    parser.add_argument("--num-pictures", type=int, default=100_000)
    parser.add_argument("--num-steps", type=int, default=14_000)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--average-decay", type=float, default=0.998)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stop-after", type=int, help="end early, after this many steps")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
