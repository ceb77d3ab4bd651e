"""The templates of Toybox captions; every word a caption can have stands in this file.

`{a}` `{b}` `{c}` are the objects in layout order (noun phrases with an article), `{x}` the caption so far, `{style}`
`{background}` `{size}` `{colour}` `{shape}` one word each, `{where}` the place of an object; the article `{an}` agrees
with the word that follows it. The vocabulary is collected from these tables, so it is always complete.
"""

from typing import Final

SIZE_WORDS: Final[dict[str, tuple[str, ...]]] = {"small": ("small", "little"), "large": ("large", "big")}
BACKGROUND_WORDS: Final = {"gray": ("gray", "grey"), "pink": ("pink",), "mint": ("mint",), "sky": ("sky",)}

NOUN_PHRASES: Final = ("{an} {size} {colour} {shape}", "one {size} {colour} {shape}")
"""An object; the first is four times as frequent."""

RELATIONS: Final[dict[str, tuple[str, ...]]] = {
    "alone": ("{a}", "{a} in the middle", "{a} alone", "only {a}"),
    "beside": (
        "{a} left of {b}",
        "{a} to the left of {b}",
        "{b} right of {a}",
        "{b} to the right of {a}",
        "{a} on the left and {b} on the right",
        "{b} on the right and {a} on the left",
    ),
    "stacked": (
        "{a} above {b}",
        "{a} over {b}",
        "{b} below {a}",
        "{b} under {a}",
        "{a} at the top and {b} at the bottom",
        "{b} at the bottom and {a} at the top",
    ),
    "two above one": (
        "{a} left of {b}, both above {c}",
        "{b} right of {a}, both above {c}",
        "{c} below both {a} on the left and {b} on the right",
        "{a} on the left and {b} on the right, both above {c}",
        "{a} at the top left, {b} at the top right and {c} at the bottom",
    ),
    "one above two": (
        "{b} left of {c}, both below {a}",
        "{c} right of {b}, both below {a}",
        "{a} above both {b} on the left and {c} on the right",
        "{b} on the left and {c} on the right, both below {a}",
        "{a} at the top, {b} at the bottom left and {c} at the bottom right",
    ),
}
UNPLACED: Final[dict[int, tuple[str, ...]]] = {
    2: ("{a} and {b}", "{a}, {b}"),
    3: ("{a}, {b} and {c}", "{a} and {b} and {c}"),
}
"""Used instead of a relation when the caption does not name the layout; the objects come in any order."""
STYLED: Final = (
    "{x}, {style}",
    "{x}, in {style} style",
    "{x}, drawn in {style} style",
    "{an} {style} picture of {x}",
    "{an} {style} drawing of {x}",
)
"""Wrapped around the relation when the style is named; the last two are applied before the background."""
ON_BACKGROUND: Final = (
    "{x} on {an} {background} background",
    "{x}, {background} background",
    "on {an} {background} background, {x}",
)

COUNT_SENTENCES: Final[dict[int, tuple[str, ...]]] = {
    1: ("the picture has one object.", "there is one object in the picture.", "the picture shows only one shape."),
    2: ("the picture has two objects.", "there are two objects in the picture.", "the picture shows two shapes."),
    3: ("the picture has three objects.", "there are three objects in the picture.", "the picture shows three shapes."),
}
PLACES: Final[dict[str, str]] = {"middle": "in the middle", "left": "on the left", "right": "on the right"} | {
    place: f"at the {place}" for place in ("top", "bottom", "top left", "top right", "bottom left", "bottom right")
}
PLACE_SENTENCES: Final = ("{where} is {x}.", "{where} there is {x}.", "the object {where} is {x}.", "{x} is {where}.")
BACKGROUND_SENTENCES: Final = (
    "the background is {background}.",
    "everything is on {an} {background} background.",
    "the picture has {an} {background} background.",
)
STYLE_SENTENCES: Final[dict[str, tuple[str, ...]]] = {
    style: (f"every object is drawn in {style} style.", f"the style is {style}.", f"every object is {look}.")
    for style, look in {
        "flat": "flat, of one plain colour",
        "outlined": "drawn with a thick black outline",
        "striped": "drawn with white stripes",
    }.items()
}
RELATION_SENTENCES: Final[dict[str, tuple[str, ...]]] = {
    "alone": (),
    "beside": ("{a} is left of {b}.", "{b} is right of {a}."),
    "stacked": ("{a} is above {b}.", "{b} is below {a}."),
    "two above one": ("{a} is left of {b}.", "{b} is right of {a}.", "{c} is below {a}.", "{b} is above {c}."),
    "one above two": ("{b} is left of {c}.", "{c} is right of {b}.", "{a} is above {b}.", "{c} is below {a}."),
}
"""Filled with definite noun phrases ("the red circle"), to lengthen a long caption."""
REGION_SENTENCES: Final = (
    "the object {where} is {an} {shape}.",
    "the object {where} is {colour}.",
    "the {shape} {where} is {colour}.",
    "the colour of the {shape} {where} is {colour}.",
    "{an} {colour} shape is {where}.",
    "{where} there is {an} {shape}.",
)
"""In the manner of Visual Genome's region descriptions: they repeat what is known of one object."""
ALONE_SENTENCES: Final = (
    "there is nothing on the left and nothing on the right.",
    "nothing is above it and nothing is below it.",
)
