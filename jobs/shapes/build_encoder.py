"""Build the text encoder of the `pixnerd-shapes` preset: a word tokenizer and a small Qwen3.

The tokenizer knows the words of the captions, each one token. The network is one layer with random
weights: its word vectors stand nearly at right angles, so that the denoiser, which is trained on
its features, can learn from them what any table of word vectors could say. Seeded; takes seconds.

    python -m jobs.shapes.build_encoder --out configs/models/pixnerd-shapes-text
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers
from tokenizers import pre_tokenizers as pre
from torch import nn

from evalsuite.config import TextEncoderSpec
from jobs.shapes.data import draw_record

WIDTH = 64
MAX_LENGTH = 13
PAD, UNKNOWN = "[pad]", "[unknown]"
SPEC = TextEncoderSpec(
    kind="qwen3",
    repo="pixnerd-shapes-text",
    max_length=MAX_LENGTH,
    width=WIDTH,
    attention="sdpa",
    empty_prompt="uniform",
    dtype="float32",
)
"""As the preset has it."""
_NUM_CAPTIONS = 5000
_SIZES = {
    "hidden_size": WIDTH,
    "intermediate_size": WIDTH,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "initializer_range": 0.1,
}


def build_tokenizer() -> Tokenizer:
    """Lower case, words apart from punctuation, one token a word."""
    rng = np.random.default_rng(0)
    captions = [draw_record(rng)["prompt"] for _ in range(_NUM_CAPTIONS)]
    words = sorted({word for caption in captions for word in caption.split()})
    vocabulary = {word: number for number, word in enumerate((PAD, UNKNOWN, *words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre.Whitespace()
    tokenizer.add_special_tokens([PAD, UNKNOWN])
    return tokenizer


def save(folder: Path) -> None:
    """Write tokenizer, configuration and float32 weights as transformers reads them."""
    from transformers import Qwen3Config, Qwen3Model

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    torch.manual_seed(0)
    network = Qwen3Model(Qwen3Config(vocab_size=tokenizer.get_vocab_size(), **_SIZES))
    nn.init.orthogonal_(network.embed_tokens.weight)
    with torch.no_grad():
        network.embed_tokens.weight *= WIDTH**0.5
    network.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": PAD, "unk_token": UNKNOWN}
    (folder / "tokenizer_config.json").write_text(json.dumps(names) + "\n")


def main() -> None:
    """Read the command line and build."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    save(parser.parse_args().out)


if __name__ == "__main__":
    main()
