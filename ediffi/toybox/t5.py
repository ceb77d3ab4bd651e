"""Train the T5 of the Toybox model: transformers' own encoder at tiny size, so that its tokens know their object.

Every word that names the colour or the shape of an object predicts, by linear heads that are thrown away afterwards,
that object's place in the layout, its shape, its colour and its size. What a token then says is what cross-attention
needs: not only "red", but "red, of the large circle on the left". A large T5 brings that from its pretraining.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor, nn

from ediffi.evaluation.datasets.toybox import COLOURS, LAYOUTS, SHAPES, SIZES, Scene, caption, sample_scene
from ediffi.evaluation.datasets.toybox.caption import Caption, Length
from ediffi.evaluation.datasets.toybox.scene import Split
from ediffi.toybox.encoder_data import END, LENGTHS, SPECIAL, draw_length, strew, word_tokenizer
from ediffi.toybox.fitting import Budget, device, fit, replacing, write_record

BUDGET = Budget(steps=600, batch_size=128, learning_rate=2e-3)
COLOUR_NAMES, SIZE_NAMES = tuple(COLOURS), tuple(SIZES)
PLACES = [(layout, index) for layout, slots in LAYOUTS.items() for index in range(len(slots))]
QUESTIONS = {"place": len(PLACES), "shape": len(SHAPES), "colour": len(COLOUR_NAMES), "size": len(SIZE_NAMES)}
"""What a token is asked of its object, and how many answers there are."""
UNNAMED = -100
"""The answer that is not asked for: the caption does not tell."""
POSITION_BIAS_STD = 1.5


class Asked(nn.Module):
    """A T5 encoder with one linear head a question."""

    def __init__(self, words: int) -> None:
        super().__init__()
        from transformers import T5Config, T5EncoderModel

        self.encoder = T5EncoderModel(T5Config(**settings(words)))
        # Relative positions that start near zero leave words unordered for thousands of steps; we start them apart.
        nn.init.normal_(
            self.encoder.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight, 0, POSITION_BIAS_STD
        )
        self.heads = nn.ModuleDict({name: nn.Linear(128, answers) for name, answers in QUESTIONS.items()})

    def forward(self, batch: dict[str, Tensor], words: Int[Tensor, "k 2"]) -> dict[str, Tensor]:
        """Logits of every question for each of the words (sample, position)."""
        states = self.encoder(**batch).last_hidden_state[words[:, 0], words[:, 1]]
        return {name: head(states) for name, head in self.heads.items()}


def settings(words: int) -> dict[str, Any]:
    """Arguments of T5Config: the T5 v1.1 design (gated GELU) at width 128 with 3 layers."""
    sizes = {"d_model": 128, "d_kv": 32, "num_heads": 4, "d_ff": 256, "num_layers": 3}
    ids = {"pad_token_id": 0, "eos_token_id": SPECIAL.index(END), "decoder_start_token_id": 0}
    return {"vocab_size": words, **sizes, **ids, "feed_forward_proj": "gated-gelu", "dropout_rate": 0.0}


def train_t5(output: Path, budget: Budget = BUDGET, seed: int = 0) -> dict[str, Any]:
    """Train the T5 and write its encoder to the folder `output`.

    Args:
        output: folder to write.
        budget: how long to train.
        seed: of the weights, the scenes and the captions.

    Returns:
        The record that is also written there as training.json; `accuracy_short` and `accuracy_long` are the shares of
        right answers about held-out captions.
    """
    torch.manual_seed(seed)
    tokenizer = word_tokenizer(begin=False, max_length=113)
    model = Asked(len(tokenizer)).to(device())
    rng = np.random.default_rng([seed, 1])

    def loss() -> Tensor:
        batch, words, answers = questions(tokenizer, rng, budget.batch_size, draw_length(rng))
        logits = model(batch, words)
        losses = [F.cross_entropy(logits[name], answers[name], ignore_index=UNNAMED) for name in QUESTIONS]
        return torch.stack(losses).nansum()

    record = fit(model, loss, budget, "T5", bf16=False) | {"seed": seed}
    for length in LENGTHS:
        record[f"accuracy_{length}"] = accuracy(model, tokenizer, length, seed)
    with replacing(output) as folder:
        model.encoder.to(torch.bfloat16).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        write_record(folder, record)
    return record


@torch.no_grad()
def accuracy(model: Asked, tokenizer: Any, length: Length, seed: int = 0, count: int = 512) -> dict[str, float]:
    """Share of right answers to each question, on held-out captions."""
    rng = np.random.default_rng([seed, 2])
    batch, words, answers = questions(tokenizer, rng, count, length, "test")
    logits = model(batch, words)
    right = {name: (logits[name].argmax(-1) == answers[name])[answers[name] != UNNAMED] for name in QUESTIONS}
    return {name: round(values.double().mean().item(), 4) for name, values in right.items()}


def questions(
    tokenizer: Any, rng: np.random.Generator, count: int, length: Length, split: Split = "train"
) -> tuple[dict[str, Tensor], Int[Tensor, "k 2"], dict[str, Int[Tensor, " k"]]]:
    """A tokenised batch of captions, the words (sample, position) that name an object, and the answers about it."""
    scenes = [sample_scene(rng, split) for _ in range(count)]
    captions = [caption(scene, rng, length) for scene in scenes]
    texts = [strew(said.text, rng) if split == "train" else said.text for said in captions]
    batch = tokenizer(texts, padding=True, return_tensors="pt").to(device())
    words, answers = [], []
    for sample, (scene, said) in enumerate(zip(scenes, captions, strict=True)):
        for position, index in object_words(tokenizer.convert_ids_to_tokens(batch["input_ids"][sample]), scene):
            words.append((sample, position))
            answers.append(_answers(scene, said, index))
    columns = torch.tensor(answers, device=device()).unbind(1)
    return dict(batch), torch.tensor(words, device=device()), dict(zip(QUESTIONS, columns, strict=True))


def object_words(tokens: list[str], scene: Scene) -> list[tuple[int, int]]:
    """(position, object) of each colour word and of the shape word that follows it, where they name an object."""
    objects = {(thing.colour, thing.shape): index for index, thing in enumerate(scene.objects)}
    found, colour = [], None
    for position, token in enumerate(tokens):
        if token in COLOURS:
            colour = position
        elif token in SHAPES and colour is not None:
            index = objects.get((tokens[colour], token))
            found += [] if index is None else [(colour, index), (position, index)]
            colour = None
    return found


def _answers(scene: Scene, said: Caption, index: int) -> tuple[int, ...]:
    thing = scene.objects[index]
    size = SIZE_NAMES.index(thing.size) if "size" in said.named else UNNAMED
    place = PLACES.index((scene.layout, index)) if "layout" in said.named else UNNAMED
    return place, SHAPES.index(thing.shape), COLOUR_NAMES.index(thing.colour), size
