"""Sprites from npm packages: packages as small as these have the real ones' layout, and their own recorded hashes."""

import base64
import hashlib
import io
import json
import re
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from emojiworld import artists, sprites, world
from emojiworld.artists import Source
from PIL import Image, ImageDraw

from tests.examples.shapes import ROOT

FOX, SPIDER, TIE = "1F98A", "1F577", "1F454"
DATA = [
    {"label": "fox", "hexcode": FOX, "tags": ["animal"], "emoji": "🦊", "group": 3, "subgroup": 34},
    {"label": "spider", "hexcode": SPIDER, "emoji": "🕷\ufe0f", "group": 3, "subgroup": 39},
    {"label": "necktie", "hexcode": TIE, "emoji": "👔", "group": 7, "subgroup": 65},
    {"label": "flag: England", "hexcode": "1F3F4", "emoji": "🏴", "group": 9, "subgroup": 99},
    {"label": "regional indicator A", "hexcode": "1F1E6", "emoji": "🇦"},
]
GROUPS = {
    "groups": {"3": "animals-nature", "7": "objects", "9": "flags"},
    "subgroups": {"34": "animal-mammal", "39": "animal-bug", "65": "clothing", "99": "subdivision-flag"},
}
SAID = {"annotations": {"annotations": {"🕷": {"default": ["insect", "spider"]}, "🦊": {"default": ["face", "fox"]}}}}
RED = '<path fill="#f00" d="M4 8h8v2h-8z"/>'


def package(folder: Path, style: str, files: Mapping[str, object], licence: str = "MIT") -> Source:
    """An archive as npm's, and the source that records it."""
    name = style or f"names-{len(files)}"
    source = Source(style, "somebody", licence, "https://example.com", f"@drawn/{name}", "1.0.0", "")
    described = {"package.json": {"name": source.package, "version": source.version}, **files}
    with tarfile.open(folder / source.archive, "w:gz") as tar:
        for path, content in described.items():
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            info = tarfile.TarInfo(f"package/{path}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    digest = hashlib.sha512((folder / source.archive).read_bytes()).digest()
    return Source(**{**vars(source), "integrity": f"sha512-{base64.b64encode(digest).decode()}"})


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the names, a set of pictures, a set of vector drawings, and one under a share-alike licence."""
    folder = tmp_path / "packages"
    folder.mkdir()
    codes = {kind: {} for kind in sprites.SHORTCODES} | {"emojibase-legacy": {TIE: ["necktie", "tie"], SPIDER: "fox"}}
    names = {"en/data.json": DATA, "meta/groups.json": GROUPS}
    names |= {f"en/shortcodes/{kind}.json": code for kind, code in codes.items()}
    drawing = Image.new("RGBA", (100, 80))
    ImageDraw.Draw(drawing).rectangle((20, 30, 79, 59), fill="red")
    file = io.BytesIO()
    drawing.save(file, "webp", lossless=True)
    pictures = {"assets/1f98a.webp": file.getvalue(), "assets/1f577-fe0f.webp": file.getvalue()}
    icons = {"fox": {"body": RED}, "tie": {"body": RED}, "clown": {"body": RED}}
    vectors = {"icons.json": {"width": 16, "height": 16, "icons": icons}, "chars.json": {}}
    monkeypatch.setattr(sprites, "NAMES", package(folder, "", names))
    monkeypatch.setattr(sprites, "TAGS", package(folder, "", {"annotations/en/annotations.json": SAID}))
    sets = {"picture": package(folder, "picture", pictures), "vector": package(folder, "vector", vectors)}
    sets["alike"] = package(folder, "alike", vectors, "CC-BY-SA-4.0")
    monkeypatch.setattr(sprites, "SETS", sets)
    monkeypatch.setattr(artists, "SETS", sets)
    return folder


def test_pictures_become_sprites_with_names_and_a_notice(packages: Path, tmp_path: Path) -> None:
    output = tmp_path / "sprites"
    assert sprites.make_sprites(output, ["picture"], packages) == {"picture": 2}
    facts = json.loads((output / "picture" / "1f577.json").read_text())
    assert facts["tags"] == ["insect", "spider"]
    assert (facts["group"], facts["licence"], facts["source"]) == ("animals-nature", "MIT", "@drawn/picture@1.0.0")
    with Image.open(output / "picture" / "1f98a.webp") as sprite:
        assert sprite.size == (256, 256)
        left, top, right, bottom = sprite.getchannel("A").getbbox() or (0, 0, 0, 0)
    assert (left, right) == (8, 248)
    assert abs((bottom - top) - 120) <= 2
    assert abs((bottom + top) - 256) <= 2
    assert "somebody, drawings (picture): MIT, https://example.com" in (output / "NOTICE").read_text()
    before = (output / "picture" / "1f98a.webp").stat().st_mtime_ns
    sprites.make_sprites(output, ["picture"], packages, {"1f98a"})
    assert (output / "picture" / "1f98a.webp").stat().st_mtime_ns == before


def test_a_drawing_is_found_by_label_before_shortcode(packages: Path) -> None:
    known = sprites.read_emoji(*(packages / source.archive for source in (sprites.NAMES, sprites.TAGS)))
    assert [one.hexcode for one in known] == ["1f98a", "1f577", "1f454", "1f3f4"]
    found = sprites.drawings_of(packages / sprites.SETS["vector"].archive, known)
    assert {code: drawing.name for code, drawing in found.items()} == {"1f98a": "fox", "1f454": "tie"}


def test_vector_drawings_are_rendered(packages: Path, tmp_path: Path) -> None:
    pytest.importorskip("resvg_py")
    assert sprites.make_sprites(tmp_path / "sprites", ["vector"], packages) == {"vector": 2}
    with Image.open(tmp_path / "sprites" / "vector" / "1f98a.webp") as sprite:
        assert sprite.getchannel("A").getbbox() == (8, 98, 248, 158)
        assert all(abs(a - b) < 9 for a, b in zip(sprite.getpixel((128, 128)), (255, 0, 0, 255), strict=True))


def test_without_the_renderer_the_error_says_what_to_install(
    packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(OSError, match=r"resvg_py is not installed: `pip install resvg_py==0.5.0`, or use a folder"):
        sprites.make_sprites(tmp_path / "sprites", ["vector"], packages)


def test_without_npm_the_error_says_what_to_install(
    packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (packages / sprites.SETS["vector"].archive).unlink()
    said = r"npm is not installed: install Node.js, put .*\.tgz into .*packages, or use a folder of sprites"
    with pytest.raises(FileNotFoundError, match=said):
        sprites.make_sprites(tmp_path / "sprites", ["vector"], packages)


def test_npm_that_fails_is_quoted(packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npm = tmp_path / "npm"
    quiet = 'case "$*" in *--silent*) exit 1;; esac'  # as npm is with that option, which this call must not give
    npm.write_text(f"#!/bin/sh\n{quiet}\necho npm error ENOTFOUND >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    (packages / sprites.SETS["vector"].archive).unlink()
    with pytest.raises(OSError, match=r"npm could not fetch @drawn/vector@1.0.0 \(npm error ENOTFOUND\): is the"):
        sprites.make_sprites(tmp_path / "sprites", ["vector"], packages)


def test_another_package_is_refused(packages: Path, tmp_path: Path) -> None:
    wanted, other = (packages / sprites.SETS[style].archive for style in ("vector", "picture"))
    wanted.write_bytes(other.read_bytes())
    with pytest.raises(ValueError, match=r"is not the @drawn/vector@1.0.0 that is recorded \(it says @drawn/picture@1"):
        sprites.make_sprites(tmp_path / "sprites", ["vector"], packages)
    wanted.write_bytes(b"<html>")
    with pytest.raises(ValueError, match=r"is not the @drawn/vector@1.0.0 that is recorded \(it is no package"):
        sprites.make_sprites(tmp_path / "sprites", ["vector"], packages)


def test_the_notice_names_all_drawings_of_the_folder(packages: Path, tmp_path: Path) -> None:
    """Of an earlier call too: the folder goes on as a whole."""
    sprites.make_sprites(tmp_path / "sprites", ["vector"], packages)
    sprites.make_sprites(tmp_path / "sprites", ["picture"], packages)
    notice = (tmp_path / "sprites" / "NOTICE").read_text()
    assert "drawings (vector)" in notice
    assert "drawings (picture)" in notice


def test_share_alike_sets_are_used_only_when_asked_for(packages: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"alike is CC-BY-SA-4.0, .*; ask for it with --share-alike"):
        sprites.make_sprites(tmp_path / "sprites", ["alike"], packages)


def test_no_share_alike_set_is_in_the_defaults() -> None:
    defaults = {*world.SIX_STYLES, *world.ALL_STYLES}
    assert {artists.SETS[style].licence for style in defaults} == {"MIT", "Apache-2.0", "CC-BY-4.0"}
    assert {style for style, source in artists.SETS.items() if source.share_alike} == {"openmoji", "emojione-v1"}
    assert set(artists.SETS) == set(world.STYLES)


def test_what_ships_names_the_artists() -> None:
    """The judge was trained on their drawings. A wheel has the file, see `license-files`."""
    assert (ROOT / "NOTICE").read_text().endswith(artists.notice(world.SIX_STYLES))
    assert '"NOTICE"' in (ROOT / "pyproject.toml").read_text()


def test_an_unknown_style_lists_the_known_ones(packages: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape("no style 'manga'; there are picture, vector, alike")):
        sprites.make_sprites(tmp_path / "sprites", ["manga"], packages)
