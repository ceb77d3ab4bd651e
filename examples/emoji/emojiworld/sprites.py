"""Drawings as the scenes need them: npm packages fetched, rendered, and joined with Unicode's names and tags.

A sprite is STYLE/HEXCODE.webp, RGBA, 256 a side, the drawing trimmed to fill 240; with STYLE/HEXCODE.json: label, tags,
group, licence, author, source.
"""

import base64
import hashlib
import io
import json
import logging
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from PIL import Image
from tqdm import tqdm

from ediffi.io.files import replace, replacing
from emojiworld.artists import NAMES, SETS, TAGS, Source, notice
from emojiworld.world import ALL_GROUPS

RENDERER: Final = "resvg_py==0.5.0"
SIDE, FILLED = 256, 240  # pixels: of a sprite, and of the longer side of its drawing
RENDERED: Final = 512  # pixels: of a vector drawing, before it is trimmed
SHORTCODES: Final = ("emojibase", "emojibase-legacy", "github", "iamcal")  # emojibase's lists of them
OTHERWISE: Final = "or use a folder of sprites that somebody else made"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Emoji:
    """A character with its English names; `shortcodes` are what programmers call it."""

    hexcode: str
    label: str
    tags: tuple[str, ...]
    group: str
    subgroup: str
    shortcodes: tuple[str, ...]


class Drawing(NamedTuple):
    """A drawing by its name in its set, and what renders it."""

    name: str
    render: Callable[[], Image.Image]


def make_sprites(
    output: Path,
    styles: Sequence[str],
    packages: Path,
    wanted: Collection[str] | None = None,
    share_alike: bool = False,
) -> dict[str, int]:
    """Fetch what is not in `packages`, and write the sprites that `output` lacks; returns their number by style.

    `wanted` are hexcodes, everything but people, symbols and flags if None. ValueError: an unknown style, a share-alike
    one without the flag, a package that is not the recorded one. OSError: npm or the renderer is missing, or npm fails.
    """
    for style in styles:
        if style not in SETS:
            raise ValueError(f"no style {style!r}; there are {', '.join(SETS)}")
        if SETS[style].share_alike and not share_alike:
            licence = SETS[style].licence
            raise ValueError(f"{style} is {licence}, which binds whatever is made of it; ask for it with --share-alike")
    archives = {source: fetch(source, packages) for source in (NAMES, TAGS, *(SETS[style] for style in styles))}
    known = [one for one in read_emoji(archives[NAMES], archives[TAGS]) if one.group in ALL_GROUPS]
    counts = {}
    for style in styles:
        source, folder = SETS[style], output / style
        folder.mkdir(parents=True, exist_ok=True)
        drawings = drawings_of(archives[source], known)
        chosen = [one for one in known if one.hexcode in drawings and (wanted is None or one.hexcode in wanted)]
        for one in tqdm(chosen, style, unit="drawing", mininterval=2):
            if not (folder / f"{one.hexcode}.webp").exists():
                _write(folder, source, one, drawings[one.hexcode])
        counts[style] = len(chosen)
    replace(output / "NOTICE", notice([style for style in SETS if any((output / style).glob("*.webp"))]))
    return counts


def fetch(source: Source, folder: Path) -> Path:
    """The archive of a package in `folder`, by the npm client if it is not there, with its recorded hash."""
    path = folder / source.archive
    if not path.exists():
        instead = f"put {path.name} into {folder}, {OTHERWISE}"
        npm = shutil.which("npm")
        if npm is None:
            raise FileNotFoundError(f"npm is not installed: install Node.js, {instead}")
        folder.mkdir(parents=True, exist_ok=True)
        log.info("fetching %s", source)
        command = [npm, "pack", str(source), "--loglevel=error", "--pack-destination", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode or not path.exists():
            reason = " ".join((done.stderr or done.stdout).split())[:200] or "without a word"
            raise OSError(f"npm could not fetch {source} ({reason}): is the machine online? Try again, {instead}")
    digest = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    if f"sha512-{digest}" != source.integrity:
        raise ValueError(f"{path} is not the {source} that is recorded{_version_in(path)}: remove it and try again")
    return path


def read_emoji(names: Path, tags: Path) -> list[Emoji]:
    """All emoji that have a group: labels and groups of emojibase, tags of emojibase and of CLDR."""
    data, groups = _json(names, "en/data.json"), _json(names, "meta/groups.json")
    shortcodes = [_json(names, f"en/shortcodes/{kind}.json") for kind in SHORTCODES]
    annotations = _json(tags, "annotations/en/annotations.json")["annotations"]["annotations"]
    found = []
    for entry in data:
        if "group" not in entry:
            continue
        code, label = entry["hexcode"], entry["label"]
        said = annotations.get(entry["emoji"].replace("\ufe0f", ""), {}).get("default", [])
        words = {*entry.get("tags", ()), *said, *re.findall(r"\w[\w’-]*", label)}
        codes = [codes.get(code, ()) for codes in shortcodes]
        short = dict.fromkeys(one for some in codes for one in ([some] if isinstance(some, str) else some))
        group, subgroup = groups["groups"][str(entry["group"])], groups["subgroups"][str(entry["subgroup"])]
        found.append(Emoji(code.lower(), label, tuple(sorted(words)), group, subgroup, tuple(short)))
    return found


def drawings_of(archive: Path, known: Sequence[Emoji]) -> dict[str, Drawing]:
    """The drawings of a set by hexcode: found by hexcode, by label, or by a shortcode that is not another's."""
    with tarfile.open(archive) as tar:
        pictures = {_plain(Path(name).stem): name for name in tar.getnames() if name.endswith(".webp")}
    if pictures:
        members = {one.hexcode: pictures.get(_plain(one.hexcode)) for one in known}
        there = {code: member for code, member in members.items() if member}
        return {code: Drawing(Path(name).name, partial(_picture, archive, name)) for code, name in there.items()}
    icons, by_code = _json(archive, "icons.json"), _json(archive, "chars.json")
    by_code = {_plain(code): name for code, name in by_code.items()}
    aliases = {name: alias["parent"] for name, alias in icons.get("aliases", {}).items()}
    by_slug = {_slug(name): name for name in [*aliases, *icons["icons"]]}
    found = {one.hexcode: by_code.get(_plain(one.hexcode)) or by_slug.get(_slug(one.label)) for one in known}
    taken = {aliases.get(name, name) for name in found.values() if name}
    for one in known:
        others = filter(None, (by_slug.get(_slug(code)) for code in one.shortcodes))
        if found[one.hexcode] is None and (free := next((name for name in others if name not in taken), None)):
            found[one.hexcode] = free
            taken.add(free)
    named = {code: aliases.get(name, name) for code, name in found.items() if name}
    whole = {code: name for code, name in named.items() if name in icons["icons"]}
    return {code: Drawing(name, partial(_rendered, icons, name)) for code, name in whole.items()}


def trimmed(drawing: Image.Image) -> Image.Image:
    """A drawing cut to its visible pixels, scaled so that its longer side is `FILLED`, in the middle of a sprite."""
    box = drawing.getchannel("A").point(lambda value: 255 * (value > 8)).getbbox()
    if box is None:
        raise ValueError("nothing in it is visible")
    drawing = drawing.crop(box)
    scale = FILLED / max(drawing.size)
    drawing = drawing.resize([max(1, round(scale * side)) for side in drawing.size], Image.Resampling.LANCZOS)
    sprite = Image.new("RGBA", (SIDE, SIDE))
    sprite.paste(drawing, ((SIDE - drawing.width) // 2, (SIDE - drawing.height) // 2))
    return sprite


def _write(folder: Path, source: Source, one: Emoji, drawing: Drawing) -> None:
    facts = {
        **{"hex": one.hexcode, "label": one.label, "tags": one.tags, "group": one.group, "subgroup": one.subgroup},
        **{"style": source.style, "author": source.author, "licence": source.licence, "source": str(source)},
        "icon": drawing.name,
    }
    try:
        sprite = trimmed(drawing.render())
    except ValueError as error:
        raise ValueError(f"{drawing.name} of {source} cannot be rendered: {error}") from None
    replace(folder / f"{one.hexcode}.json", json.dumps(facts, sort_keys=True))
    with replacing(folder / f"{one.hexcode}.webp") as beside:
        sprite.save(beside, "webp", quality=82, method=4)


def _rendered(icons: dict[str, Any], name: str) -> Image.Image:
    """An SVG drawing of an Iconify set."""
    try:
        import resvg_py
    except ImportError:
        raise OSError(f"resvg_py is not installed: `pip install {RENDERER}`, {OTHERWISE}") from None
    icon = icons["icons"][name]
    left, top, width, height = (icon.get(key, icons.get(key, 0)) for key in ("left", "top", "width", "height"))
    body = icon["body"].replace("currentColor", "#000")
    namespaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    svg = f'<svg {namespaces} viewBox="{left} {top} {width} {height}">{body}</svg>'
    data = resvg_py.svg_to_bytes(svg_string=svg, width=RENDERED, skip_system_fonts=True)
    return Image.open(io.BytesIO(data)).convert("RGBA")


def _picture(archive: Path, name: str) -> Image.Image:
    return Image.open(io.BytesIO(_member(archive, name))).convert("RGBA")


def _json(archive: Path, name: str) -> Any:
    return json.loads(_member(archive, f"package/{name}"))


def _member(archive: Path, name: str) -> bytes:
    with tarfile.open(archive) as tar:
        file = tar.extractfile(name)
        assert file is not None, name
        return file.read()


def _version_in(path: Path) -> str:
    """What an archive says of itself, for an error."""
    try:
        found = _json(path, "package.json")
        return f" (it says {found['name']}@{found['version']})"
    except (OSError, ValueError, KeyError, AssertionError, tarfile.TarError):
        return " (it is no package at all)"


def _plain(code: str) -> str:
    """A hexcode without U+FE0F, which asks for a picture, and which some leave out."""
    return code.replace("-fe0f", "")


def _slug(text: str) -> str:
    """A name without what people write differently: "electric plug" and "electricplug" are one."""
    return re.sub(r"[^a-z0-9]", "", text.lower())
