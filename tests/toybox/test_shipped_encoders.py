"""What the encoders that ship with Toybox have learned, on held-out scenes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ediffi.evaluation.datasets.toybox import (
    BACKGROUNDS,
    COLOURS,
    NAMEABLE,
    SHAPES,
    STYLES,
    Scene,
    caption,
    render,
    sample_scene,
    tokens,
    vocabulary,
)  # fmt: skip
from ediffi.registry import encoders
from ediffi.registry.encoders.clip import ClipImageEncoder, ClipTextEncoder, load_clip
from ediffi.training.encoders.vocabulary import END, SPECIAL, UNKNOWN

SHIPPED = Path(encoders.__file__).parents[2] / "weights" / "toybox" / "encoders"


def clip_scores(folder: Path, seed: int = 0, count: int = 256) -> dict[str, float]:
    """How well a CLIP matches held-out scenes and captions, as training.json has it.

    `text_to_picture`, `picture_to_text`: share of `count` scenes whose caption (one that names everything) finds their
    image first among all `count`, and the reverse, averaged over 4 such sets. `text_*`, `picture_*`: share of held-out
    scenes whose count, style or background a linear map reads from the pooled embedding.
    """
    parts = load_clip(folder)
    rng = np.random.default_rng([seed, 4])
    scenes = [sample_scene(rng, "test") for _ in range(4 * count)]
    text = ClipTextEncoder(*parts)([full_caption(scene, rng) for scene in scenes]).pooled
    pictures = torch.from_numpy(np.stack([render(scene, 64) for scene in scenes])).permute(0, 3, 1, 2)
    image = ClipImageEncoder(parts[0])(pictures.float() / 127.5 - 1).pooled
    assert text is not None
    assert image is not None
    alike = torch.stack([t @ i.T for t, i in zip(text.split(count), image.split(count), strict=True)])
    answer = torch.arange(count)
    scores = {
        "text_to_picture": (alike.argmax(2) == answer).float().mean().item(),
        "picture_to_text": (alike.argmax(1) == answer).float().mean().item(),
    }
    facts = {"count": [len(s.objects) for s in scenes], "style": [STYLES.index(s.style) for s in scenes]}
    facts["background"] = [list(BACKGROUNDS).index(scene.background) for scene in scenes]
    for name, values in facts.items():
        scores |= {f"text_{name}": linear_probe(text, values), f"picture_{name}": linear_probe(image, values)}
    return {name: round(value, 4) for name, value in scores.items()}


def linear_probe(vectors: Float[Tensor, "b d"], values: list[int]) -> float:
    """Accuracy, on the last quarter, of the linear map to one-hot `values` that fits the first three quarters best."""
    known = torch.cat([vectors, torch.ones_like(vectors[:, :1])], 1).double()
    truth, split = torch.tensor(values), len(values) * 3 // 4
    fitted = torch.linalg.lstsq(known[:split], nn.functional.one_hot(truth[:split]).double(), driver="gelsd").solution
    return ((known[split:] @ fitted).argmax(1) == truth[split:]).double().mean().item()


def full_caption(scene: Scene, rng: np.random.Generator) -> str:
    """A short caption that names everything that a caption may leave out."""
    while True:
        said = caption(scene, rng, "short")
        if said.named >= NAMEABLE.keys():
            return said.text


@pytest.mark.parametrize("name", ["t5", "clip"])
def test_the_tokenizers_split_as_toybox_does(name: str) -> None:
    encoder = encoders.create("t5" if name == "t5" else "clip_text", path=str(SHIPPED / name))
    tokenizer = encoder.tokenizer if name == "t5" else encoder.tokenizer.tokenizer  # type: ignore[attr-defined]
    rng = np.random.default_rng(0)
    texts = [caption(sample_scene(rng), rng, length).text for length in ("short", "long") for _ in range(50)]
    for text in [*texts, "A Red_circle, it's blue-green... (really!)"]:
        known = [word if word in vocabulary() else UNKNOWN for word in tokens(text)]
        assert tokenizer.convert_ids_to_tokens(tokenizer(text).input_ids)[-len(known) - 1 :] == [*known, END]
    assert UNKNOWN not in {token for text in texts for token in tokenizer.tokenize(text)}
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL)) == [0, 1, 2, 3]


def test_a_linear_probe_reads_what_is_there_and_nothing_else() -> None:
    values = torch.arange(4).repeat(200)
    there = torch.nn.functional.one_hot(values, 6) + 0.1 * torch.randn(800, 6)
    assert linear_probe(there, values.tolist()) == 1.0
    assert linear_probe(torch.randn(800, 6), values.tolist()) < 0.4


def test_shipped_t5_tokens_know_their_object() -> None:
    """A linear map reads the colour of an object, and where it stands, off the token of its shape."""
    encoder = encoders.t5(str(SHIPPED / "t5"))
    rng = np.random.default_rng(5)
    scenes = [sample_scene(rng, "test", 2) for _ in range(1200)]
    texts = [caption(scene, rng, "short").text for scene in scenes]
    encoded, (ids, _) = encoder(texts), encoder.tokenize(texts)
    shapes = torch.tensor(encoder.tokenizer.convert_tokens_to_ids(list(SHAPES)))
    first = torch.isin(ids, shapes).int().argmax(1)
    states = encoded.tokens[torch.arange(len(texts)), first]
    mentioned = [next(word for word in tokens(text) if word in COLOURS) for text in texts]
    assert linear_probe(states, [list(COLOURS).index(colour) for colour in mentioned]) > 0.95
    slots = [
        [thing.colour for thing in scene.objects].index(colour) + (2 if scene.layout == "stacked" else 0)
        for scene, colour in zip(scenes, mentioned, strict=True)
        if len({thing.colour for thing in scene.objects}) == 2
    ]
    keep = torch.tensor([len({thing.colour for thing in scene.objects}) == 2 for scene in scenes])
    assert linear_probe(states[keep], slots) > 0.95


def test_shipped_records_meet_their_gates() -> None:
    words, clip = (json.loads((SHIPPED / name / "training.json").read_text()) for name in ("t5", "clip"))
    assert min(words["accuracy_short"].values()) >= 0.98
    assert min(words["accuracy_long"].values()) >= 0.9
    assert min(clip["text_to_picture"], clip["picture_to_text"]) >= 0.5


def test_shipped_clip_still_scores_what_was_recorded() -> None:
    recorded = json.loads((SHIPPED / "clip" / "training.json").read_text())
    again = clip_scores(SHIPPED / "clip", recorded["seed"])
    assert again == pytest.approx({name: recorded[name] for name in again}, abs=0.01)
