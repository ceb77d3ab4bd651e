"""Tiny encoders for the tests: Toybox's word tokenizer, and configs at the size of its T5 and CLIP."""

from typing import Any

from ediffi.evaluation.datasets.toybox import vocabulary
from ediffi.training.encoders.vocabulary import BEGIN, END, PAD, SPECIAL, UNKNOWN


def word_tokenizer(begin: bool, max_length: int) -> Any:
    """As those that ship with Toybox: one token a word, after the special ones; with `begin` as CLIP's."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {token: index for index, token in enumerate([*SPECIAL, *vocabulary()])}
    words = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    words.normalizer = normalizers.Lowercase()
    pattern = Regex(r"[^\W_]+(?:['-][^\W_]+)*|[^\w\s]")
    words.pre_tokenizer = pre_tokenizers.Split(pattern, behavior="removed", invert=True)
    frame, ends = f"{BEGIN} $A {END}" if begin else f"$A {END}", [(BEGIN, ids[BEGIN]), (END, ids[END])]
    words.post_processor = processors.TemplateProcessing(single=frame, special_tokens=ends)
    names = {"pad_token": PAD, "eos_token": END, "unk_token": UNKNOWN, "bos_token": BEGIN}
    return PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=max_length, **names)


def clip_settings(words: int) -> dict[str, Any]:
    """The content of open_clip_config.json: a ViT on 64² images in patches of 16, a causal text tower of 77 tokens."""
    vision = {"image_size": 64, "patch_size": 16, "width": 128, "layers": 4, "head_width": 32, "mlp_ratio": 2.0}
    text = {"context_length": 77, "vocab_size": words, "width": 128, "layers": 3, "heads": 4, "mlp_ratio": 2.0}
    ids = {"eos_id": SPECIAL.index(END), "pad_id": SPECIAL.index(PAD)}
    read = {"hf_tokenizer_name": "toybox-words", "pool_type": "eos", **ids}
    half = [0.5, 0.5, 0.5]
    return {
        "model_cfg": {"embed_dim": 128, "vision_cfg": vision, "text_cfg": {**text, **read}},
        "preprocess_cfg": {"size": 64, "mean": half, "std": half, "interpolation": "bicubic"},
    }


def t5_settings(words: int) -> dict[str, Any]:
    """Arguments of T5Config: the T5 v1.1 design (gated GELU) at width 128 with 3 layers."""
    sizes = {"d_model": 128, "d_kv": 32, "num_heads": 4, "d_ff": 256, "num_layers": 3}
    ids = {"pad_token_id": 0, "eos_token_id": SPECIAL.index(END), "decoder_start_token_id": 0}
    return {"vocab_size": words, **sizes, **ids, "feed_forward_proj": "gated-gelu", "dropout_rate": 0.0}
