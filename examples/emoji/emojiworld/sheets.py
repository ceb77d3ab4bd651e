"""Contact sheets of an evaluation: the first prompts of each kind, in the order of the run, with the model's images."""

import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

COLUMNS, SIDE, WORDS, GAP = 8, 128, 42, 6
"""Of a sheet: images a row; and in pixels the side of an image, the height of its caption, and what is between."""


def write_sheets(evaluation: Path, suite: Path, output: Path, count: int = 64) -> list[Path]:
    """A WebP file per kind of prompt with its first `count` images; returns their places.

    Args:
        evaluation: the folder that `ediffi evaluate --suite emoji` wrote; of several guidance scales, the first.
        suite: the folder of the suite, which has the prompts' truth and the style images.
        output: the folder to write to.
        count: images of each kind.

    Raises:
        FileNotFoundError: `evaluation` has no images of a run, or `suite` no prompts.
        ValueError: the prompts of `evaluation` are not those of `suite`.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    scenes = {scene["key"]: scene for scene in _lines(suite / "scenes.jsonl")}
    folders = sorted(evaluation.glob("guidance-*"))
    if not folders:
        raise FileNotFoundError(f"{evaluation} has no folder guidance-... of images")
    kinds: dict[str, list[Image.Image]] = {}
    for row, chosen in enumerate(_lines(evaluation / "selection.jsonl")):
        scene = scenes.get(chosen["key"])
        if scene is None or scene["caption"] != chosen["caption"]:
            raise ValueError(f"{evaluation} has prompts that are not in {suite}, such as {chosen['caption']!r}")
        shown = kinds.setdefault(scene["kind"], [])
        if len(shown) < count:
            shown.append(_cell(scene, folders[0] / f"{row:05}.png", suite / "styles" / f"{scene['key']}.png"))
    output.mkdir(parents=True, exist_ok=True)
    written = []
    for kind, cells in sorted(kinds.items()):
        written.append(output / f"{kind.replace(' ', '-')}.webp")
        _sheet(cells).save(written[-1], quality=85, method=6)
    return written


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _cell(scene: Mapping[str, Any], image: Path, style: Path) -> Image.Image:
    """An image over its caption; in its corner the style image, and over it the borders of painted areas."""
    cell = Image.new("RGB", (SIDE, SIDE + WORDS), "white")
    cell.paste(Image.open(image).convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS))
    draw = ImageDraw.Draw(cell)
    if scene["kind"] == "style image":
        cell.paste(Image.open(style).convert("RGB").resize((SIDE // 4, SIDE // 4), Image.Resampling.LANCZOS))
        draw.rectangle((0, 0, SIDE // 4, SIDE // 4), outline="white")
    for area in scene.get("areas", ()):
        draw.rectangle([edge * (SIDE - 1) for edge in area["box"]], outline="gray")
    words = "\n".join(textwrap.wrap(scene["caption"], 24)[:3])
    draw.multiline_text((0, SIDE + 2), words, fill="black", spacing=1)
    return cell


def _sheet(cells: Sequence[Image.Image]) -> Image.Image:
    width, height = SIDE + GAP, SIDE + WORDS
    sheet = Image.new("RGB", (COLUMNS * width - GAP, -(-len(cells) // COLUMNS) * height), "white")
    for place, cell in enumerate(cells):
        sheet.paste(cell, (place % COLUMNS * width, place // COLUMNS * height))
    return sheet
