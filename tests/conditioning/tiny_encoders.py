"""Small text encoders on disk: random networks and tokenizers trained here on a few captions."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, processors, trainers
from tokenizers import pre_tokenizers as pre
from torch import nn

from evalsuite.config import TextEncoderSpec

T, D = 12, 64
"""Places for the denoiser and width of the small encoders."""
CAPTIONS = (
    "a photo of a cat on a red chair",
    "two dogs and a bird in the garden",
    "an oil painting of the sea at night",
    "User Prompt: the caption, rewritten with more detail",
) * 4
INSTRUCTION = ("Rewrite the caption with more detail.", "User Prompt: ")
PROMPTS = ("a cat", "two red dogs at night & a bird", "")
_SIZES = {
    "hidden_size": D,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
}


def qwen_spec(**changes: Any) -> TextEncoderSpec:
    """The rules of PixNerd and PixelGen, shortened."""
    base = {"kind": "qwen3", "repo": "none/tiny", "max_length": T, "width": D, "dtype": "float32"}
    return TextEncoderSpec.model_validate({**base, "empty_prompt": "uniform", **changes})


def gemma_spec(**changes: Any) -> TextEncoderSpec:
    """The rules of PixelDiT's text model, shortened."""
    own = {"kind": "gemma2", "attention": "eager", "instruction": INSTRUCTION}
    return qwen_spec(**{**own, **changes})


def save_qwen(folder: Path) -> Path:
    """A random Qwen3Model and a byte-level tokenizer that adds no token of its own."""
    from transformers import Qwen3Config, Qwen3Model

    tokenizer = _qwen_tokenizer()
    _save_network(Qwen3Model, Qwen3Config(vocab_size=tokenizer.get_vocab_size(), **_SIZES), folder)
    names = {"pad_token": "<|endoftext|>", "eos_token": "<|im_end|>"}
    _save_tokenizer(tokenizer, folder, {"tokenizer_class": "Qwen2Tokenizer", **names})
    return folder


def save_gemma(folder: Path) -> Path:
    """A random Gemma2Model and a tokenizer that puts `<bos>` first and, as saved, pads left."""
    from transformers import Gemma2Config, Gemma2Model

    tokenizer = _gemma_tokenizer()
    config = Gemma2Config(
        vocab_size=tokenizer.get_vocab_size(), query_pre_attn_scalar=16, sliding_window=64, **_SIZES
    )
    _save_network(Gemma2Model, config, folder)
    names = {f"{name}_token": f"<{name}>" for name in ("pad", "bos", "eos", "unk")}
    _save_tokenizer(tokenizer, folder, {"tokenizer_class": "GemmaTokenizer", **names})
    return folder


def _save_network(kind: Any, config: Any, folder: Path) -> None:
    torch.manual_seed(0)
    network = kind(config)
    for name, parameter in network.named_parameters():
        if "norm" in name:
            nn.init.uniform_(parameter, 0.5, 1.5)
    nn.init.normal_(network.embed_tokens.weight)  # padding has a vector, as in the real weights
    network.save_pretrained(folder)


def _save_tokenizer(tokenizer: Tokenizer, folder: Path, config: dict[str, str]) -> None:
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def _qwen_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_end|>"],
        initial_alphabet=pre.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CAPTIONS, trainer)
    return tokenizer


def _gemma_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre.Split(Regex("▁?[^▁]+|▁"), "isolated")  # no merges across words
    bytes_256 = [f"<0x{value:02X}>" for value in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<pad>", "<eos>", "<bos>", "<unk>", *bytes_256],
        show_progress=False,
    )
    tokenizer.train_from_iterator(CAPTIONS, trainer)
    tokenizer.pre_tokenizer = pre.Split(" ", "merged_with_previous")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", 2)]
    )
    return tokenizer
