"""Small networks of the scorers with random weights, real ones of transformers, on disk."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

NAMES = ("cup", "bird", "clock", "car", "dog")
_CAPTIONS = (
    "a photo of an object red orange yellow green blue purple pink brown black white -colored",
    "cup bird clock car dog is there any in the picture yes no ? -",
)


def detector_config() -> Any:
    """Mask2Former with a Swin of four stages, a few channels wide."""
    from transformers import Mask2FormerConfig, SwinConfig

    backbone = SwinConfig(
        image_size=64,
        embed_dim=8,
        depths=[1, 1, 2, 1],
        num_heads=[1, 1, 2, 2],
        window_size=7,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    return Mask2FormerConfig(
        backbone_config=backbone,
        num_labels=len(NAMES),
        hidden_dim=32,
        mask_feature_size=32,
        feature_size=32,
        encoder_feedforward_dim=16,
        dim_feedforward=16,
        encoder_layers=2,
        decoder_layers=3,
        num_attention_heads=2,
        num_queries=7,
    )


def save_detector(folder: Path) -> Path:
    """Random weights, spread so that detections differ and reach high scores."""
    from transformers import Mask2FormerForUniversalSegmentation

    torch.manual_seed(3)
    network = Mask2FormerForUniversalSegmentation(detector_config()).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.25)
        network.class_predictor.weight.normal_(0, 1.5)
        network.class_predictor.bias[-1] = -4
    network.save_pretrained(folder)
    return folder


def save_clip(folder: Path, activation: str = "quick_gelu") -> Path:
    """Both sides of a CLIP and its tokenizer."""
    from transformers import CLIPConfig, CLIPModel

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 2, "hidden_act": activation}
    tokens = save_tokenizer(folder)
    text = {**sizes, "vocab_size": tokens, "max_position_embeddings": 24, "eos_token_id": 1}
    text |= {"bos_token_id": 0, "pad_token_id": 1}
    torch.manual_seed(4)
    vision = {**sizes, "image_size": 32, "patch_size": 8}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)
    network = CLIPModel(config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.2)
    network.save_pretrained(folder)
    return folder


def save_blip(folder: Path) -> Path:
    """BLIP for questions and its tokenizer."""
    from transformers import BlipConfig, BlipForQuestionAnswering

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 2, "projection_dim": 16}
    tokens = save_tokenizer(folder)
    text = {**sizes, "vocab_size": tokens, "encoder_hidden_size": 16, "max_position_embeddings": 40}
    text |= {"bos_token_id": 0, "sep_token_id": 1, "eos_token_id": 1, "pad_token_id": 2}
    torch.manual_seed(5)
    vision = {**sizes, "image_size": 32, "patch_size": 8}
    config = BlipConfig(text_config=text, vision_config=vision, projection_dim=16)
    network = BlipForQuestionAnswering(config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3)
    network.save_pretrained(folder)
    return folder


def save_taught_blip(folder: Path) -> Path:
    """The same after a few steps of training: it says yes or no, by whether red is asked for."""
    from transformers import AutoTokenizer, BlipForQuestionAnswering

    save_blip(folder)
    network = BlipForQuestionAnswering.from_pretrained(folder).train()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    questions = tokenizer(
        ["is there a cup ?", "is there red cup ?"], padding=True, return_tensors="pt"
    )
    answers = tokenizer(["yes", "no"], return_tensors="pt").input_ids
    torch.manual_seed(7)
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    for _ in range(80):
        loss = network(
            input_ids=questions.input_ids,
            attention_mask=questions.attention_mask,
            pixel_values=torch.randn(2, 3, 32, 32),
            labels=answers,
        ).loss
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
    network.save_pretrained(folder)
    return folder


_MARKS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>")
_MARKS += ("<|image_pad|>", "<|video_pad|>")


def save_qwen(folder: Path, kind: str) -> Path:
    """A Qwen-VL of two layers, its tokenizer and how its pictures are cut.

    Its own defaults draw words at random, as the published ones do.
    """
    import transformers

    marks = _save_qwen_tokenizer(folder)
    text: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": marks["size"]}
    text |= {"max_position_embeddings": 512, "eos_token_id": None, "bos_token_id": None}
    text["rope_parameters"] = {
        "rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1],
    }  # fmt: skip
    vision: dict[str, Any] = {"depth": 2, "num_heads": 2, "patch_size": 4, "spatial_merge_size": 2}
    vision |= {"hidden_size": 32, "temporal_patch_size": 2}
    if kind == "qwen2_vl":
        vision |= {"embed_dim": 16, "mlp_ratio": 2}
    else:
        vision |= {"hidden_size": 16, "out_hidden_size": 32, "intermediate_size": 32}
    if kind == "qwen2_5_vl":
        vision |= {"window_size": 16, "fullatt_block_indexes": [1]}
    if kind == "qwen3_vl":
        vision |= {"num_position_embeddings": 64, "deepstack_visual_indexes": [0]}
        text |= {"head_dim": 8}
    places = {
        "image_token_id": marks["<|image_pad|>"],
        "video_token_id": marks["<|video_pad|>"],
        "vision_start_token_id": marks["<|vision_start|>"],
        "vision_end_token_id": marks["<|vision_end|>"],
    }
    name = {"qwen2_vl": "Qwen2VL", "qwen2_5_vl": "Qwen2_5_VL", "qwen3_vl": "Qwen3VL"}[kind]
    config = getattr(transformers, f"{name}Config")(
        text_config=text, vision_config=vision, **places
    )
    torch.manual_seed(6)
    network = getattr(transformers, f"{name}ForConditionalGeneration")(config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3)
    network.generation_config.update(
        do_sample=True,
        temperature=1.5,
        repetition_penalty=1.3,
        eos_token_id=[marks["<|im_end|>"], marks["<|endoftext|>"]],
        pad_token_id=marks["<|endoftext|>"],
    )
    network.save_pretrained(folder)
    transformers.Qwen2VLImageProcessorPil(
        patch_size=4,
        merge_size=2,
        temporal_patch_size=2,
        size={"shortest_edge": 256, "longest_edge": 2048},
    ).save_pretrained(folder)
    return folder


def _save_qwen_tokenizer(folder: Path) -> dict[str, int]:
    """Pairs of bytes, as Qwen's; gives the numbers of its marks, and `size`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=list(_MARKS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CAPTIONS, trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    ).save_pretrained(folder)
    return {"size": tokenizer.get_vocab_size(), **{m: tokenizer.token_to_id(m) for m in _MARKS}}


def save_tokenizer(folder: Path) -> int:
    """One token a word between a first and a last one; gives their number."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["<s>", "</s>", "<pad>", "<unk>", *dict.fromkeys(" ".join(_CAPTIONS).split())]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
    )
    fast.save_pretrained(folder)
    return len(words)


class _Names:
    """Takes tensors over from one set of names to the other."""

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        self.state = state
        self.made: dict[str, torch.Tensor] = {}

    def take(self, new: str, old: str) -> None:
        """One tensor."""
        self.made[new] = self.state[old]

    def pairs(self, new: str, old: str) -> None:
        """A weight and a bias."""
        for kind in _BOTH:
            self.take(f"{new}.{kind}", f"{old}.{kind}")


_BOTH = ("weight", "bias")


def mmdet_state(folder: Path) -> dict[str, torch.Tensor]:
    """The detector's weights as mmdet would name and order them, written down independently."""
    from safetensors.torch import load_file

    names = _Names(load_file(folder / "model.safetensors"))
    _name_backbone(names, "model.pixel_level_module.encoder")
    _name_pixel_decoder(names, "model.pixel_level_module.decoder")
    _name_decoder(names, "model.transformer_module")
    return names.made


def _name_backbone(names: _Names, swin: str) -> None:
    names.pairs("backbone.patch_embed.projection", f"{swin}.embeddings.patch_embeddings.projection")
    names.pairs("backbone.patch_embed.norm", f"{swin}.embeddings.norm")
    for stage, depth in enumerate((1, 1, 2, 1)):
        for block in range(depth):
            new = f"backbone.stages.{stage}.blocks.{block}"
            old = f"{swin}.encoder.layers.{stage}.blocks.{block}"
            names.pairs(f"{new}.norm1", f"{old}.layernorm_before")
            names.pairs(f"{new}.norm2", f"{old}.layernorm_after")
            own = f"{old}.attention.self"
            for kind in _BOTH:
                parts = [names.state[f"{own}.{part}.{kind}"] for part in ("query", "key", "value")]
                names.made[f"{new}.attn.w_msa.qkv.{kind}"] = torch.cat(parts)
            table = "relative_position_bias_table"
            names.take(f"{new}.attn.w_msa.{table}", f"{own}.{table}")
            names.made[f"{new}.attn.w_msa.relative_position_index"] = torch.zeros(49, 49).long()
            names.pairs(f"{new}.attn.w_msa.proj", f"{old}.attention.output.dense")
            names.pairs(f"{new}.ffn.layers.0.0", f"{old}.intermediate.dense")
            names.pairs(f"{new}.ffn.layers.1", f"{old}.output.dense")
        names.pairs(f"backbone.norm{stage}", f"{swin}.hidden_states_norms.stage{stage + 1}")
        if stage < 3:
            new = f"backbone.stages.{stage}.downsample"
            old = f"{swin}.encoder.layers.{stage}.downsample"
            for name in ("norm.weight", "norm.bias", "reduction.weight"):
                names.made[f"{new}.{name}"] = to_unfolded(names.state[f"{old}.{name}"])


def _name_pixel_decoder(names: _Names, pixel: str) -> None:
    panoptic = "panoptic_head.pixel_decoder"
    for level in range(3):
        names.pairs(f"{panoptic}.input_convs.{level}.conv", f"{pixel}.input_projections.{level}.0")
        names.pairs(f"{panoptic}.input_convs.{level}.gn", f"{pixel}.input_projections.{level}.1")
    for layer in range(2):
        new, old = f"{panoptic}.encoder.layers.{layer}", f"{pixel}.encoder.layers.{layer}"
        for part in ("sampling_offsets", "attention_weights", "value_proj", "output_proj"):
            names.pairs(f"{new}.attentions.0.{part}", f"{old}.self_attn.{part}")
        names.pairs(f"{new}.norms.0", f"{old}.self_attn_layer_norm")
        names.pairs(f"{new}.norms.1", f"{old}.final_layer_norm")
        names.pairs(f"{new}.ffns.0.layers.0.0", f"{old}.fc1")
        names.pairs(f"{new}.ffns.0.layers.1", f"{old}.fc2")
    names.take(f"{panoptic}.level_encoding.weight", f"{pixel}.level_embed")
    names.take(f"{panoptic}.lateral_convs.0.conv.weight", f"{pixel}.adapter_1.0.weight")
    names.pairs(f"{panoptic}.lateral_convs.0.gn", f"{pixel}.adapter_1.1")
    names.take(f"{panoptic}.output_convs.0.conv.weight", f"{pixel}.layer_1.0.weight")
    names.pairs(f"{panoptic}.output_convs.0.gn", f"{pixel}.layer_1.1")
    names.pairs(f"{panoptic}.mask_feature", f"{pixel}.mask_projection")


def _name_decoder(names: _Names, head: str) -> None:
    panoptic = "panoptic_head.transformer_decoder"
    for layer in range(2):
        new, old = f"{panoptic}.layers.{layer}", f"{head}.decoder.layers.{layer}"
        for kind in _BOTH:
            names.take(
                f"{new}.attentions.0.attn.in_proj_{kind}", f"{old}.cross_attn.in_proj_{kind}"
            )
            parts = [names.state[f"{old}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            names.made[f"{new}.attentions.1.attn.in_proj_{kind}"] = torch.cat(parts)
        names.pairs(f"{new}.attentions.0.attn.out_proj", f"{old}.cross_attn.out_proj")
        names.pairs(f"{new}.attentions.1.attn.out_proj", f"{old}.self_attn.out_proj")
        names.pairs(f"{new}.norms.0", f"{old}.cross_attn_layer_norm")
        names.pairs(f"{new}.norms.1", f"{old}.self_attn_layer_norm")
        names.pairs(f"{new}.norms.2", f"{old}.final_layer_norm")
        names.pairs(f"{new}.ffns.0.layers.0.0", f"{old}.fc1")
        names.pairs(f"{new}.ffns.0.layers.1", f"{old}.fc2")
    names.pairs(f"{panoptic}.post_norm", f"{head}.decoder.layernorm")
    names.take("panoptic_head.query_embed.weight", f"{head}.queries_embedder.weight")
    names.take("panoptic_head.query_feat.weight", f"{head}.queries_features.weight")
    names.take("panoptic_head.level_embed.weight", f"{head}.level_embed.weight")
    names.pairs("panoptic_head.cls_embed", "class_predictor")
    for place in range(3):
        old = f"{head}.decoder.mask_predictor.mask_embedder.{place}.0"
        names.pairs(f"panoptic_head.mask_embed.{2 * place}", old)


def to_unfolded(tensor: torch.Tensor) -> torch.Tensor:
    """Patch merging in the order of `nn.Unfold(2, stride=2)`: channel by channel, row by row."""
    channels = tensor.shape[-1] // 4
    places = {(0, 0): 0, (1, 0): 1, (0, 1): 2, (1, 1): 3}  # of whole channels in Swin
    order = [
        places[row, column] * channels + channel
        for channel in range(channels)
        for row in range(2)
        for column in range(2)
    ]
    return tensor[..., order]


def write_names(path: Path, names: Sequence[str] = NAMES) -> Path:
    """The detector's class names."""
    path.write_text("".join(f"{name}\n" for name in names))
    return path


def write_lines(path: Path, records: list[dict[str, Any]]) -> Path:
    """JSON lines."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path
