"""What the trainings of the Toybox T5 and CLIP share: the word tokenizer, training captions, the training loop."""

import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ediffi.evaluation.datasets.toybox import Length, vocabulary
from ediffi.io.files import replacing_folder

PAD, END, UNKNOWN, BEGIN = "<pad>", "</s>", "<unk>", "<s>"
SPECIAL: Final = (PAD, END, UNKNOWN, BEGIN)  # their ids are their positions here, before those of the words
LONG_SHARE: Final = 0.4  # of training batches; all captions of a batch have one length, so there is little padding
UNKNOWN_COUNTS: Final = (0, 0, 0, 0, 0, 1, 1, 2, 3)  # of unknown words in a training caption, uniformly one of these


@dataclass(frozen=True)
class EncoderBudget:
    """How long to train an encoder."""

    steps: int
    batch_size: int  # captions (and images) a step
    learning_rate: float  # peak of the schedule: linear warm-up over a tenth of the steps, then a cosine to 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 2 or not self.learning_rate > 0:
            raise ValueError(f"allowed are steps >= 1, batch_size >= 2 and learning_rate > 0, got {self}")


def device() -> str:
    """The training device: a GPU if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def word_tokenizer(begin: bool, max_length: int) -> Any:
    """A transformers tokenizer with one token a Toybox word: ids of `SPECIAL` first, then the vocabulary in its order.

    Splits as `toybox.tokens` does: words may have inner hyphens and apostrophes, each punctuation mark is a token.
    With `begin` texts open with the begin token, as for CLIP; they always close with the end token.
    """
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


def draw_length(rng: np.random.Generator) -> Length:
    """The length of the captions of one training batch."""
    return "long" if rng.random() < LONG_SHARE else "short"


def add_unknown_words(text: str, rng: np.random.Generator) -> str:
    """The text with 0 to 3 unknown words in random places, so that the encoder learns to ignore them."""
    words = text.split()
    for _ in range(UNKNOWN_COUNTS[rng.integers(len(UNKNOWN_COUNTS))]):
        words.insert(int(rng.integers(len(words) + 1)), UNKNOWN)
    return " ".join(words)


def fit(
    model: nn.Module, loss_of: Callable[[], Tensor], budget: EncoderBudget, label: str, bf16: bool
) -> dict[str, Any]:
    """Train `model` in place on the losses that `loss_of` draws; returns the record. ValueError: one is not finite."""
    betas = (0.9, 0.98)  # the second as for CLIP's vision transformers (Radford et al. 2021, table 18)
    optimizer = torch.optim.AdamW(model.parameters(), budget.learning_rate, betas, weight_decay=0.01, fused=True)
    warm_up = max(1, budget.steps // 10)

    def rate(step: int) -> float:
        return min((step + 1) / warm_up, 0.5 + 0.5 * math.cos(math.pi * step / budget.steps))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    start, losses = time.monotonic(), []
    for _ in (bar := tqdm(range(budget.steps), desc=label, unit="step", mininterval=1)):
        with torch.autocast(device(), torch.bfloat16, enabled=bf16):
            loss = loss_of()
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise ValueError(f"{label}: the loss of step {len(losses)} is {losses[-1]}; try a smaller learning rate")
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        bar.set_postfix(loss=f"{np.mean(losses[-50:]):.3f}")
    return {
        "steps": budget.steps,
        "samples": budget.steps * budget.batch_size,
        "minutes": round((time.monotonic() - start) / 60, 2),
        "loss": round(float(np.mean(losses[-50:])), 4),
        "machine": f"{torch.get_num_threads()} threads of {os.cpu_count()} cores, {platform.machine()}, {device()}",
        "torch": torch.__version__,
    }


@contextmanager
def saving(output: Path, record: dict[str, Any]) -> Iterator[Path]:
    """A folder to save the encoder in; at the end `record` is added as training.json, and it replaces `output`."""
    with replacing_folder(output) as folder:
        yield folder
        (folder / "training.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        for path in folder.iterdir():
            path.chmod(0o644)  # safetensors writes files that only their owner may read
