"""Real diffusers pipelines with a few thousand random weights, saved as folders."""

import json
from pathlib import Path

import torch

NUM_CLASSES = 1000
DIT_SIZE = (8, 8)
SD_SIZE = (16, 16)
MAX_TOKENS = 16
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def save_dit(folder: Path, *, num_classes: int = NUM_CLASSES, solver: str = "ddim") -> Path:
    """A DiTPipeline in latent space, with `id2label` in its index as the published ones have it."""
    from diffusers import (
        DDIMScheduler,
        DiTPipeline,
        DiTTransformer2DModel,
        DPMSolverMultistepScheduler,
    )

    torch.manual_seed(0)
    transformer = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        sample_size=4,
        patch_size=2,
        num_embeds_ada_norm=num_classes,
    )
    scheduler = DDIMScheduler() if solver == "ddim" else DPMSolverMultistepScheduler()
    DiTPipeline(transformer, _vae(), scheduler).save_pretrained(folder)
    names = {str(label): f"thing {label}, object {label}" for label in range(num_classes)}
    edit_json(folder / "model_index.json", id2label=names)
    return folder


def save_stable_diffusion(folder: Path, *, blanks: bool = False) -> Path:
    """A StableDiffusionPipeline; `blanks` gives it a safety checker that blanks every image."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    torch.manual_seed(0)
    tokenizer, encoder = _text_encoder(folder)
    unet = UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        norm_num_groups=4,
        attention_head_dim=4,
    )
    scheduler = DDIMScheduler(steps_offset=1, clip_sample=False)
    checker, processor = _checker(encoder.config) if blanks else (None, None)
    StableDiffusionPipeline(
        _vae(),
        encoder,
        tokenizer,
        unet,
        scheduler,
        checker,
        processor,
        requires_safety_checker=blanks,
    ).save_pretrained(folder)
    return folder


def edit_json(path: Path, **values: object) -> None:
    """Set top-level keys of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def _vae():
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        latent_channels=4,
        norm_num_groups=4,
    )


def _text_encoder(folder: Path):
    """A tokenizer of single letters, and an encoder for it."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    words = [*_LETTERS, *(f"{c}</w>" for c in _LETTERS), "<|startoftext|>", "<|endoftext|>"]
    raw = folder.with_name(f"{folder.name}-tokenizer")
    raw.mkdir(parents=True)
    (raw / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (raw / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer.from_pretrained(str(raw), model_max_length=MAX_TOKENS)
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=MAX_TOKENS,
        bos_token_id=len(words) - 2,
        eos_token_id=len(words) - 1,
        pad_token_id=len(words) - 1,
        projection_dim=16,
    )
    return tokenizer, CLIPTextModel(config)


def _checker(text_config):
    from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPVisionConfig

    side = {"height": SD_SIZE[0], "width": SD_SIZE[1]}
    processor = CLIPImageProcessor(size={"shortest_edge": SD_SIZE[0]}, crop_size=side)
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=SD_SIZE[0],
        patch_size=8,
    )
    config = CLIPConfig(
        text_config=text_config.to_dict(), vision_config=vision.to_dict(), projection_dim=16
    )
    checker = StableDiffusionSafetyChecker(config)
    checker.concept_embeds_weights.data.fill_(-2)  # below every cosine: all is flagged
    return checker, processor
