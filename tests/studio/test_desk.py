"""The desk paints orders with the shipped model: the picture of the cascade itself, one visitor after the other."""

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ediffi.io.images import open_image
from ediffi.studio.canvas import PALETTE, Brush, Layout
from ediffi.studio.desk import Desk
from ediffi.studio.order import Order, order_of
from ediffi.studio.run import Event, Finished, Step, Stopped, Waiting
from ediffi.studio.words import WHEN, Words
from tests.studio.conftest import PROMPT

Draw = Callable[..., Layout]


def result(events: Any) -> Any:
    (*_, last) = events
    assert isinstance(last, Finished)
    return last.result


def pixels(desk: Desk, name: str) -> np.ndarray[Any, Any]:
    return np.asarray(open_image(desk.shelf.path(name), exif=True))


def test_the_picture_is_the_cascade_s_own(desk: Desk, order: Order) -> None:
    names = result(desk.paint("a", dataclasses.replace(order, num_images=2)))
    expected = desk.cascade(PROMPT, seed=5, num_images_per_prompt=2, num_inference_steps=[3, 2, 1]).images
    assert [np.array_equal(pixels(desk, name), image) for name, image in zip(names, expected, strict=True)] == [
        True
    ] * 2
    settings = desk.shelf.entry(names[1]).settings
    assert (settings["seed"], settings["index"], settings["prompt"]) == (5, 1, PROMPT)


def test_the_previews_come_from_each_stage(desk: Desk, order: Order) -> None:
    steps = [event for event in desk.paint("a", order) if isinstance(event, Step)]
    sides = {step.stage: step.images[0].size for step in steps}
    assert sides == {"base": (16, 16), "sr64": (64, 64), "sr256": (256, 256)}
    assert [(step.stage, step.step) for step in steps if step.step == step.num_steps] == [
        ("base", 3),
        ("sr64", 2),
        ("sr256", 1),
    ]


def test_again_is_the_same_picture(desk: Desk, order: Order, drawn: Draw) -> None:
    style = desk.shelf.keep_style(Image.effect_noise((64, 64), 90).convert("RGB"))
    layout = drawn({"red circle": (0, 20, 25, 60), "blue square": (35, 5, 60, 30)})
    full = dataclasses.replace(order, layout=layout, style=style, style_scale=1.5, negative_prompt="a green cross")
    (first,) = result(desk.paint("a", full))
    kept = order_of(desk.shelf.entry(first).settings, desk.cascade)
    assert kept == full
    (second,) = result(desk.paint("a", kept))
    assert np.array_equal(pixels(desk, first), pixels(desk, second))
    (plain,) = result(desk.paint("a", order))
    assert not np.array_equal(pixels(desk, first), pixels(desk, plain))


def test_two_visitors_each_get_their_own_picture(desk: Desk, order: Order) -> None:
    orders = {"a": order, "b": dataclasses.replace(order, prompt="a green cross", seed=8)}
    events: dict[str, list[Event]] = {}
    first = desk.paint("a", orders["a"])
    events["a"] = [next(first)]
    thread = threading.Thread(target=lambda: events.update(b=list(desk.paint("b", orders["b"]))))
    thread.start()
    events["a"] += list(first)
    thread.join(30)
    for visitor, told in events.items():
        (name,) = result(told)
        assert desk.shelf.entry(name).settings["prompt"] == orders[visitor].prompt
    assert not any(isinstance(event, Waiting) for event in events["a"])


def test_stopping_touches_only_the_visitor_s_own_run(desk: Desk, order: Order) -> None:
    events = desk.paint("a", dataclasses.replace(order, num_inference_steps=(500, 2, 1)))
    next(events)
    desk.stop("b")
    assert isinstance(next(events), Step)
    desk.stop("a")
    with pytest.raises(Stopped):
        list(events)
    assert desk.shelf.entries() == []
    assert result(desk.paint("b", order))
    assert desk._runs == {}


def test_closing_brings_the_model_to_rest(desk: Desk, order: Order) -> None:
    long = dataclasses.replace(order, num_inference_steps=(500, 2, 1))
    first, second = desk.paint("a", long), desk.paint("b", long)
    assert isinstance(next(first), Step)
    assert next(second) == Waiting(1)
    thread = threading.Thread(target=lambda: [None for _ in _until_stopped(second)])
    thread.start()
    desk.close()
    thread.join(5)
    assert desk.line.empty(0)
    with pytest.raises(Stopped):
        list(first)


def _until_stopped(events: Iterator[Event]) -> Iterator[Event]:
    with contextlib.suppress(Stopped):
        yield from events


def test_a_wrong_order_never_reaches_the_line(desk: Desk, order: Order) -> None:
    with pytest.raises(ValueError, match="the prompt is empty"):
        next(desk.paint("a", dataclasses.replace(order, prompt="")))
    with pytest.raises(FileNotFoundError):
        next(desk.paint("a", dataclasses.replace(order, style="0" * 16)))
    assert result(desk.paint("a", order))


def test_what_has_no_effect_is_said(desk: Desk, order: Order, drawn: Draw) -> None:
    assert desk.notices(order) == []
    brushes = (*drawn({"red circle": (0, 0, 9, 9)}).brushes, Brush("blue square", PALETTE[1]))
    layout = Layout(brushes, drawn({"red circle": (0, 0, 9, 9)}).image)
    notices = desk.notices(dataclasses.replace(order, prompt="a fluffy " + PROMPT, layout=layout))
    assert notices[0].startswith("ignored, not in the vocabulary of toybox: fluffy")
    assert notices[-1] == "nothing is painted for 'blue square'"
    long = desk.notices(dataclasses.replace(order, prompt=", ".join([PROMPT] * 20)))
    assert any(notice.startswith("too long for ") for notice in long)


# Where the words went


def test_the_words_of_a_picture_are_watched(desk: Desk, order: Order, drawn: Draw) -> None:
    layout = drawn({"red circle": (0, 0, 20, 63), "blue square": (44, 0, 63, 63)})
    (name,) = result(desk.paint("a", dataclasses.replace(order, layout=layout, paint_weight=5.0)))
    words = result(desk.words("a", name))
    assert isinstance(words, Words)
    assert [word.text for word in words.words] == list(dict.fromkeys(PROMPT.split()))
    assert all(len(word.tiles) == len(WHEN) for word in words.words)
    assert 0 < sum(word.share for word in words.words) + words.null <= 1
    heat = {word.text: np.asarray(word.tiles[1].convert("L"), float) for word in words.words}
    left, right = (heat["circle"] - heat["square"])[:, :30], (heat["circle"] - heat["square"])[:, -30:]
    assert left.mean() > 0 > right.mean()  # early, each is looked for where it was painted
    assert words.page().count("<figure>") == len(words.words)


def test_watching_samples_the_very_picture(desk: Desk, order: Order, drawn: Draw) -> None:
    layout = drawn({"red circle": (0, 20, 25, 60)})
    full = dataclasses.replace(order, layout=layout, num_images=2, negative_prompt="a green cross")
    events = list(desk.paint("a", full))
    base = [event for event in events if isinstance(event, Step) and event.stage == "base"][-1].images[1]
    watched = list(desk.words("a", result(events)[1]))
    seen = [event for event in watched if isinstance(event, Step)][-1].images[0]
    assert np.abs(np.asarray(base, int) - np.asarray(seen, int)).max() <= 1


def test_pictures_that_cannot_be_watched_are_named(desk: Desk) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        next(desk.words("a", "gone.png"))
    settings = {"model": "other", "prompt": "a cat", "seed": 0}
    (other,) = desk.shelf.add([Image.new("RGB", (8, 8))], settings)
    with pytest.raises(ValueError, match="was painted by 'other'; this page holds 'toybox'"):
        next(desk.words("a", other))
    (edited,) = desk.shelf.add([Image.new("RGB", (8, 8))], {**settings, "model": "toybox", "edit": {}})
    with pytest.raises(ValueError, match="does not hold its own edit"):
        next(desk.words("a", edited))
