"""The oracle: it reads the renderer's own pictures, blurred ones too, and is not fooled by wrong ones."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy import ndimage

from ediffi.evaluation.datasets.toybox import (
    BACKGROUNDS,
    COLOURS,
    SHAPES,
    STYLES,
    Caption,
    Object,
    Scene,
    Score,
    accuracy,
    prompts,
    read,
    render,
    sample_scene,
    score,
)
from ediffi.evaluation.datasets.toybox.caption import NAMEABLE

FULL = frozenset(NAMEABLE)
SCENES = [scene for scene, _ in prompts(7, 100)]
FEW = [scene for scene, _ in prompts(8, 24)]


def judged(scene: Scene, image: np.ndarray) -> Score:
    return score(scene, Caption("", FULL), read(image))


def wrong(one: Score) -> set[str]:
    return {name for name in Score.__dataclass_fields__ if getattr(one, name) is False}


def blurred(picture: np.ndarray, blur: float, noise: float, rng: np.random.Generator) -> np.ndarray:
    soft = ndimage.gaussian_filter(picture.astype(float), (blur, blur, 0)) + rng.normal(0, noise, picture.shape)
    return np.clip(np.rint(soft), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("size", "blur", "noise", "least"),
    [(64, 0, 0, 0.99), (256, 0, 0, 0.99), (100, 0, 0, 0.99), (64, 0.7, 5, 0.99), (32, 0, 0, 0.98), (16, 0, 0, 0.88)],
)
def test_rendered_images_are_read(size, blur, noise, least):
    rng = np.random.default_rng(0)
    images = [blurred(render(scene, size), blur, noise, rng) for scene in SCENES]
    scores = [judged(scene, image) for scene, image in zip(SCENES, images, strict=True)]
    assert accuracy(scores)["everything"] >= least, accuracy(scores)


@pytest.mark.parametrize("style", ["flat", "outlined"])
def test_neighbours_that_blur_into_each_other_are_parted(style):
    close = ((0.022, 0.0), (-0.022, 0.0))
    scene = Scene((Object("circle", "red", "large"), Object("circle", "blue", "large")), "beside", style, "sky", close)
    rng = np.random.default_rng(0)
    assert judged(scene, blurred(render(scene, 64), 1.3, 5, rng)).everything


def test_a_reading_is_the_scene():
    for scene in FEW:
        reading = read(render(scene, 64))
        assert (reading.layout, reading.style, reading.background) == (scene.layout, scene.style, scene.background)
        for seen, thing in zip(reading.objects, scene.placed(), strict=True):
            assert Object(seen.shape, seen.colour, seen.size) == thing.object
            assert abs(seen.x - thing.x) < 0.02
            assert abs(seen.y - thing.y) < 0.02


def other(value: str, allowed: object) -> str:
    names = list(allowed)
    return names[(names.index(value) + 1) % len(names)]


def with_object(scene: Scene, **change: str) -> Scene | None:
    """The scene with its last object changed, or None where that is no scene."""
    try:
        return replace(scene, objects=(*scene.objects[:-1], replace(scene.objects[-1], **change)))
    except ValueError:
        return None


CHANGES = {
    "shape": lambda scene: with_object(scene, shape=other(scene.objects[-1].shape, SHAPES)),
    "colour": lambda scene: with_object(scene, colour=other(scene.objects[-1].colour, COLOURS)),
    "size": lambda scene: with_object(scene, size=other(scene.objects[-1].size, ("small", "large"))),
    "style": lambda scene: replace(scene, style=other(scene.style, STYLES)),
    "background": lambda scene: replace(scene, background=other(scene.background, BACKGROUNDS)),
}


@pytest.mark.parametrize("field", CHANGES)
def test_one_wrong_attribute_is_the_one_that_is_marked_wrong(field):
    judgements = [judged(scene, render(changed, 64)) for scene in FEW if (changed := CHANGES[field](scene))]
    assert len(judgements) >= len(FEW) - 4
    assert all(wrong(judgement) == {field, "everything"} for judgement in judgements)


@pytest.mark.parametrize(
    ("layout", "other_layout"), [("beside", "stacked"), ("two above one", "one above two")], ids=["two", "three"]
)
def test_a_wrong_layout_is_wrong(layout, other_layout):
    for scene in FEW:
        if scene.layout == layout:
            assert {"layout", "everything"} <= wrong(judged(scene, render(replace(scene, layout=other_layout), 64)))


def test_objects_in_each_others_places_are_wrong():
    for scene in FEW:
        first, last = scene.objects[0], scene.objects[-1]
        if first.shape != last.shape and first.colour != last.colour:
            turned = replace(scene, objects=scene.objects[::-1], offsets=((0.0, 0.0),) * len(scene.objects))
            assert {"shape", "colour", "everything"} <= wrong(judged(scene, render(turned, 64)))


@pytest.mark.parametrize("shown", [1, 2, 3])
def test_a_wrong_count_is_wrong_and_nothing_of_the_objects_is_right(shown):
    rng = np.random.default_rng(0)
    for scene in FEW:
        if len(scene.objects) != shown:
            picture = render(replace(sample_scene(rng, "train", shown), background=scene.background), 64)
            objects = {"count", "layout", "shape", "colour", "size", "style", "everything"}
            assert wrong(judged(scene, picture)) == objects


def test_what_the_caption_leaves_out_is_free():
    for scene in FEW:
        changed = replace(scene, style=other(scene.style, STYLES), background=other(scene.background, BACKGROUNDS))
        one = score(scene, Caption("", frozenset()), read(render(changed, 64)))
        assert (one.style, one.background, one.size) == (None, None, None)
        assert one.everything


def test_where_things_stand_is_free_if_the_caption_does_not_say():
    for scene in FEW:
        turned = replace(scene, objects=scene.objects[::-1], offsets=((0.0, 0.0),) * len(scene.objects))
        one = score(scene, Caption("", FULL - {"layout"}), read(render(turned, 64)))
        assert one.layout is None
        assert one.everything
        if changed := CHANGES["shape"](turned):
            again = score(scene, Caption("", FULL - {"layout"}), read(render(changed, 64)))
            assert wrong(again) == {"shape", "everything"}


def test_a_style_is_right_only_if_all_objects_have_it():
    for scene in FEW:
        if scene.layout == "beside":
            mixed = render(scene, 64)
            mixed[:, 32:] = render(replace(scene, style=other(scene.style, STYLES)), 64)[:, 32:]
            assert read(mixed).style is None
            assert wrong(judged(scene, mixed)) == {"style", "everything"}


def test_specks_are_ignored():
    for scene in FEW:
        picture = render(scene, 64)
        picture[:3, :3] = 0
        picture[61:, 2:4] = 255
        assert judged(scene, picture).everything


def drawn(*shapes: tuple[str, tuple[float, ...], tuple[int, int, int]]) -> np.ndarray:
    picture = Image.new("RGB", (256, 256), BACKGROUNDS["gray"])
    for kind, place, fill in shapes:
        getattr(ImageDraw.Draw(picture), kind)(list(place), fill=fill)
    return np.array(picture)


RED = COLOURS["red"]


def test_a_circle_by_another_hand_is_read():
    (seen,) = read(drawn(("ellipse", (56, 56, 200, 200), RED))).objects
    assert (seen.shape, seen.colour, seen.size, seen.style) == ("circle", "red", "large", "flat")


@pytest.mark.parametrize(
    "picture",
    [
        drawn(("ellipse", (72, 72, 184, 184), (255, 255, 255))),
        drawn(("ellipse", (72, 72, 184, 184), (20, 200, 210))),
        drawn(("ellipse", (72, 100, 184, 156), RED)),
        drawn(("polygon", (72, 72, 184, 72, 128, 184), RED)),
        drawn(("ellipse", (72, 72, 184, 184), RED), ("rectangle", (128, 72, 184, 184), COLOURS["blue"])),
    ],
    ids=["white", "cyan", "flattened", "upside down", "two-coloured"],
)
def test_what_is_no_toybox_object_is_seen_as_unknown(picture):
    (seen,) = read(picture).objects
    assert (seen.shape, seen.colour, seen.size, seen.style) == (None,) * 4


def test_a_faint_blob_counts_as_an_object():
    reading = read(drawn(("ellipse", (20, 70, 120, 170), RED), ("ellipse", (150, 70, 236, 178), (170, 150, 170))))
    assert [seen.shape for seen in reading.objects] == ["circle", None]


def test_empty_full_and_foreign_pictures():
    blank = read(np.full((64, 64, 3), BACKGROUNDS["mint"], np.uint8))
    assert (blank.objects, blank.layout, blank.style, blank.background) == ((), None, None, "mint")
    assert read(np.zeros((64, 64, 3), np.uint8)).background is None
    four = read(drawn(*(("ellipse", (x, y, x + 80, y + 80), RED) for x in (20, 150) for y in (20, 150))))
    assert len(four.objects) == 4
    assert four.layout is None
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert not any(judged(scene, noise).everything for scene in FEW)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((64, 64, 3), np.float32),
        np.zeros((3, 64, 64), np.uint8),
        np.zeros((64, 32, 3), np.uint8),
        np.zeros((15, 15, 3), np.uint8),
        np.zeros((64, 64), np.uint8),
    ],
)
def test_a_picture_of_another_kind_is_refused(image):
    with pytest.raises((ValueError, TypeError), match="uint8"):  # TypeError from the tests' type checker
        read(image)


def test_accuracy_averages_over_what_is_named():
    right = Score(True, True, True, True, True, None, True, True)
    bad = Score(None, True, True, False, True, None, False, False)
    result = accuracy([right, bad])
    assert np.isnan(result.pop("size"))
    expected = {"background": 1, "count": 1, "layout": 1, "shape": 0.5, "colour": 1, "style": 0.5, "everything": 0.5}
    assert result == expected
