"""What the Toybox encoders are trained on: words as tokens, captions with their targets, and pictures."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from ediffi.evaluation.datasets.toybox import Scene, caption, render, vocabulary
from ediffi.evaluation.datasets.toybox.caption import NAMEABLE, Length
from ediffi.toybox.fitting import device

PAD, END, UNKNOWN, BEGIN = "<pad>", "</s>", "<unk>", "<s>"
SPECIAL = (PAD, END, UNKNOWN, BEGIN)
"""Special tokens; their ids are their places here, before those of the words."""

PICTURE = 64
"""Side of the pictures that the CLIP sees."""

LENGTHS: tuple[Length, ...] = ("short", "long")

LONG_SHARE = 0.4
"""Share of training batches with long captions. A batch has captions of one length, so that little of it is padding."""

UNKNOWN_COUNTS = (0, 0, 0, 0, 0, 1, 1, 2, 3)
"""How many unknown words a training caption gets: one of these, uniformly."""


def word_tokenizer(begin: bool, max_length: int) -> Any:
    """A transformers tokenizer with one token a Toybox word: ids of `SPECIAL` first, then the vocabulary in its order.

    Splits as `ediffi.evaluation.datasets.toybox` does: words may have inner hyphens and apostrophes, marks stand alone.

    Args:
        begin: whether texts open with the begin token (CLIP) or not (T5); they always close with the end token.
        max_length: tokens a text is cut to, where asked to cut.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {token: index for index, token in enumerate([*SPECIAL, *vocabulary()])}
    words = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    words.normalizer = normalizers.Lowercase()
    pattern = Regex(r"[^\W_]+(?:['-][^\W_]+)*|[^\w\s]")
    words.pre_tokenizer = pre_tokenizers.Split(pattern, behavior="removed", invert=True)
    frame = f"{BEGIN} $A {END}" if begin else f"$A {END}"
    words.post_processor = processors.TemplateProcessing(
        single=frame, special_tokens=[(t, ids[t]) for t in (BEGIN, END)]
    )
    names = {"pad_token": PAD, "eos_token": END, "unk_token": UNKNOWN, "bos_token": BEGIN}
    return PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=max_length, **names)


def draw_length(rng: np.random.Generator) -> Length:
    """The length of the captions of one training batch."""
    return "long" if rng.random() < LONG_SHARE else "short"


def strew(text: str, rng: np.random.Generator) -> str:
    """The text with 0 to 3 unknown words in random places."""
    words = text.split()
    for _ in range(UNKNOWN_COUNTS[rng.integers(len(UNKNOWN_COUNTS))]):
        words.insert(int(rng.integers(len(words) + 1)), UNKNOWN)
    return " ".join(words)


def full_caption(scene: Scene, rng: np.random.Generator) -> str:
    """A short caption that names all that a caption may leave out."""
    while True:
        said = caption(scene, rng, "short")
        if said.named >= NAMEABLE.keys():
            return said.text


def pictures_of(scenes: list[Scene]) -> UInt8[Tensor, "b 64 64 3"]:
    """Rendered pictures, uint8."""
    return torch.from_numpy(np.stack([render(scene, PICTURE) for scene in scenes]))


def to_range(pictures: UInt8[Tensor, "b h w 3"]) -> Float[Tensor, "b 3 h w"]:
    """Bytes to [-1, 1], channels first, on the training device."""
    return pictures.to(device()).permute(0, 3, 1, 2).float() / 127.5 - 1
