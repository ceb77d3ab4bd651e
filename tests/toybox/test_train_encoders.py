"""Training of the Toybox encoders: two steps of it, and what the shipped ones have learned."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ediffi.toybox import encoder_data, fitting
from ediffi.toybox import encoders as training
from ediffi.toybox.encoder_data import END, SPECIAL, UNKNOWN, strew, t5_pairs, word_tokenizer
from ediffi.toybox.encoders import clip_scores, probe, train_clip, train_t5
from ediffi.toybox.fitting import Budget, fit, replacing
from evaluation.datasets.toybox import COLOURS, SHAPES, caption, sample_scene, tokens, vocabulary
from registry import encoders

TWO_STEPS = Budget(steps=2, batch_size=8, learning_rate=1e-3)
SHIPPED = Path(encoders.__file__).parents[2] / "ediffi" / "weights" / "toybox" / "encoders"


def test_the_tokenizer_splits_as_toybox_does() -> None:
    tokenizer = word_tokenizer(begin=False, max_length=113)
    rng = np.random.default_rng(0)
    texts = [caption(sample_scene(rng), rng, length).text for length in ("short", "long") for _ in range(50)]
    for text in [*texts, "A Red_circle, it's blue-green... (really!)"]:
        known = [word if word in vocabulary() else UNKNOWN for word in tokens(text)]
        assert tokenizer.convert_ids_to_tokens(tokenizer(text).input_ids) == [*known, END]
    assert UNKNOWN not in {token for text in texts for token in tokenizer.tokenize(text)}


def test_special_tokens_have_the_first_ids() -> None:
    tokenizer = word_tokenizer(begin=True, max_length=77)
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL)) == [0, 1, 2, 3]
    assert tokenizer("red").input_ids == [3, tokenizer.convert_tokens_to_ids("red"), 1]
    assert tokenizer.pad_token_id == 0


def test_strewing_only_adds_unknown_words() -> None:
    rng = np.random.default_rng(0)
    counts = []
    for _ in range(300):
        words = strew("a red circle", rng).split()
        counts.append(words.count(UNKNOWN))
        assert [word for word in words if word != UNKNOWN] == ["a", "red", "circle"]
    assert set(counts) == {0, 1, 2, 3}


def test_targets_state_what_the_caption_states() -> None:
    for text, target in t5_pairs(np.random.default_rng(0), 200, "short", "test"):
        assert UNKNOWN not in text
        said, wanted = (
            tokens(text.replace("little", "small").replace("big", "large").replace("grey", "gray")),
            tokens(target),
        )
        for word in training.ATTRIBUTES:
            assert said.count(word) == wanted.count(word)


def test_two_steps_of_t5(tmp_path: Path) -> None:
    record = train_t5(tmp_path / "t5", TWO_STEPS)
    assert record == json.loads((tmp_path / "t5" / "training.json").read_text())
    assert record["samples"] == 16
    assert 0 <= record["accuracy_short"] <= 1
    encoded = encoders.t5(str(tmp_path / "t5"))(["a red circle"])
    assert encoded.tokens.shape == (1, 4, 128)
    assert [path.name for path in tmp_path.iterdir()] == ["t5"]


def test_two_steps_of_clip(tmp_path: Path) -> None:
    record = train_clip(tmp_path / "clip", TWO_STEPS, pool=20)
    assert record == json.loads((tmp_path / "clip" / "training.json").read_text())
    assert {"text_to_picture", "picture_to_text", "text_style", "picture_background"} <= record.keys()
    text, picture = (encoders.create(name, path=str(tmp_path / "clip")) for name in ("clip_text", "clip_image"))
    assert text(["a red circle"]).pooled.shape == picture(torch.zeros(1, 3, 32, 32)).pooled.shape == (1, 128)


def test_training_is_a_function_of_the_seed(tmp_path: Path) -> None:
    weights = []
    for seed in (1, 1, 2):
        train_t5(tmp_path / "t5", TWO_STEPS, seed)
        weights.append((tmp_path / "t5" / "model.safetensors").read_bytes())
    assert weights[0] == weights[1] != weights[2]


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "old").touch()
    with pytest.raises(RuntimeError, match="half way"), replacing(folder) as fresh:
        (fresh / "new").touch()
        raise RuntimeError("half way")
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "old"]
    with replacing(folder) as fresh:
        (fresh / "new").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "new"]


def test_a_loss_that_is_not_finite_stops_training() -> None:
    model = torch.nn.Linear(1, 1)
    with pytest.raises(ValueError, match="loss of step 1 is nan"):
        fit(model, lambda: model.weight.sum() * float("nan"), TWO_STEPS, "nothing", bf16=False)


def test_fit_fits() -> None:
    model = torch.nn.Linear(3, 1)
    x = torch.randn(64, 3)
    y = x @ torch.tensor([[1.0], [2.0], [3.0]]) + 0.5
    record = fit(model, lambda: (model(x) - y).square().mean(), Budget(300, 64, 0.1), "line", bf16=False)
    assert record["loss"] < 1e-3
    assert record["samples"] == 300 * 64


@pytest.mark.parametrize("bad", [{"steps": 0}, {"batch_size": 1}, {"learning_rate": 0.0}])
def test_bad_budgets(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="are allowed"):
        Budget(**{"steps": 2, "batch_size": 8, "learning_rate": 1e-3, **bad})


def test_a_probe_reads_what_is_there_and_nothing_else() -> None:
    values = torch.arange(4).repeat(200)
    there = torch.nn.functional.one_hot(values, 6) + 0.1 * torch.randn(800, 6)
    assert probe(there, values.tolist()) == 1.0
    assert probe(torch.randn(800, 6), values.tolist()) < 0.4


def test_pictures_become_minus_one_to_one() -> None:
    scenes = [sample_scene(np.random.default_rng(0))]
    pictures = encoder_data.pictures_of(scenes)
    ranged = encoder_data.to_range(pictures)
    assert ranged.shape == (1, 3, 64, 64)
    assert ranged.device.type == fitting.device()
    torch.testing.assert_close(((ranged + 1) * 127.5).permute(0, 2, 3, 1).cpu(), pictures.float())


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
    mentioned = [[word for word in tokens(text) if word in COLOURS][0] for text in texts]
    assert probe(states, [list(COLOURS).index(colour) for colour in mentioned]) > 0.95
    slots = [
        [thing.colour for thing in scene.objects].index(colour) + (2 if scene.layout == "stacked" else 0)
        for scene, colour in zip(scenes, mentioned, strict=True)
        if len({thing.colour for thing in scene.objects}) == 2
    ]
    keep = torch.tensor([len({thing.colour for thing in scene.objects}) == 2 for scene in scenes])
    assert probe(states[keep], slots) > 0.95


def test_shipped_records_meet_their_gates() -> None:
    t5, clip = (json.loads((SHIPPED / name / "training.json").read_text()) for name in ("t5", "clip"))
    assert min(t5["accuracy_short"], t5["accuracy_long"]) >= 0.98
    assert min(clip["text_to_picture"], clip["picture_to_text"]) >= 0.5


def test_shipped_clip_still_scores_what_was_recorded() -> None:
    recorded = json.loads((SHIPPED / "clip" / "training.json").read_text())
    again = clip_scores(SHIPPED / "clip", recorded["seed"])
    assert again == pytest.approx({name: recorded[name] for name in again}, abs=0.01)
