"""Train the T5 of the Toybox model: transformers' own encoder at tiny size, so that its tokens know their object.

Every word that names the colour or the shape of an object predicts that object's place in the layout, its shape, its
colour and its size, by linear heads that are discarded afterwards. So the token "red" says what cross-attention needs:
not only "red", but "red, of the large circle on the left". A large T5 learns this in its pretraining.
"""

from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor, nn

from ediffi.evaluation.datasets import toybox
from ediffi.toybox import encoder_training as training

BUDGET: Final = training.EncoderBudget(steps=600, batch_size=128, learning_rate=2e-3)
SHAPES, COLOUR_NAMES, SIZE_NAMES = toybox.SHAPES, tuple(toybox.COLOURS), tuple(toybox.SIZES)
PLACES: Final = [(layout, index) for layout, slots in toybox.LAYOUTS.items() for index in range(len(slots))]
CLASSES: Final = {"place": len(PLACES), "shape": len(SHAPES), "colour": len(COLOUR_NAMES), "size": len(SIZE_NAMES)}
"""The attributes that a token predicts of its object, and their numbers of classes."""
UNNAMED: Final = -100  # the class of an attribute that the caption does not name; the loss ignores it
POSITION_BIAS_STD: Final = 1.5


class T5WithHeads(nn.Module):
    """A T5 encoder with one linear head for each attribute of `CLASSES`."""

    def __init__(self, words: int) -> None:
        super().__init__()
        from transformers import T5Config, T5EncoderModel

        self.encoder = T5EncoderModel(T5Config(**t5_settings(words)))
        # Relative position biases that start near zero leave words unordered for thousands of steps.
        bias = self.encoder.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight
        nn.init.normal_(bias, 0, POSITION_BIAS_STD)
        self.heads = nn.ModuleDict({name: nn.Linear(128, count) for name, count in CLASSES.items()})

    def forward(self, batch: dict[str, Tensor], words: Int[Tensor, "k 2"]) -> dict[str, Tensor]:
        """Logits of every attribute for each of the words (sample, position)."""
        states = self.encoder(**batch).last_hidden_state[words[:, 0], words[:, 1]]
        return {name: head(states) for name, head in self.heads.items()}


def t5_settings(words: int) -> dict[str, Any]:
    """Arguments of T5Config: the T5 v1.1 design (gated GELU) at width 128 with 3 layers."""
    sizes = {"d_model": 128, "d_kv": 32, "num_heads": 4, "d_ff": 256, "num_layers": 3}
    ids = {"pad_token_id": 0, "eos_token_id": training.SPECIAL.index(training.END), "decoder_start_token_id": 0}
    return {"vocab_size": words, **sizes, **ids, "feed_forward_proj": "gated-gelu", "dropout_rate": 0.0}


def train_t5(output: Path, budget: training.EncoderBudget = BUDGET, seed: int = 0) -> dict[str, Any]:
    """Train the T5 and write its encoder to the folder `output` (a few minutes on two CPU cores).

    Returns the content of training.json there; `accuracy_short` and `accuracy_long` are of held-out captions.
    """
    torch.manual_seed(seed)
    tokenizer = training.word_tokenizer(begin=False, max_length=113)
    model = T5WithHeads(len(tokenizer)).to(training.device())
    rng = np.random.default_rng([seed, 1])

    def loss() -> Tensor:
        batch, words, classes = labelled_batch(tokenizer, rng, budget.batch_size, training.draw_length(rng))
        logits = model(batch, words)
        losses = [F.cross_entropy(logits[name], classes[name], ignore_index=UNNAMED) for name in CLASSES]
        return torch.stack(losses).nansum()  # NaN is the mean over an attribute that no caption of the batch names

    record = training.fit(model, loss, budget, "T5", bf16=False) | {"seed": seed}
    record |= {f"accuracy_{length}": accuracy(model, tokenizer, length, seed) for length in get_args(toybox.Length)}
    with training.saving(output, record) as folder:
        model.encoder.to(torch.bfloat16).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return record


@torch.no_grad()
def accuracy(
    model: T5WithHeads, tokenizer: Any, length: toybox.Length, seed: int = 0, count: int = 512
) -> dict[str, float]:
    """Share of right predictions of each attribute, on held-out captions."""
    rng = np.random.default_rng([seed, 2])
    batch, words, classes = labelled_batch(tokenizer, rng, count, length, "test")
    logits = model(batch, words)
    right = {name: (logits[name].argmax(-1) == classes[name])[classes[name] != UNNAMED] for name in CLASSES}
    return {name: round(values.double().mean().item(), 4) for name, values in right.items()}


def labelled_batch(
    tokenizer: Any, rng: np.random.Generator, count: int, length: toybox.Length, split: toybox.Split = "train"
) -> tuple[dict[str, Tensor], Int[Tensor, "k 2"], dict[str, Int[Tensor, " k"]]]:
    """A tokenized batch of captions, the words (sample, position) that name an object, and their classes."""
    scenes = [toybox.sample_scene(rng, split) for _ in range(count)]
    captions = [toybox.caption(scene, rng, length) for scene in scenes]
    texts = [training.add_unknown_words(one.text, rng) if split == "train" else one.text for one in captions]
    batch = tokenizer(texts, padding=True, return_tensors="pt").to(training.device())
    words, classes = [], []
    for sample, (scene, one) in enumerate(zip(scenes, captions, strict=True)):
        for position, index in object_words(tokenizer.convert_ids_to_tokens(batch["input_ids"][sample]), scene):
            words.append((sample, position))
            classes.append(_classes(scene, one, index))
    columns = torch.tensor(classes, device=training.device()).unbind(1)
    return dict(batch), torch.tensor(words, device=training.device()), dict(zip(CLASSES, columns, strict=True))


def object_words(tokens: list[str], scene: toybox.Scene) -> list[tuple[int, int]]:
    """(position, object) of each colour word and of the shape word that follows it, where they name an object."""
    objects = {(thing.colour, thing.shape): index for index, thing in enumerate(scene.objects)}
    found, colour = [], None
    for position, token in enumerate(tokens):
        if token in toybox.COLOURS:
            colour = position
        elif token in SHAPES and colour is not None:
            index = objects.get((tokens[colour], token))
            found += [] if index is None else [(colour, index), (position, index)]
            colour = None
    return found


def _classes(scene: toybox.Scene, said: toybox.Caption, index: int) -> tuple[int, ...]:
    thing = scene.objects[index]
    size = SIZE_NAMES.index(thing.size) if "size" in said.named else UNNAMED
    place = PLACES.index((scene.layout, index)) if "layout" in said.named else UNNAMED
    return place, SHAPES.index(thing.shape), COLOUR_NAMES.index(thing.colour), size
