"""Train a T5 on the captions of shards, to fill in what was cut out of them (Raffel et al., arXiv 1910.10683)."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from jaxtyping import Int
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from ediffi.data.stream import Batch
from ediffi.io.recipes import building
from ediffi.training.callbacks.optimizer_settings import OptimizerSettings
from ediffi.training.encoders.folder import EncoderFolder
from ediffi.training.encoders.vocabulary import END, PAD, SPECIAL, byte_pairs
from ediffi.training.lightning_module import paper_adamw
from ediffi.training.one_cycle import in_steps

IGNORED = -100  # the label of padding, which the loss leaves out
POSITION_BIAS_STD = 1.5
"""Of the encoder's relative position biases; from near zero, they leave words unordered for thousands of steps."""


class T5Training(L.LightningModule):
    """Trains a T5 by span corruption (Raffel et al. 2020, section 3.1.4): spans of a caption are replaced by sentinels,
    and the decoder writes what stood there.

    The end of the run writes the encoder half to `encoder/` in its directory: the `path` of `t5` and `hf_text`.

    Args:
        model: arguments of transformers' `T5Config`, such as `{d_model: 128, num_layers: 4, num_decoder_layers: 1}`.
        vocabulary: tokens at most, sentinels among them; they are learned from the captions.
        max_tokens: longer captions are truncated.
        corrupted: share of the tokens of a caption that are cut out, at least one.
        span: tokens of a span on average.
        sentinels: spans of a caption at most.
        optimizer: from the parameters to the optimiser.
        lr_scheduler: from the optimiser to its schedule, stepped after each step; None for a constant rate.
        seed: of what is cut out in training; None for the run's `seed_everything`, in Python for 0.
    """

    tokenizer: Any  # of transformers; `EncoderFolder` sets it

    def __init__(
        self,
        model: dict[str, Any],
        vocabulary: int = 4096,
        max_tokens: int = 113,
        corrupted: float = 0.15,
        span: float = 3.0,
        sentinels: int = 32,
        optimizer: OptimizerCallable = paper_adamw,
        lr_scheduler: LRSchedulerCallable | None = None,
        seed: int | None = None,
    ) -> None:
        from transformers import T5Config, T5ForConditionalGeneration

        super().__init__()
        if not (0 < corrupted < 1 and span >= 1 and sentinels >= 1):
            allowed = "corrupted must be above 0 and below 1, span and sentinels at least 1"
            raise ValueError(f"{allowed}, got {corrupted}, {span} and {sentinels}")
        if vocabulary < 100 + sentinels:
            raise ValueError(f"vocabulary must be at least 100 tokens and the {sentinels} sentinels, got {vocabulary}")
        ids = {"pad_token_id": SPECIAL.index(PAD), "eos_token_id": SPECIAL.index(END), "decoder_start_token_id": 0}
        settings = {"feed_forward_proj": "gated-gelu", "dropout_rate": 0.0, "tie_word_embeddings": False, **model}
        self.model: Any = T5ForConditionalGeneration(T5Config(vocab_size=vocabulary, **settings, **ids))
        nn.init.normal_(
            self.model.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight, std=POSITION_BIAS_STD
        )
        self.vocabulary, self.max_tokens, self.sentinels = vocabulary, max_tokens, sentinels
        self.corrupted, self.span, self.seed = corrupted, span, seed
        self._optimizer, self._lr_scheduler = optimizer, lr_scheduler

    def configure_callbacks(self) -> list[L.Callback]:
        """What makes the tokenizer and writes the encoder, and the recipe's settings of the optimiser."""
        return [EncoderFolder(), OptimizerSettings()]

    def learn_tokenizer(self, captions: Iterable[str]) -> Any:
        """A tokenizer with at most `vocabulary` tokens."""
        return byte_pairs(captions, self.vocabulary, self.max_tokens, begin=False, sentinels=self.sentinels)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimiser, and its schedule in steps."""
        with building():
            return in_steps(self._optimizer(self.parameters()), self._lr_scheduler, self.trainer.max_steps)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The cross-entropy of what was cut out; ValueError if it is not finite."""
        loss: Tensor = self._predicted(batch, training=True)[0]
        if not loss.isfinite():
            raise ValueError(f"the loss of step {self.global_step + 1} is {loss.item()}; try a smaller learning rate")
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch.captions))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the loss, and the share of tokens that are predicted rightly after those before them."""
        loss, logits, labels = self._predicted(batch, training=False)
        right = (logits.argmax(-1) == labels)[labels != IGNORED].float().mean()
        for name, value in (("val/loss", loss), ("val/accuracy", right)):
            self.log(name, value, prog_bar=True, sync_dist=True, batch_size=len(batch.captions))

    def _predicted(self, batch: Batch, training: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, logits and labels; what is cut out depends on the seed and the place of the batch in the run only."""
        rank = self.trainer.global_rank if self._trainer else 0
        rng = np.random.default_rng([(self.seed or 0) if training else 0, training, batch.index, rank])
        read: dict[str, Any] = {"truncation": True, "max_length": self.max_tokens, "add_special_tokens": False}
        ids = self.tokenizer(list(batch.captions), **read)["input_ids"]
        first = len(SPECIAL)  # the id of the first sentinel
        pairs = [corrupt(text, rng, self.corrupted, self.span, range(first, first + self.sentinels)) for text in ids]
        inputs, labels = (padded([pair[side] for pair in pairs]).to(self.device) for side in (0, 1))
        mask = inputs != IGNORED
        output = self.model(input_ids=inputs.where(mask, 0), attention_mask=mask.long(), labels=labels)
        return output.loss, output.logits, labels

    def write(self, folder: Path) -> None:
        """Write config, bfloat16 weights of the encoder half and tokenizer, as the encoder `t5` loads them."""
        from transformers import T5EncoderModel

        half = T5EncoderModel(self.model.config)
        state = self.model.state_dict()
        half.load_state_dict({name: state[name] for name in half.state_dict()})
        half.to(torch.bfloat16).save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def corrupt(
    ids: Sequence[int], rng: np.random.Generator, share: float, span: float, sentinels: range
) -> tuple[list[int], list[int]]:
    """A text with some spans replaced by sentinels, and the spans after their sentinels; both close with the end token.

    About `share` of the tokens are cut out, at least one, in spans of `span` tokens on average that do not touch.
    """
    end = SPECIAL.index(END)
    if not ids:
        return [end], [end]
    cut = min(len(ids), max(1, round(len(ids) * share)))
    spans = min(max(1, round(cut / span)), len(sentinels), max(1, len(ids) - cut + 1))
    inside, outside = parts(cut, spans, rng), parts(len(ids) - cut + 2, spans + 1, rng)
    outside[0], outside[-1] = outside[0] - 1, outside[-1] - 1  # only the ends of a text may be cut out whole
    kept: list[int] = []
    wanted: list[int] = []
    at = 0
    for sentinel, before, length in zip(sentinels, outside, inside, strict=False):
        kept += [*ids[at : at + before], sentinel]
        wanted += [sentinel, *ids[at + before : at + before + length]]
        at += before + length
    return [*kept, *ids[at:], end], [*wanted, end]


def parts(total: int, count: int, rng: np.random.Generator) -> list[int]:
    """`count` positive numbers with a sum of `total`, each such sequence equally likely."""
    edges = np.sort(rng.choice(total - 1, count - 1, replace=False)) + 1
    return [int(part) for part in np.diff(np.concatenate([[0], edges, [total]]))]


def padded(rows: Sequence[Sequence[int]]) -> Int[Tensor, "b n"]:
    """Rows of ids, padded to the longest with `IGNORED`."""
    return nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=IGNORED)
