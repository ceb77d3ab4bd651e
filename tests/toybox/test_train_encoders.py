"""Training of the Toybox encoders: two steps of it, and what the shipped ones have learned."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from ediffi.cli import main
from ediffi.evaluation.datasets.toybox import COLOURS, SHAPES, caption, sample_scene, tokens, vocabulary
from ediffi.registry import encoders
from ediffi.toybox import clip, t5
from ediffi.toybox.clip import clip_scores, images_of, linear_probe, to_range, train_clip
from ediffi.toybox.encoder_training import (
    END,
    SPECIAL,
    UNKNOWN,
    EncoderBudget,
    add_unknown_words,
    device,
    draw_length,
    fit,
    saving,
    word_tokenizer,
)
from ediffi.toybox.t5 import CLASSES, COLOUR_NAMES, PLACES, labelled_batch, train_t5

TWO_STEPS = EncoderBudget(steps=2, batch_size=4, learning_rate=1e-3)
SHIPPED = Path(encoders.__file__).parents[2] / "weights" / "toybox" / "encoders"


@pytest.fixture
def _few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure what two steps have taught on few samples."""
    monkeypatch.setattr(t5, "accuracy", partial(t5.accuracy, count=16))
    monkeypatch.setattr(clip, "clip_scores", partial(clip_scores, count=16))


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


def test_only_unknown_words_are_added() -> None:
    rng = np.random.default_rng(0)
    counts = []
    for _ in range(300):
        words = add_unknown_words("a red circle", rng).split()
        counts.append(words.count(UNKNOWN))
        assert [word for word in words if word != UNKNOWN] == ["a", "red", "circle"]
    assert set(counts) == {0, 1, 2, 3}


def test_a_batch_has_captions_of_one_length() -> None:
    rng = np.random.default_rng(0)
    drawn = [draw_length(rng) for _ in range(1000)]
    assert 0.35 < drawn.count("long") / 1000 < 0.45


def test_the_classes_of_a_token_are_those_of_its_object() -> None:
    """The classes of a caption's words, put together, are the objects of its scene."""
    tokenizer = word_tokenizer(begin=False, max_length=113)
    batch, words, classes = labelled_batch(tokenizer, np.random.default_rng(0), 40, "short", "test")
    rng = np.random.default_rng(0)
    scenes = [sample_scene(rng, "test") for _ in range(40)]
    facts: list[set[tuple[str, str, int]]] = [set() for _ in scenes]
    for row, (sample, position) in enumerate(words.tolist()):
        colour, shape = COLOUR_NAMES[classes["colour"][row]], SHAPES[classes["shape"][row]]
        layout, index = PLACES[classes["place"][row]]
        assert layout == scenes[sample].layout
        assert tokenizer.convert_ids_to_tokens(int(batch["input_ids"][sample, position])) in (colour, shape)
        facts[sample].add((colour, shape, index))
    for scene, found in zip(scenes, facts, strict=True):
        assert found == {(thing.colour, thing.shape, index) for index, thing in enumerate(scene.objects)}


@pytest.mark.usefixtures("_few_samples")
def test_two_steps_of_t5_are_a_function_of_the_seed(tmp_path: Path) -> None:
    weights = []
    for seed in (1, 1, 2):
        record = train_t5(tmp_path / "t5", TWO_STEPS, seed)
        weights.append((tmp_path / "t5" / "model.safetensors").read_bytes())
    assert weights[0] == weights[1] != weights[2]
    assert record == json.loads((tmp_path / "t5" / "training.json").read_text())
    assert record["samples"] == 8
    assert record["accuracy_short"].keys() == CLASSES.keys()
    encoded = encoders.t5(str(tmp_path / "t5"))(["a red circle"])
    assert encoded.tokens.shape == (1, 4, 128)
    assert [path.name for path in tmp_path.iterdir()] == ["t5"]


@pytest.mark.usefixtures("_few_samples")
def test_two_steps_of_clip(tmp_path: Path) -> None:
    record = train_clip(tmp_path / "clip", TWO_STEPS, pool=20)
    assert record == json.loads((tmp_path / "clip" / "training.json").read_text())
    assert {"text_to_picture", "picture_to_text", "text_style", "picture_background"} <= record.keys()
    text, picture = (encoders.create(name, path=str(tmp_path / "clip")) for name in ("clip_text", "clip_image"))
    assert text(["a red circle"]).pooled.shape == picture(torch.zeros(1, 3, 32, 32)).pooled.shape == (1, 128)


def test_an_encoder_replaces_the_old_one_and_everyone_may_read_it(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "old").touch()
    with pytest.raises(ZeroDivisionError), saving(folder, {}):
        1 / 0  # noqa: B018
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "old"]
    with saving(folder, {"steps": 1}) as fresh:
        (fresh / "new").touch(0o600)
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert modes == {"new": 0o644, "training.json": 0o644}


def test_a_loss_that_is_not_finite_stops_training() -> None:
    model = torch.nn.Linear(1, 1)
    with pytest.raises(ValueError, match="loss of step 1 is nan"):
        fit(model, lambda: model.weight.sum() * float("nan"), TWO_STEPS, "nothing", bf16=False)


def test_fit_fits() -> None:
    model = torch.nn.Linear(3, 1)
    x = torch.randn(64, 3)
    y = x @ torch.tensor([[1.0], [2.0], [3.0]]) + 0.5
    record = fit(model, lambda: (model(x) - y).square().mean(), EncoderBudget(300, 64, 0.1), "line", bf16=False)
    assert record["loss"] < 1e-3
    assert record["samples"] == 300 * 64


@pytest.mark.parametrize("bad", [{"steps": 0}, {"batch_size": 1}, {"learning_rate": 0.0}])
def test_bad_budgets(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="allowed are"):
        EncoderBudget(**{"steps": 2, "batch_size": 8, "learning_rate": 1e-3, **bad})


def test_a_linear_probe_reads_what_is_there_and_nothing_else() -> None:
    values = torch.arange(4).repeat(200)
    there = torch.nn.functional.one_hot(values, 6) + 0.1 * torch.randn(800, 6)
    assert linear_probe(there, values.tolist()) == 1.0
    assert linear_probe(torch.randn(800, 6), values.tolist()) < 0.4


def test_images_become_minus_one_to_one() -> None:
    scenes = [sample_scene(np.random.default_rng(0))]
    images = images_of(scenes)
    ranged = to_range(images)
    assert ranged.shape == (1, 3, 64, 64)
    assert ranged.device.type == device()
    torch.testing.assert_close(((ranged + 1) * 127.5).permute(0, 2, 3, 1).cpu(), images.float())


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


def test_the_command_trains_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def trainer(folder: Path, budget: EncoderBudget, seed: int) -> dict[str, object]:
        return {"folder": folder.name, "steps": budget.steps, "seed": seed}

    monkeypatch.setattr(t5, "train_t5", trainer)
    monkeypatch.setattr(clip, "train_clip", trainer)
    assert main(["toybox", "encoders", str(tmp_path), "--seed", "3", "--t5-steps", "5"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert 't5 { "folder": "t5", "steps": 5, "seed": 3 }' in printed
    assert f'clip {{ "folder": "clip", "steps": {clip.BUDGET.steps}, "seed": 3 }}' in printed
