"""The catalogue: the pictures of the shelf as a visitor sees them, and one of them with its settings."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from ediffi.studio.sheet import file_url
from ediffi.studio.shelf import Entry, Shelf


def catalogue(shelf: Shelf, entries: Sequence[Entry], chosen: str) -> str:
    """The newest pictures, as HTML."""
    if not entries:
        return '<div class="shelf"><p>Pictures that you paint are kept here, and in the folder of this page.</p></div>'
    cards = "".join(
        f'<button type="button" data-name="{html.escape(entry.name)}" class="card{" chosen" * (entry.name == chosen)}" '
        f'title="{html.escape(prompt_of(entry))}"><img loading="lazy" src="{html.escape(file_url(shelf, entry.name))}" '
        f'alt="{html.escape(prompt_of(entry))}"></button>'
        for entry in entries
    )
    return f'<div class="shelf">{cards}</div>'


def label(shelf: Shelf, entry: Entry | None, notices: Sequence[str] = ()) -> str:
    """What a picture shows and how it was made, with a link to the file, as HTML.

    Args:
        shelf: where it stands.
        entry: the picture; None for no label.
        notices: what of its order had no effect.
    """
    if entry is None:
        return '<div class="label"></div>'
    try:
        rows = _rows(entry.settings)
    except (KeyError, TypeError, ValueError, AttributeError):  # another version wrote them
        rows = [("settings", "not such as this version writes")]
    listed = "".join(f"<dt>{name}</dt><dd>{html.escape(text)}</dd>" for name, text in rows)
    noted = "".join(f'<p class="noted">{html.escape(notice)}</p>' for notice in notices)
    link = html.escape(file_url(shelf, entry.name))
    return (
        f'<div class="label"><p class="prompt">{html.escape(prompt_of(entry))}</p><dl>{listed}</dl>{noted}'
        '<div class="deeds"><button type="button" data-deed="again">Again with this seed</button>'
        f'<a href="{link}" download="{html.escape(entry.name)}">Download PNG</a></div></div>'
    )


def prompt_of(entry: Entry) -> str:
    """What a picture shows."""
    prompt = entry.settings.get("prompt", "")
    return prompt if isinstance(prompt, str) else ", ".join(map(str, prompt))


def _rows(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How a picture was made, as names and values."""
    number = int(settings.get("first_index", 0)) + int(settings.get("index", 0))
    rows = [("seed", f"{settings.get('seed', '?')}" + (f", picture {number + 1}" if number else ""))]
    if settings.get("negative_prompt"):
        rows.append(("without", str(settings["negative_prompt"])))
    rows += _made(settings)
    order = settings.get("order", {})
    if brushes := order.get("layout", {}).get("brushes"):
        phrases = ", ".join(str(brush["phrase"]) for brush in brushes)
        rows.append(("painted", f"{phrases} (weight {order['paint_weight']:g})"))
    if settings.get("style"):
        rows.append(("style", f"of a picture, scale {settings['style']['scale']:g}"))
    return rows


def _made(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The sampling of the stages in words."""
    stages: Mapping[str, Mapping[str, Any]] = settings.get("stages", {})
    steps = ", ".join(f"{name} {stage['num_inference_steps']}" for name, stage in stages.items())
    samplers = dict.fromkeys(stage["sampler"] for stage in stages.values())
    base = next(iter(stages.values()), {})
    return [
        ("model", str(settings.get("model", "?"))),
        ("steps", f"{steps}, by {', '.join(samplers)}"),
        ("guidance", f"{base.get('guidance_scale', 1):g}"),
    ]
