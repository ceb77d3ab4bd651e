"""Toybox: scenes, pictures and captions."""

import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import combinations, pairwise, product

import numpy as np
import pytest
from scipy import ndimage

from ediffi.evaluation.datasets.toybox import (
    BACKGROUNDS,
    COLOURS,
    LAYOUTS,
    SHAPES,
    SIZES,
    STYLES,
    Object,
    Scene,
    caption,
    held_out,
    phrases,
    prompts,
    render,
    sample_scene,
    tokens,
    vocabulary,
)
from ediffi.evaluation.datasets.toybox.caption import NAMEABLE
from ediffi.evaluation.datasets.toybox.render import draw
from ediffi.evaluation.datasets.toybox.scene import (
    EXTENTS,
    HELD_OUT_PAIRS,
    JITTER,
    MARGIN,
    _any_scene,
    layouts_of,
    radius,
    specification,
)


def draw_scenes(count: int, split: str = "train", seed: int = 0, num_objects: int | None = None) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [sample_scene(rng, split, num_objects) for _ in range(count)]


REFUSED = (ValueError, TypeError)
"""What is outside a Literal is a ValueError for the user, and before that a TypeError under the tests' type checker."""
ONE = Scene((Object("cross", "red", "large"),), "alone", "flat", "gray", ((0.0, 0.0),))


def silhouettes(scene: Scene, size: int) -> np.ndarray:
    """Where each object is: [k, size, size] coverage in [0, 1], in layout order."""
    centres = ((np.arange(size) + 0.5) / size).astype(np.float32)
    count = len(scene.objects)
    return np.stack([draw(placed, scene.style, count, centres, centres, size).silhouette for placed in scene.placed()])


# --- scenes ---------------------------------------------------------------------------------------------------------


def test_slots_of_a_layout_partition_without_overlap():
    for slots in LAYOUTS.values():
        for slot in slots:
            assert slot.half_width <= min(slot.x, 1 - slot.x)
            assert slot.half_height <= min(slot.y, 1 - slot.y)
        for one, other in combinations(slots, 2):
            apart_x = abs(one.x - other.x) >= one.half_width + other.half_width
            apart_y = abs(one.y - other.y) >= one.half_height + other.half_height
            assert apart_x or apart_y


def test_objects_stay_inside_their_slots_with_a_margin():
    for scene in draw_scenes(500) + draw_scenes(500, "test"):
        for thing, slot in zip(scene.placed(), scene.slots, strict=True):
            reach = EXTENTS[thing.object.shape] * thing.radius + MARGIN - 1e-9
            assert abs(thing.x - slot.x) + reach <= slot.half_width
            assert abs(thing.y - slot.y) + reach <= slot.half_height


def test_every_object_has_room_to_move():
    for slots, shape, size in product(LAYOUTS.values(), SHAPES, SIZES):
        reach = EXTENTS[shape] * radius(size, len(slots)) + MARGIN
        assert all(min(slot.half_width, slot.half_height) - reach > 0.01 for slot in slots)


def test_drawn_objects_touch_neither_each_other_nor_the_frame():
    for scene in draw_scenes(500, seed=1):
        masks = silhouettes(scene, 64) > 0
        frame = np.pad(np.zeros((62, 62), bool), 1, constant_values=True)
        assert not (masks & frame).any()
        for one, other in combinations(masks, 2):
            assert not (ndimage.binary_dilation(one) & other).any()


def test_train_and_test_are_disjoint():
    train, test = draw_scenes(500), draw_scenes(500, "test", seed=1)
    assert not any(map(held_out, train))
    assert all(map(held_out, test))
    assert not {specification(scene) for scene in train} & {specification(scene) for scene in test}


def test_held_out_pairs_are_never_trained_but_their_parts_are():
    trained = Counter((thing.shape, thing.colour) for scene in draw_scenes(500) for thing in scene.objects)
    assert set(trained) == set(product(SHAPES, COLOURS)) - HELD_OUT_PAIRS
    assert len(HELD_OUT_PAIRS) == 3


def has_held_out_pair(scene: Scene) -> bool:
    return any((thing.shape, thing.colour) in HELD_OUT_PAIRS for thing in scene.objects)


def test_one_specification_in_eight_is_held_out_besides_the_pairs():
    pairs = [pair for pair in product(SHAPES, COLOURS) if pair not in HELD_OUT_PAIRS]
    scenes = [
        Scene((Object(*pair, size),), "alone", style, background, ((0.0, 0.0),))
        for pair, size, style, background in product(pairs, SIZES, STYLES, BACKGROUNDS)
    ]
    assert np.mean([held_out(scene) for scene in scenes]) == pytest.approx(1 / 8, abs=0.02)
    for num_objects in (2, 3):
        rng = np.random.default_rng(0)
        scenes = [
            scene for scene in (_any_scene(rng, num_objects) for _ in range(1500)) if not has_held_out_pair(scene)
        ]
        assert np.mean([held_out(scene) for scene in scenes]) == pytest.approx(1 / 8, abs=0.03)


def test_holding_out_ignores_the_jitter():
    for scene in draw_scenes(50) + draw_scenes(50, "test"):
        assert held_out(replace(scene, offsets=((0.0, 0.0),) * len(scene.objects))) == held_out(scene)


# Half of the test scenes have a held-out pair, so the shapes and colours of these are frequent there.
@pytest.mark.parametrize(("split", "least", "most"), [("train", 0.75, 1.25), ("test", 0.6, 1.6)])
def test_every_attribute_is_balanced(split, least, most):
    scenes = draw_scenes(1500, split)
    things = [thing for scene in scenes for thing in scene.objects]
    for values, allowed in (
        ([scene.style for scene in scenes], STYLES),
        ([scene.background for scene in scenes], BACKGROUNDS),
        ([len(scene.objects) for scene in scenes], (1, 2, 3)),
        ([thing.shape for thing in things], SHAPES),
        ([thing.colour for thing in things], COLOURS),
        ([thing.size for thing in things], SIZES),
    ):
        share = Counter(values)
        assert set(share) == set(allowed)
        assert all(least < share[value] * len(allowed) / len(values) < most for value in allowed), share
    for count in (2, 3):
        share = Counter(scene.layout for scene in scenes if len(scene.objects) == count)
        assert all(0.4 < share[layout] / share.total() < 0.6 for layout in layouts_of(count))


def test_a_scene_is_a_function_of_its_generator():
    assert draw_scenes(20, seed=3) == draw_scenes(20, seed=3) != draw_scenes(20, seed=4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layout": "row"}, "layout is 'row'"),
        ({"style": "dotted"}, "style is 'dotted'"),
        ({"background": "black"}, "background is 'black'"),
        ({"layout": "beside"}, "2 slots"),
        ({"offsets": ((JITTER * 2, 0.0),)}, "offsets is"),
        ({"offsets": ((float("nan"), 0.0),)}, "offsets is"),
    ],
)
def test_a_wrong_scene_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(ONE, **change)


def test_wrong_objects_and_arguments_are_refused():
    with pytest.raises(ValueError, match=r"shape is 'star'.*'circle'"):
        Object("star", "red", "large")
    with pytest.raises(ValueError, match="no two of the same"):
        Scene(
            (Object("cross", "red", "large"), Object("cross", "red", "small")),
            "beside",
            "flat",
            "gray",
            ((0.0, 0.0),) * 2,
        )
    with pytest.raises(REFUSED, match="validation"):
        sample_scene(np.random.default_rng(0), "validation")
    with pytest.raises(ValueError, match="num_objects is 4"):
        sample_scene(np.random.default_rng(0), "train", 4)


# --- pictures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [8, 16, 32, 64, 128])
def test_a_small_picture_is_the_average_of_a_large_one(size):
    for scene in draw_scenes(40, seed=2):
        large = render(scene, 256).astype(float).reshape(size, 256 // size, size, 256 // size, 3).mean(axis=(1, 3))
        assert np.abs(large - render(scene, size)).mean() < 0.6


@pytest.mark.parametrize("size", [8, 9, 50, 100, 1024])
def test_any_size_is_drawn(size):
    picture = render(ONE, size)
    assert picture.shape == (size, size, 3)
    assert picture.dtype == np.uint8
    assert tuple(picture[0, 0]) == BACKGROUNDS["gray"]
    assert tuple(picture[size // 2, size // 2]) == COLOURS["red"]


@pytest.mark.parametrize("size", [7, 1025])
def test_a_size_out_of_range_is_refused(size):
    with pytest.raises(ValueError, match=f"size is {size}"):
        render(ONE, size)


@pytest.mark.parametrize("size", [64, 256])
def test_a_picture_is_background_exactly_where_no_silhouette_is(size):
    for scene in draw_scenes(30, seed=5):
        inside = silhouettes(scene, size).max(axis=0) > 0.05
        differs = (render(scene, size) != np.array(BACKGROUNDS[scene.background], np.uint8)).any(axis=2)
        outside = silhouettes(scene, size).max(axis=0) == 0
        assert not (differs & outside).any()
        assert (differs | ~inside).mean() > 0.999


def test_black_means_outlined_and_white_means_striped():
    for scene in draw_scenes(100, seed=6):
        picture = render(scene, 64)
        assert (picture.max(axis=2) == 0).any() == (scene.style == "outlined")
        assert (picture.min(axis=2) == 255).any() == (scene.style == "striped")


@pytest.mark.parametrize("num_objects", [1, 2])
def test_shapes_weigh_about_the_same_and_sizes_do_not(num_objects):
    areas = {}
    for shape, size in product(SHAPES, SIZES):
        others = (Object("circle", "blue", "small"),) * (num_objects - 1)
        layout = layouts_of(num_objects)[0]
        scene = Scene((Object(shape, "red", size), *others), layout, "flat", "gray", ((0.0, 0.0),) * num_objects)
        areas[shape, size] = silhouettes(scene, 128)[0].mean()
    for size in SIZES:
        assert max(areas[shape, size] for shape in SHAPES) < 1.5 * min(areas[shape, size] for shape in SHAPES)
    for shape in SHAPES:
        assert areas[shape, "large"] / areas[shape, "small"] == pytest.approx(2.25, rel=0.02)


@pytest.mark.parametrize(("layout", "period"), [("alone", 0.16 * 1.35), ("beside", 0.16)])
def test_stripes_are_half_white_and_wider_on_a_single_object(layout, period):
    objects = (Object("square", "red", "large"), Object("circle", "blue", "small"))[: len(LAYOUTS[layout])]
    scene = Scene(objects, layout, "striped", "gray", ((0.0, 0.0),) * len(objects))
    column = render(scene, 1024)[:, int(1024 * scene.placed()[0].x)]
    white, red = (column == 255).all(axis=1), (column == COLOURS["red"]).all(axis=1)
    starts = np.flatnonzero(np.diff(white.astype(int)) == 1)
    assert np.diff(starts) == pytest.approx(period * 1024, abs=1.5)
    assert white[starts[0] : starts[-1]].mean() == pytest.approx(0.5, abs=0.02)
    assert red[starts[0] : starts[-1]].mean() == pytest.approx(0.5, abs=0.02)


def test_the_outline_is_inside_and_of_its_thickness():
    scene = replace(ONE, objects=(Object("circle", "red", "large"),), style="outlined")
    row = render(scene, 1024)[512]
    black, red = (row == 0).all(axis=1).sum() / 1024, (row == COLOURS["red"]).all(axis=1).sum() / 1024
    assert black == pytest.approx(2 * 0.28 * radius("large", 1), abs=0.004)
    assert black + red == pytest.approx(2 * radius("large", 1), abs=0.006)


def test_the_radius_is_what_is_drawn():
    mask = silhouettes(replace(ONE, objects=(Object("circle", "red", "large"),)), 256)[0]
    assert mask.sum() / 256**2 == pytest.approx(np.pi * radius("large", 1) ** 2, rel=1e-3)


# --- captions -------------------------------------------------------------------------------------------------------

CAPTIONS = {length: prompts(11, 600, "train", length) for length in ("short", "long")}
BOTH = pytest.mark.parametrize("length", ["short", "long"])
WORDS_OF = {
    "style": {*STYLES, "outline", "stripes", "style"},
    "background": {*BACKGROUNDS, "grey", "background"},
    "size": {"small", "little", "large", "big"},
}


def test_the_vocabulary_is_closed_small_and_without_dead_words():
    words = vocabulary()
    assert list(words) == sorted(set(words))
    assert len(words) < 120
    assert {"one", "two", "three", ",", "."} <= set(words)
    pairs = CAPTIONS["short"] + CAPTIONS["long"]
    used = {token for _, told in pairs for token in tokens(told.text)}
    assert used == set(words)


@BOTH
def test_named_agrees_with_the_text(length):
    for _, told in CAPTIONS[length]:
        words = set(tokens(told.text))
        assert told.named == {"layout"} | {name for name, telling in WORDS_OF.items() if words & telling}, told


def test_a_caption_may_leave_out_where_things_stand():
    rng = np.random.default_rng(0)
    said = {word for told in phrases.PLACES.values() for word in told.split()} - {"in", "on", "at", "the"}
    said |= {"above", "below", "over", "under", "both"}
    orders = set()
    for scene in [scene for scene, _ in prompts(3, 60, "train") if len(scene.objects) > 1]:
        told = caption(scene, rng, "short", {**NAMEABLE, "layout": 0.0})
        words = tokens(told.text)
        assert "layout" not in told.named
        assert not set(words) & said, told.text
        assert len([word for word in words if word in SHAPES]) == len(scene.objects)
        orders.add(next(word for word in words if word in COLOURS) == scene.objects[0].colour)
        assert "layout" in caption(scene, rng, "long", {**NAMEABLE, "layout": 0.0}).named
    assert orders == {True, False}


@BOTH
def test_what_is_named_is_true_and_shape_and_colour_are_always_told(length):
    for scene, told in CAPTIONS[length]:
        words = tokens(told.text)
        assert set(words) & set(STYLES) <= {scene.style}
        assert set(words) & set(BACKGROUNDS) <= {scene.background}
        for attribute, allowed in (("shape", SHAPES), ("colour", COLOURS)):
            assert set(words) & set(allowed) == {getattr(thing, attribute) for thing in scene.objects}
        assert {f"{thing.colour} {thing.shape}" for thing in scene.objects} <= set(
            re.findall(r"\w+ \w+", _pairs(words))
        )


def _pairs(words: list[str]) -> str:
    return ", ".join(f"{one} {other}" for one, other in pairwise(words))


@BOTH
def test_each_part_is_named_as_often_as_it_should_be(length):
    for name, probability in {"style": 0.7, "background": 0.8, "size": 0.8}.items():
        assert np.mean([name in told.named for _, told in CAPTIONS[length]]) == pytest.approx(probability, abs=0.06)


def test_wordings_are_as_frequent_as_they_should_be():
    one = sum(tokens(told.text).count("one") for _, told in CAPTIONS["short"])
    assert one / sum(len(scene.objects) for scene, _ in CAPTIONS["short"]) == pytest.approx(0.2, abs=0.04)
    opening = [told.text.startswith(phrases.COUNT_SENTENCES[len(scene.objects)]) for scene, told in CAPTIONS["long"]]
    assert np.mean(opening) == pytest.approx(0.74, abs=0.05)  # 0.7, and those of any order that begin so by chance


@BOTH
def test_captions_are_clean_text(length):
    for _, told in CAPTIONS[length]:
        assert told.text == told.text.lower().strip()
        assert not re.search(r"  | [,.]|[{}]|\ba [aeiou]|\ban [^aeiou]", told.text), told.text


def test_lengths():
    counts = {
        length: [sum(token not in ",." for token in tokens(told.text)) for _, told in pairs]
        for length, pairs in CAPTIONS.items()
    }
    assert 3 <= min(counts["short"]) <= max(counts["short"]) <= 40
    assert 35 <= min(counts["long"]) <= max(counts["long"]) <= 65
    with pytest.raises(REFUSED, match="medium"):
        caption(ONE, np.random.default_rng(0), "medium")


RELATIONS = {
    r"<(\d)>(?: is)? (?:to the )?left of <(\d)>": lambda a, b: a.x < b.x - 0.2,
    r"<(\d)>(?: is)? (?:to the )?right of <(\d)>": lambda a, b: a.x > b.x + 0.2,
    r"<(\d)>(?: is)? (?:above|over) <(\d)>": lambda a, b: a.y < b.y - 0.2,
    r"<(\d)>(?: is)? (?:below|under) <(\d)>": lambda a, b: a.y > b.y + 0.2,
    r"<(\d)> .*<\d>.*, both above <(\d)>": lambda a, b: a.y < b.y - 0.2,
    r"<\d> .*<(\d)>.*, both above <(\d)>": lambda a, b: a.y < b.y - 0.2,
    r"<(\d)> .*<\d>.*, both below <(\d)>": lambda a, b: a.y > b.y + 0.2,
    r"<\d> .*<(\d)>.*, both below <(\d)>": lambda a, b: a.y > b.y + 0.2,
    r"<(\d)> (?:below) both <(\d)>": lambda a, b: a.y > b.y + 0.2,
    r"<(\d)> (?:above) both <(\d)>": lambda a, b: a.y < b.y - 0.2,
}
WHERE = r"(?:on|at|in) the (middle|top left|top right|bottom left|bottom right|left|right|top|bottom)\b(?! of)"
PLACES = {
    "middle": lambda a: abs(a.x - 0.5) < 0.1 and abs(a.y - 0.5) < 0.1,
    "left": lambda a: a.x < 0.4,
    "right": lambda a: a.x > 0.6,
    "top": lambda a: a.y < 0.4,
    "bottom": lambda a: a.y > 0.6,
}


def _claims(text: str, scene: Scene) -> list[bool]:
    """Whether each relation and each place that a caption tells is so, by a reading of its own."""
    placed = scene.placed()
    for index, thing in enumerate(scene.objects):
        text = re.sub(rf"(?:the|an?|one) (?:\w+ )?{thing.colour} {thing.shape}", f"<{index}>", text)
    claims = [
        holds(placed[int(one)], placed[int(other)])
        for pattern, holds in RELATIONS.items()
        for one, other in re.findall(pattern, text)
    ]
    told = [(where, index) for index, where in re.findall(rf"<(\d)>(?: is)? {WHERE}", text)]
    told += re.findall(rf"{WHERE} (?:there )?is <(\d)>", text)
    return claims + [PLACES[word](placed[int(index)]) for where, index in told for word in where.split()]


@BOTH
def test_relations_and_places_are_true_and_told(length):
    for scene, told in CAPTIONS[length]:
        claims = _claims(told.text, scene)
        assert all(claims), told.text
        assert len(claims) >= len(scene.objects) - 1, told.text


def test_a_false_relation_would_be_noticed():
    for scene, told in CAPTIONS["short"][1::3]:
        turned = replace(scene, objects=scene.objects[::-1])
        assert not all(_claims(told.text, turned)), told.text


def test_prompts_are_pure_and_cycle_the_number_of_objects():
    long, short = prompts(5, 12), prompts(5, 6)
    assert long[:6] == short
    assert long != prompts(6, 12)
    assert [len(scene.objects) for scene, _ in long] == [1, 2, 3] * 4
    assert all(held_out(scene) for scene, _ in long)
    assert not any(held_out(scene) for scene, _ in prompts(5, 12, "train"))
    with pytest.raises(ValueError, match="count is -1"):
        prompts(5, -1)


def test_prompts_do_not_depend_on_the_process():
    code = "from ediffi.evaluation.datasets.toybox import prompts; print([told.text for _, told in prompts(5, 6)])"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, check=True, capture_output=True, text=True
        ).stdout
        for seed in ("1", "2")
    }
    assert outputs == {f"{[told.text for _, told in prompts(5, 6)]}\n"}
