"""What can be wrong in what a user gives: layouts, images, lists of prompts, special files, words of a command."""

import csv
import importlib
import importlib.util
import inspect
import io
import json
import os
import random
import shutil
import socket
import struct
import tempfile
import zlib
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ediffi.cli import COMMANDS
from ediffi.cli.recipes import path_of
from ediffi.data.importing.sources import find
from ediffi.diffusion.layout import read_layout
from ediffi.io import png
from ediffi.io.images import open_image, rgb
from ediffi.pipeline.prompt import read_prompts
from tests.faults import evaluations, runs
from tests.faults.harness import FAMILIES, Attempt, Family, command, family
from tests.faults.models import PROMPT, model
from tests.faults.mutations import ODD, changed, damage, places

MASK = "mask.png"
POLYGON = [[0.1, 0.1], [0.9, 0.1], [0.5, 0.9]]
LAYOUT = [{"phrase": "red circle", "mask": POLYGON, "weight": 1.5, "occurrence": 1}, {"phrase": "a", "mask": MASK}]
MAP = {"color_map_image": "map.png", "color_context": {"(255, 0, 0)": "red circle,1.5", "(0, 0, 255)": "blue square"}}


def images(folder: Path) -> None:
    gray = np.zeros((24, 24), np.uint8)
    gray[4:12] = 255
    Image.fromarray(gray).save(folder / MASK)
    colors = np.zeros((24, 24, 3), np.uint8)
    colors[:12, :, 0] = colors[12:, :, 2] = 255
    Image.fromarray(colors).save(folder / "map.png")


def _layout(kind: str) -> Family:
    def prepare(rng: random.Random, scratch: Path) -> Attempt:
        images(scratch)
        content, path = rng.choice([LAYOUT, MAP]), scratch / "layout.json"
        text = json.dumps(changed(rng, content, rng.random() < 0.3) if kind == "values" else content, default=str)
        if kind == "text":
            start = rng.randrange(len(text))
            worse = [text[:start], "[" * 10**5, text + text, text.replace(":", "", 1), "", "null", "[]", "\0", "\xff"]
            text = rng.choice([*worse, text[:start] + chr(rng.randrange(256)) + text[start + 1 :]])
        path.write_text(text, encoding="latin-1")

        def attempt() -> None:  # another valid layout is no fault
            for region in read_layout(path):
                if not (region.mask.isfinite().all() and 0 <= region.weight < float("inf")):
                    raise TypeError("a mask or a weight that is not finite")

        return attempt

    return prepare


FAMILIES["layout values"], FAMILIES["layout text"] = _layout("values"), _layout("text")


def encoded(rng: random.Random) -> tuple[bytes, str]:
    noise = np.random.default_rng(rng.randrange(99)).integers(0, 256, (40, 40, 4), np.uint8)
    kinds = [
        ("png", "RGBA"),
        ("png", "RGB"),
        ("png", "L"),
        ("jpeg", "RGB"),
        ("webp", "RGBA"),
        ("gif", "P"),
        ("tiff", "RGB"),
    ]
    kind, mode = rng.choice([*kinds, ("bmp", "RGB"), ("png", "I;16"), ("jpeg", "CMYK")])
    image = Image.fromarray(noise)
    image = (
        Image.fromarray(noise[..., 0].astype(np.uint16) * 257) if mode == "I;16" else image.convert("RGB").convert(mode)
    )
    exif = Image.Exif()
    exif[0x0112] = rng.randrange(1, 9)
    file = io.BytesIO()
    image.save(file, kind, **({"exif": exif} if kind in ("png", "jpeg", "webp") else {}))
    return file.getvalue(), kind


@family
def masks_in_a_layout(rng: random.Random, scratch: Path) -> Attempt:
    """A mask as a data URL that is broken or of another kind, or a path that leads elsewhere."""
    images(scratch)
    url = png.data_url(Image.open(scratch / MASK))
    start = rng.randrange(len(png.DATA_URL), len(url))
    head, tail = url[:start], url[start + 1 :]
    wrong = [head + "!" + tail, head, head + "A" + tail, url.replace("png", "svg+xml"), url + url, "data:,x", ""]
    wrong += ["file:///etc/passwd", "http://127.0.0.1:9/mask.png", "/dev/zero", "/etc/passwd", "../../mask.png", "~"]
    text = rng.choice(wrong)
    (scratch / "layout.json").write_text(json.dumps([{"phrase": "red circle", "mask": text}]))

    def attempt() -> None:  # a bit of base64 may be no bit of the mask
        if not read_layout(scratch / "layout.json")[0].mask.isfinite().all():
            raise TypeError("a mask that is not finite")

    return attempt


@family
def settings_in_an_image(rng: random.Random, scratch: Path) -> Attempt:
    """An image that says something else of how it was made is sampled once more."""
    place = _place()
    settings = png.settings_of(place / "sampled.png")
    *path, last = rng.choice(list(places(settings)))
    inside = settings
    for key in path:
        inside = inside[key]
    value = inside[last]
    far = [10**9, 10**6, -1, "some-org/some-model", "/etc", "../model", "<x>"]
    inside[last] = rng.choice([*far, *(odd for odd in ODD if type(odd) is not type(value))])
    if rng.random() < 0.2:
        del inside[last]
    png.save(open_image(place / "sampled.png"), scratch / "image.png", json.loads(json.dumps(settings, default=str)))
    named = ["--model", place / "model"] if rng.random() < 0.8 else []
    return lambda: command("inspect", scratch / "image.png", "--again", "-o", scratch / "again.png", *named)


PARQUET = [".parquet"] if importlib.util.find_spec("pyarrow") else []


@family
def tables_of_captions(rng: random.Random, scratch: Path) -> Attempt:
    """A table beside images, of each kind that `ediffi data import` reads, is damaged or has other values."""
    folder = scratch / "images"
    folder.mkdir()
    rows: list[dict[str, Any]] = [{"file_name": f"{number}.png", "caption": f"a {number}"} for number in range(4)]
    for row in rows:
        Image.new("RGB", (8, 8)).save(folder / row["file_name"])
    suffix, kind = rng.choice([".csv", ".tsv", ".jsonl", *PARQUET]), rng.choice(["bits", "cut", "zeros", "value"])
    path = folder / f"metadata{suffix}"
    if kind == "value":
        names = ["../../secret.png", "/etc/passwd", "", "\0", "0.png/..", "x" * 5000]
        change = {"file_name": rng.choice(names)} if rng.random() < 0.5 else {"caption": "x" * 10**7}
        rows[rng.randrange(4)] |= change
    if suffix == ".parquet":
        table = importlib.import_module("pyarrow").Table.from_pylist(rows)
        importlib.import_module("pyarrow.parquet").write_table(table, path)
    elif suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["file_name", "caption"], delimiter={".csv": ",", ".tsv": "\t"}[suffix])
            writer.writeheader()
            writer.writerows(rows)
    if kind != "value":
        damage(rng, path, kind)

    def attempt() -> None:  # another caption is no fault, another folder is
        for entry in find(folder).entries:
            if not Path(str(entry.place)).resolve().is_relative_to(folder) and suffix != ".parquet":
                raise TypeError(f"{entry.place} is outside of the folder")

    return attempt


@family
def image_bytes(rng: random.Random, scratch: Path) -> Attempt:
    content, kind = encoded(rng)
    path = scratch / f"image.{kind}"
    path.write_bytes(content)
    damage(rng, path, rng.choice(["bits", "bits", "cut", "zeros"]))

    def attempt() -> None:  # an image whose format has no checksum is another image
        found = rgb(open_image(path, exif=True))
        if found.mode != "RGB" or found.width * found.height > 10**8:
            raise TypeError(f"an image of mode {found.mode} and {found.size}")

    return attempt


@family
def image_headers_that_lie(rng: random.Random, scratch: Path) -> Attempt:
    """A few bytes that unfold to many pixels, or say so."""
    width, height = rng.choice([(10**5, 1), (1, 10**5), (65535, 65535), (2**31 - 1, 2**31 - 1), (30000, 30000), (0, 5)])

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress(bytes(min((width + 1) * height, 10**7)))
    header = struct.pack(">IIBBBBB", width, height, 8, rng.choice([0, 2, 6]), 0, 0, 0)
    extra = rng.choice(
        [b"", chunk(b"eXIf", b"II*\0" + b"\xff" * 40), chunk(b"iCCP", b"x\0\0" + zlib.compress(b"a" * 10**7))]
    )
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    path = scratch / "image.png"
    path.write_bytes(png)
    words = rng.choice([("inspect",), ("sample", PROMPT, "--style-image"), ("edit",), ("upscale",)])
    more = [PROMPT] if words[0] in ("edit", "upscale") else []
    folder, out = model(scratch), ["-o", scratch / "out.png"] if words[0] != "inspect" else []
    named = ["--model", folder, "--num-inference-steps", "1"] if words[0] != "inspect" else []
    return lambda: command(*words, path, *more, *out, *named)


@family
def prompts_files(rng: random.Random, scratch: Path) -> Attempt:
    rows = [{"prompt": "a red circle"}, {"caption": "a clock (3:45)"}, {"prompt": "a (red:1.5) circle", "more": [1]}]
    suffix = rng.choice([".txt", ".json", ".jsonl", ".csv", ".tsv", ""])
    wrong = changed(rng, rows, rng.random() < 0.3)
    texts = {".json": json.dumps(wrong, default=str), ".csv": 'prompt,n\n"a red circle",1\na blue "square,2\n'}
    text = texts.get(
        suffix, "\n".join(json.dumps(row, default=str) for row in wrong) if rng.random() < 0.5 else "a\n\nb\n"
    )
    content = bytearray(text.encode("utf-8", "surrogatepass"))
    for _ in range(rng.choice([0, 1, 8])):
        content[rng.randrange(len(content))] = rng.randrange(256)
    content += rng.choice([b"", b"", b"\0", b"\xff\xfe", b"x" * 10**7, b"[" * 10**5, b"(a:2)" * 1000, b"\n" * 10**5])
    path = scratch / f"prompts{suffix}"
    path.write_bytes(bytes(content))

    def attempt() -> None:  # another list of prompts is no fault
        read_prompts(path)

    return attempt


# Commands: the words that work, and what is put in the place of an option or added to them


@cache
def _place() -> Path:
    """A folder with everything that commands read; not to be written to."""
    place = Path(tempfile.mkdtemp(prefix="faults-words-"))
    images(place)
    model(place)
    shutil.copytree(evaluations.whole()[0], place / "evaluation")
    shutil.move(place / "evaluation" / "rows", place / "evaluation" / "rows-of-1")
    for scale in (1, 3):
        shutil.copytree(place / "evaluation" / "rows-of-1", place / "evaluation" / "rows" / f"guidance-{scale}")
    rows = [json.dumps({"key": str(number), "caption": "a circle"}) for number in range(evaluations.COUNT)]
    (place / "evaluation" / "selection.jsonl").write_text("\n".join(rows) + "\n")
    (place / "prompts.txt").write_text("a red circle\na blue square\n")
    (place / "layout.json").write_text(json.dumps(LAYOUT[:1]))
    (place / "filter.yaml").write_text("least_side: 4\n")
    torch.save({"a": torch.ones(2)}, place / "weights.pt")
    with redirect_stdout(io.StringIO()):
        command("sample", PROMPT, "--model", place / "model", "--num-inference-steps", 1, "-o", place / "sampled.png")
    return place


def _working(place: Path) -> list[list[str]]:
    """Command lines that work, and are quick."""
    shards, recipe = str(runs.shards()), str(path_of("toybox/base"))
    painted = ["--model", str(place / "model"), "--num-inference-steps", "1"]
    return [
        ["sample", PROMPT, *painted],
        ["sample", "--prompts", str(place / "prompts.txt"), "-o", "images", *painted],
        ["sample", PROMPT, "--paint", str(place / "layout.json"), *painted],
        ["sample", PROMPT, "--style-image", str(place / "map.png"), *painted],
        ["edit", str(place / "map.png"), PROMPT, "--mask", str(place / MASK), *painted],
        ["inspect", str(place / "sampled.png")],
        ["data verify", shards],
        ["data stats", shards],
        ["recipes show", "toybox/base"],
        ["plan", recipe],
        ["params", recipe],
        ["experts", str(place / "model"), "-o", "experts.png"],
        ["registry"],
        ["convert", str(place / "weights.pt"), "out.safetensors"],
        ["evaluate suites"],
        ["evaluate captions", "toybox", "-o", "captions.jsonl"],
        ["evaluate table", str(place / "evaluation")],
        ["evaluate scores", str(place / "evaluation")],
    ]


def _function(name: str) -> Callable[..., Any] | None:
    first, _, second = name.partition(" ")
    path = next(group[first] for group in COMMANDS.values() if first in group)[0]
    module, _, attribute = path.partition(":")
    found: Any = getattr(importlib.import_module(module), attribute)
    if callable(found):
        return None if second else found
    return next((one for one in found if one.__name__.replace("_", "-") == second), None)


WORDS = [
    "",
    " ",
    "-1",
    "0",
    "1",
    "2",
    "99",
    "nan",
    "-inf",
    "1e400",
    "9" * 19,
    "9" * 40,
    "0.5",
    "1e9",
    "true",
    "null",
    "None",
]
WORDS += [
    "[]",
    "[1,2,3,4,5,6,7]",
    "[[1]]",
    "{}",
    "{a: 1}",
    "&a [*a]",
    "x",
    "x" * 10**4,
    "a" * 10**6,
    "../../x",
    "~",
    "/",
    ".",
]
WORDS += [
    "cpu",
    "cpu:7",
    "cuda:3",
    "meta",
    "hf/none",
    "\u0000"[:0] + "é",
    "(a:11)",
    "(((((a:2):2):2):2):2)",
    "a\nb",
    "%s",
    "--help",
]


def _inside(scratch: Path, words: list[str]) -> Attempt:
    """A command line whose folder is the scratch folder."""
    first, rest = words[0].split(" "), words[1:]

    def attempt() -> None:
        before = os.getcwd()
        os.chdir(scratch)
        try:
            command(*first, *rest)
        finally:
            os.chdir(before)

    return attempt


@family
def command_words(rng: random.Random, scratch: Path) -> Attempt:
    """An odd word for an option of a command, by its signature, or for a word that it has."""
    words = list(rng.choice(_working(_place())))
    function, odd = _function(words[0]), rng.choice(WORDS)
    named = inspect.signature(function).parameters if function else {}
    options = [name for name, one in named.items() if one.kind is not one.POSITIONAL_ONLY and name != "output"]
    if options and rng.random() < 0.7:
        words.append(f"--{rng.choice(options).replace('_', '-')}={odd}")
    elif len(words) > 1:
        words[rng.randrange(1, len(words))] = odd
    else:
        words.append(odd)
    return _inside(scratch, words)


@family
def special_files(rng: random.Random, scratch: Path) -> Attempt:
    """A pipe, a device, a socket, a folder or a link in a circle in the place of a file that a command reads."""
    lines = [(words, [k for k, word in enumerate(words) if word.startswith("/")]) for words in _working(_place())]
    line, files = rng.choice([(words, files) for words, files in lines if files])
    words, number = list(line), files[0] if rng.random() < 0.8 else rng.choice(files)
    special = scratch / f"special{Path(words[number]).suffix}"
    kind = rng.choice(["pipe", "socket", "folder", "circle", "/dev/zero", "/dev/full", "empty", "gone"])
    if kind == "pipe":
        os.mkfifo(special)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(special))
    elif kind == "folder":
        special.mkdir()
    elif kind == "circle":
        special.symlink_to(special)
    elif kind == "empty":
        special.touch()
    elif kind != "gone":
        special.symlink_to(kind)
    words[number] = str(special)
    return _inside(scratch, words)
