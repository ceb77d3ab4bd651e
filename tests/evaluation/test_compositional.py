"""Compositional benchmarks: what their own scripts would make of the prompts read and of the folders written."""

import csv
import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ediffi.evaluation.compositional import benchmarks
from ediffi.evaluation.compositional.benchmarks import BENCHMARKS, SCRIPTS, find_benchmark, read_prompt_set
from ediffi.evaluation.compositional.export import export
from ediffi.evaluation.compositional.prompts import (
    STYLES,
    BenchmarkPrompt,
    PromptSet,
    read_geneval,
    read_hpsv2,
    read_partiprompts,
    read_t2i_compbench,
)
from ediffi.evaluation.datasets.captioned import select
from ediffi.evaluation.images import claim, stamp
from ediffi.evaluation.images.numbered import ImageShards

GENEVAL = [
    {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a photo of a bench"},
    {
        "tag": "counting",
        "include": [{"class": "cup", "count": 2}],
        "exclude": [{"class": "cup", "count": 3}],
        "prompt": "a photo of two cups",
    },
    {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a photo of a bench"},
]
COMPBENCH = ["a red bench and a green cake", "The tall, thin café. A person's hat.", "a red bench and a green cake"]
PARTI = [
    ("bond", "Abstract", "Basic", "Concepts"),
    ('"G I G" painted on a wall, by "X"', "Illustrations", "Writing & Symbols", ""),
    ("a two lane road with a line ", "Vehicles", "Quantity", 'of "Dogs"'),
    ("bond", "Abstract", "Basic", ""),
]
HPS = {"anime": ["a/b_c.png", "b"], "concept-art": ["c"], "paintings": ["d", "d"], "photo": ["Ein Café"]}


def colour(number: int) -> tuple[int, int, int]:
    """A colour of a picture's own, far enough from the others to survive JPEG."""
    return 40 * (number % 6) + 20, 40 * (number // 6 % 6) + 20, 40 * (number // 36 % 6) + 20


def which(image: Image.Image) -> int:
    """The number of the picture with this colour."""
    red, green, blue = (round((float(value) - 20) / 40) for value in np.asarray(image.convert("RGB")).mean((0, 1)))
    return red + 6 * green + 36 * blue


def paint(folder: Path, count: int, suffix: str = ".png") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("RGB", (16, 16), colour(number)).save(folder / f"{number:05d}{suffix}")
    return folder


def write_prompts(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if name == "hpsv2":
        for style, texts in HPS.items():
            (folder / f"{style}.json").write_text(json.dumps(texts), encoding="utf-8")
        return folder
    path, text = {
        "geneval": ("evaluation_metadata.jsonl", "".join(json.dumps(row) + "\n" for row in GENEVAL)),
        "t2i-compbench": ("color_val.txt", "\n".join(COMPBENCH)),
        "partiprompts": (
            "PartiPrompts.tsv",
            "".join("\t".join(row) + "\n" for row in [("Prompt", "Category", "Challenge", "Note"), *PARTI]),
        ),
    }[name]
    (folder / path).write_text(text, encoding="utf-8")
    return folder / path


# Restated from djghosh13/geneval, evaluation/evaluate_images.py: which pictures are judged by what.
def geneval_reads(folder: Path) -> list[tuple[dict[str, object], int]]:
    found = []
    for sub in os.listdir(folder):
        if not (folder / sub).is_dir() or not sub.isdigit():
            continue
        metadata = json.loads((folder / sub / "metadata.jsonl").read_text())
        for name in os.listdir(folder / sub / "samples"):
            if (folder / sub / "samples" / name).is_file() and re.match(r"\d+\.png", name):
                found.append((metadata, which(Image.open(folder / sub / "samples" / name))))
    return sorted(found, key=lambda pair: pair[1])


# Restated from Karine-Huang/T2I-CompBench: BLIP_vqa.py, CLIP_similarity.py, UniDet_eval (2D, numeracy), Share_eval.py.
def compbench_reads(folder: Path) -> list[tuple[str, int]]:
    names = os.listdir(folder / "samples")
    random.Random(0).shuffle(names)
    assert len(names) == len({name.split("_")[-1].split(".")[0] for name in names})
    for number in (
        lambda name: int(name.split("_")[-1].split(".")[0]),  # BLIP, CLIP, and the question ids of 2D
        lambda name: int(name.split("_")[1].split(".")[0]),  # all of UniDet, for the order
        lambda name: int(name.split(".png")[0].split("_")[1]),  # the question ids of numeracy
        lambda name: int(name.split(".png")[0].split("_")[-1]),  # ShareGPT4V
    ):
        ordered = sorted(names, key=number)
        assert [number(name) for name in ordered] == list(range(len(names)))
        assert [name.split("_")[0] for name in ordered] == [name.split(".png")[0].split("_")[0] for name in ordered]
    return [(name.split("_")[0], which(Image.open(folder / "samples" / name))) for name in ordered]


# Restated from tgxs002/HPSv2, hpsv2/evaluation.py: every entry is a style, every prompt looks for its number.
def hpsv2_reads(folder: Path, prompts: Path) -> list[tuple[str, str, int]]:
    found = []
    for style in os.listdir(folder):
        for number, prompt in enumerate(json.loads((prompts / f"{style}.json").read_text(encoding="utf-8"))):
            with Image.open(folder / style / f"{number:05d}.jpg") as image:  # a missing one is left out there
                assert image.format == "JPEG"
                found.append((style, prompt, which(image)))
    return sorted(found, key=lambda row: row[2])


# Restated from the description of "imagefolder" in Hugging Face's datasets.
def imagefolder_reads(folder: Path) -> list[tuple[dict[str, str], int]]:
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {row["file_name"] for row in rows} == {name.name for name in folder.glob("*.png")}
    return [(row, which(Image.open(folder / row.pop("file_name")))) for row in rows]


def test_geneval_reads_each_picture_with_its_own_object(tmp_path: Path) -> None:
    prompts, pictures = write_prompts(tmp_path, "geneval"), paint(tmp_path / "pictures", 12)
    done = export("geneval", pictures, prompts, tmp_path / "out")
    assert geneval_reads(tmp_path / "out") == [(GENEVAL[number // 4], number) for number in range(12)]
    assert (done.count, done.made) == (12, 12)
    assert (tmp_path / "out" / "00002" / "samples" / "0003.png").samefile(pictures / "00011.png")


@pytest.mark.parametrize("count", [1, 10])
def test_compbench_reads_prompts_and_numbers_from_names(tmp_path: Path, count: int) -> None:
    prompts, pictures = write_prompts(tmp_path, "t2i-compbench"), paint(tmp_path / "pictures", 3 * count)
    export("t2i-compbench", pictures, prompts, tmp_path / "out", images_per_prompt=count)
    expected = [(COMPBENCH[number // count], number) for number in range(3 * count)]
    assert compbench_reads(tmp_path / "out") == expected


def test_hpsv2_reads_all_styles_as_jpeg_of_the_quality_of_its_own(tmp_path: Path) -> None:
    prompts, pictures = write_prompts(tmp_path / "prompts", "hpsv2"), paint(tmp_path / "pictures", 6)
    done = export("hpsv2", pictures, prompts, tmp_path / "out")
    rows = [(style, text) for style in STYLES for text in HPS[style]]
    assert hpsv2_reads(tmp_path / "out", prompts) == [(*row, number) for number, row in enumerate(rows)]
    Image.open(pictures / "00002.png").save(tmp_path / "as-in-the-readme.jpg")
    assert (tmp_path / "out/concept-art/00000.jpg").read_bytes() == (tmp_path / "as-in-the-readme.jpg").read_bytes()
    assert done.made == 6


def test_hpsv2_takes_its_styles_one_by_one_too(tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "prompts", "hpsv2")
    for style, texts in HPS.items():
        pictures = paint(tmp_path / style, len(texts), ".jpg")
        export("hpsv2", pictures, prompts / f"{style}.json", tmp_path / "out")
        assert (tmp_path / "out" / style / "00000.jpg").samefile(pictures / "00000.jpg")
    found = hpsv2_reads(tmp_path / "out", prompts)
    assert sorted(found) == [(style, text, row) for style in STYLES for row, text in enumerate(HPS[style])]


def test_partiprompts_become_an_image_folder(tmp_path: Path) -> None:
    prompts, pictures = write_prompts(tmp_path, "partiprompts"), paint(tmp_path / "pictures", 4)
    export("partiprompts", pictures, prompts, tmp_path / "out")
    keys = ("prompt", "category", "challenge", "note")
    assert imagefolder_reads(tmp_path / "out") == [
        (dict(zip(keys, row, strict=True)), number) for number, row in enumerate(PARTI)
    ]


def test_quotes_in_partiprompts_are_text(tmp_path: Path) -> None:
    path = write_prompts(tmp_path, "partiprompts")
    assert [(p.text, *p.metadata.values()) for p in read_partiprompts(path)] == PARTI
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, delimiter="\t"))  # the dialect that comes to mind first loses them
    assert rows[2][0] != PARTI[1][0]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_byte_order_mark_and_crlf_change_nothing(tmp_path: Path, name: str) -> None:
    path = write_prompts(tmp_path / "plain", name)
    for source in path.glob("*") if path.is_dir() else [path]:
        content = source.read_bytes()
        (tmp_path / source.name).write_bytes(b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n"))
    other = tmp_path if path.is_dir() else tmp_path / path.name
    assert BENCHMARKS[name].read(other) == BENCHMARKS[name].read(path)


def test_other_line_separators_are_text_but_where_the_script_splits_at_them(tmp_path: Path) -> None:
    row = GENEVAL[0] | {"prompt": "a\u2028b"}
    (tmp_path / "a.jsonl").write_text(json.dumps(row, ensure_ascii=False), encoding="utf-8")
    assert read_geneval(tmp_path / "a.jsonl")[0].text == "a\u2028b"
    (tmp_path / "a.txt").write_text("a b\tc\nd\u2028e\n", encoding="utf-8")
    assert [prompt.text for prompt in read_t2i_compbench(tmp_path / "a.txt")] == ["a b", "d", "e"]


def test_a_prompt_set_has_a_caption_for_each_image(tmp_path: Path) -> None:
    prompt_set = read_prompt_set("geneval", write_prompts(tmp_path, "geneval"))
    items = prompt_set.items()
    assert [item.key for item in items[3:6]] == ["00000-3", "00001-0", "00001-1"]
    assert [item.caption for item in items] == [GENEVAL[number // 4]["prompt"] for number in range(12)]
    assert sorted(select(items, 12, 1), key=lambda item: item.key) == items
    one_each = PromptSet("x", [BenchmarkPrompt("a"), BenchmarkPrompt("b")])
    assert [item.key for item in one_each.items()] == ["00000", "00001"]
    json.dumps(prompt_set.protocol)


def test_the_prompts_that_a_run_wrote_down_say_which_picture_is_which(tmp_path: Path) -> None:
    prompts, pictures = write_prompts(tmp_path, "t2i-compbench"), paint(tmp_path / "pictures", 6)
    captions = [item.caption for item in read_prompt_set("t2i-compbench", prompts, 2).items()]
    shuffled = [captions[k] for k in (3, 0, 5, 2, 1, 4)]
    claim.record_settings(pictures, {"prompts": shuffled})
    export("t2i-compbench", pictures, prompts, tmp_path / "out", images_per_prompt=2)
    found = compbench_reads(tmp_path / "out")
    assert [prompt for prompt, _ in found] == captions
    assert [shuffled[number] for _, number in found] == captions
    assert sorted(number for _, number in found) == list(range(6))


@pytest.mark.parametrize("made_from", [["x", *COMPBENCH[1:]], [*COMPBENCH, "more"], COMPBENCH[:2]])
def test_pictures_of_other_prompts_are_refused(tmp_path: Path, made_from: list[str]) -> None:
    prompts, pictures = write_prompts(tmp_path, "t2i-compbench"), paint(tmp_path / "pictures", 3)
    claim.record_settings(pictures, {"prompts": made_from})
    with pytest.raises(ValueError, match=r"other prompts.* differ in"):
        export("t2i-compbench", pictures, prompts, tmp_path / "out", images_per_prompt=1)
    assert not (tmp_path / "out").exists()


def test_a_run_json_of_another_program_says_nothing_and_a_broken_one_stops(tmp_path: Path) -> None:
    prompts, pictures = write_prompts(tmp_path, "partiprompts"), paint(tmp_path / "pictures", 4)
    (pictures / "run.json").write_text('{"settings": {"prompts": ["x"]}}')
    export("partiprompts", pictures, prompts, tmp_path / "out")
    (pictures / "run.json").write_text("{")
    with pytest.raises(ValueError, match=r"run\.json is broken"):
        export("partiprompts", pictures, prompts, tmp_path / "other")


def test_shards_are_exported_too(tmp_path: Path) -> None:
    prompts, shards = write_prompts(tmp_path, "partiprompts"), ImageShards(tmp_path / "shards", 4, 3)
    shards.folder.mkdir()
    for numbers in (range(3), range(3, 4)):
        shards.write(numbers, "s", [(number, Image.new("RGB", (16, 16), colour(number)), "p") for number in numbers])
    shards.finish("s")
    export("partiprompts", shards.folder, prompts, tmp_path / "out")
    assert [number for _, number in imagefolder_reads(tmp_path / "out")] == [0, 1, 2, 3]


def test_pictures_of_another_format_lose_nothing_more(tmp_path: Path) -> None:
    prompts, pictures = write_prompts(tmp_path, "partiprompts"), paint(tmp_path / "pictures", 4, ".jpg")
    export("partiprompts", pictures, prompts, tmp_path / "out")
    for number in range(4):
        with (
            Image.open(tmp_path / "out" / f"{number:05d}.png") as image,
            Image.open(pictures / f"{number:05d}.jpg") as own,
        ):
            assert image.format == "PNG"
            assert np.array_equal(np.asarray(image), np.asarray(own))


def test_without_links_there_are_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: object, place: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    prompts, pictures = write_prompts(tmp_path, "geneval"), paint(tmp_path / "pictures", 12)
    export("geneval", pictures, prompts, tmp_path / "out")
    copy = tmp_path / "out/00000/samples/0000.png"
    assert copy.read_bytes() == (pictures / "00000.png").read_bytes()
    assert not copy.samefile(pictures / "00000.png")


def test_a_link_to_a_picture_is_followed(tmp_path: Path) -> None:
    prompts, pictures = write_prompts(tmp_path, "partiprompts"), paint(tmp_path / "pictures", 4)
    (pictures / "00001.png").rename(tmp_path / "elsewhere.png")
    (pictures / "00001.png").symlink_to(Path("..") / "elsewhere.png")
    export("partiprompts", pictures, prompts, tmp_path / "out")
    assert not (tmp_path / "out" / "00001.png").is_symlink()
    assert [number for _, number in imagefolder_reads(tmp_path / "out")] == [0, 1, 2, 3]


KILLED = """
import os, signal, sys
from pathlib import Path
from ediffi.evaluation.compositional.export import export
from ediffi.evaluation.images.numbered import ImageFolder

class Deadly(ImageFolder):
    def __getitem__(self, index):
        if index == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, index)

original, ImageFolder.__getitem__ = ImageFolder.__getitem__, Deadly.__getitem__
export(sys.argv[1], *map(Path, sys.argv[2:]))
"""


@pytest.mark.parametrize("name", ["geneval", "hpsv2"])
def test_a_killed_export_goes_on(tmp_path: Path, name: str) -> None:
    prompts = write_prompts(tmp_path / "prompts", name)
    count = len(read_prompt_set(name, prompts).items())
    pictures, out = paint(tmp_path / "pictures", count), tmp_path / "out"
    command = [sys.executable, "-c", KILLED, name, *map(str, (pictures, prompts, out))]
    root = Path(benchmarks.__file__).parents[2]
    assert subprocess.run(command, cwd=root).returncode == -signal.SIGKILL
    os.link(pictures / "00000.png", out / first_room(name) / ".part")  # what a kill between link and rename leaves
    done = export(name, pictures, prompts, out)
    assert [which(Image.open(pictures / f"{number:05d}.png")) for number in range(count)] == list(range(count))
    assert (done.count, done.made) == (count, count - 5)
    again = export(name, pictures, prompts, out)
    assert (again.made, f"{count} of them existed" in str(again)) == (0, True)
    if name == "geneval":
        assert [number for _, number in geneval_reads(out)] == list(range(count))
    else:
        assert [number for *_, number in hpsv2_reads(out, prompts)] == list(range(count))
    assert not list(out.rglob("*.part"))


def test_what_was_damaged_since_is_exported_again(tmp_path: Path) -> None:
    prompts, pictures, out = write_prompts(tmp_path, "partiprompts"), paint(tmp_path / "pictures", 4), tmp_path / "out"
    export("partiprompts", pictures, prompts, out)
    (out / "00001.png").unlink()
    (out / "00001.png").write_bytes((pictures / "00001.png").read_bytes()[:-1])
    (out / "00002.png").unlink()
    (out / "00002.png").write_bytes((pictures / "00002.png").read_bytes())  # a copy is as good as a link
    assert export("partiprompts", pictures, prompts, out).made == 1
    assert [number for _, number in imagefolder_reads(out)] == [0, 1, 2, 3]


def first_room(name: str) -> str:
    return "anime" if name == "hpsv2" else ""


def test_an_export_survives_its_scripts(tmp_path: Path) -> None:
    """T2I-CompBench's scripts write their results beside `samples`; going on afterwards is no mistake."""
    prompts, pictures = write_prompts(tmp_path, "t2i-compbench"), paint(tmp_path / "pictures", 3)
    export("t2i-compbench", pictures, prompts, tmp_path / "out", 1)
    (tmp_path / "out" / "annotation_blip").mkdir()
    assert export("t2i-compbench", pictures, prompts, tmp_path / "out", 1).made == 0


def test_foreign_folders_are_refused_and_left_alone(tmp_path: Path) -> None:
    prompts, pictures, out = write_prompts(tmp_path, "partiprompts"), paint(tmp_path / "pictures", 4), tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("years")
    with pytest.raises(ValueError, match=r"thesis\.tex"):
        export("partiprompts", pictures, prompts, out)
    assert os.listdir(out) == ["thesis.tex"]
    with pytest.raises(NotADirectoryError, match="is a file"):
        export("partiprompts", pictures, prompts, out / "thesis.tex")
    with pytest.raises(ValueError, match="00000"):
        export("partiprompts", pictures, prompts, pictures)
    with pytest.raises(ValueError, match=r"thesis\.tex; only anime"):
        export("hpsv2", paint(tmp_path / "six", 6), write_prompts(tmp_path / "hps", "hpsv2"), out)


def test_another_export_is_not_gone_on_with(tmp_path: Path) -> None:
    prompts, pictures, out = write_prompts(tmp_path, "partiprompts"), paint(tmp_path / "pictures", 4), tmp_path / "out"
    export("partiprompts", pictures, prompts, out)
    (pictures / "00000.png").unlink()
    Image.effect_noise((32, 32), 90).convert("RGB").save(pictures / "00000.png")
    with pytest.raises(ValueError, match=r"with other settings: pictures was"):
        export("partiprompts", pictures, prompts, out)
    paint(pictures, 4)
    with pytest.raises(ValueError, match=r"with other settings: export was"):
        export("t2i-compbench", paint(tmp_path / "three", 3), write_prompts(tmp_path, "t2i-compbench"), out, 1)


@pytest.mark.parametrize("count", [11, 13])
def test_a_wrong_count_is_refused(tmp_path: Path, count: int) -> None:
    prompts, pictures = write_prompts(tmp_path, "geneval"), paint(tmp_path / "pictures", count)
    with pytest.raises(ValueError, match=f"geneval needs 12 images, .* has {count}$"):
        export("geneval", pictures, prompts, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-20]), "is a broken image"),
        (lambda path: Image.new("I;16", (8, 8)).save(path), r"00002\.png is 16-bit or float"),
        (lambda path: Image.new("RGBA", (8, 8), (0, 0, 0, 9)).save(path), r"00002\.png is transparent"),
        (lambda path: path.rename(path.with_name("7.png")), "none for caption 2"),
    ],
)
def test_bad_pictures_are_named(tmp_path: Path, spoil: Callable[[Path], object], message: str) -> None:
    prompts, pictures = write_prompts(tmp_path, "partiprompts"), paint(tmp_path / "pictures", 4)
    spoil(pictures / "00002.png")
    with pytest.raises(ValueError, match=message):
        export("partiprompts", pictures, prompts, tmp_path / "out")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a red/green cake", r'has "/" in it'),
        ("a snake_case cake", r'has "_" in it'),
        ("the file cake.png", r'has "\.png" in it'),
        ("a\x0bb", "has a control character in it"),
        ("é" * 123, "makes a file name of 257 bytes, more than 255"),
    ],
)
def test_prompts_that_no_file_name_can_carry_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^prompt 1 .*{message}, and T2I-CompBench reads prompts from file names$"):
        benchmarks.t2i_compbench([BenchmarkPrompt("fine"), BenchmarkPrompt(text)], 1)
    if "\x0b" not in text:  # where the benchmark's script ends a line
        (tmp_path / "color.txt").write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=message):
            export("t2i-compbench", paint(tmp_path / "images", 1), tmp_path / "color.txt", tmp_path / "out", 1)
    assert not (tmp_path / "out").exists()


def test_the_longest_prompt_fits(tmp_path: Path) -> None:
    text = "é" * 122
    (tmp_path / "color.txt").write_text(text, encoding="utf-8")
    export("t2i-compbench", paint(tmp_path / "pictures", 1), tmp_path / "color.txt", tmp_path / "out", 1)
    assert compbench_reads(tmp_path / "out") == [(text, 0)]


HEADER = "Prompt\tCategory\tChallenge\tNote\n"


@pytest.mark.parametrize(
    ("name", "file", "content", "message"),
    [
        ("partiprompts", "p.tsv", "", "must have the columns Prompt, Category, Challenge, Note"),
        ("partiprompts", "p.tsv", "Prompt\tCategory\nbond\tAbstract\n", "it has Prompt, Category$"),
        ("partiprompts", "p.tsv", HEADER + "bond\tAbstract\tBasic\n", "line 2: 3 fields, and there must be 4"),
        ("partiprompts", "p.tsv", HEADER + "bond\ta\tb\t\n \ta\tb\t\n", "line 3: the prompt is empty"),
        ("partiprompts", "p.tsv", HEADER + '"a ""b"" c"\ta\tb\t\n', "line 2: quoted as spreadsheets do"),
        ("partiprompts", "p.tsv", HEADER, "no prompts"),
        ("partiprompts", "p.tsv", HEADER + "x" * 200_000 + "\ta\tb\t\n", "not a table of prompts"),
        ("geneval", "p.jsonl", '{"tag": "colors"', "line 1: broken JSON"),
        ("geneval", "p.jsonl", json.dumps(GENEVAL[0]) + "\n\n", "line 2: broken JSON"),
        ("geneval", "p.jsonl", '{"prompt": "a bench"}', 'line 1: not an object with "prompt", "tag"'),
        ("geneval", "p.jsonl", '{"tag": "t", "include": [{"class": "a"}], "prompt": "a"}', "classes and counts"),
        ("geneval", "p.jsonl", '{"tag": "t", "include": []}', "the prompt must be a text, got null"),
        ("geneval", "p.jsonl", "[" * 100_000, "broken JSON"),
        ("t2i-compbench", "p.txt", "a cake\n\nb", "line 2: the prompt is empty"),
        ("t2i-compbench", "p.txt", "", "no prompts"),
        ("t2i-compbench", "p.txt", b"caf\xe9", "not UTF-8"),
        ("hpsv2", "p.json", "[]", r"must be named after its style: anime\.json, "),
        ("hpsv2", "anime.json", "[]", "no prompts"),
        ("hpsv2", "anime.json", '{"a": "b"}', "not a list of prompts"),
        ("hpsv2", "anime.json", '["a", {"p": 1}]', 'prompt 1: the prompt must be a text, got {"p": 1}'),
        ("hpsv2", "anime.json", '["a", ""]', "prompt 1: the prompt is empty"),
        ("hpsv2", "anime.json", '["a \\ud800"]', "lone surrogate"),
        ("hpsv2", "anime.json", "[", "broken JSON"),
    ],
)
def test_bad_prompt_files_are_named(tmp_path: Path, name: str, file: str, content: str | bytes, message: str) -> None:
    path = tmp_path / file
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message) as caught:
        read_prompt_set(name, path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path, "partiprompts")
    with pytest.raises(FileNotFoundError, match="no prompt file"):
        export("geneval", tmp_path, tmp_path / "none.jsonl", tmp_path / "out")
    with pytest.raises(FileNotFoundError, match=r"no prompt file .*anime\.json"):
        read_hpsv2(tmp_path)
    with pytest.raises(NotADirectoryError, match="no folder"):
        export("partiprompts", tmp_path / "none", prompts, tmp_path / "out")
    with pytest.raises(ValueError, match="no benchmark named 'genevil'; did you mean geneval"):
        export("genevil", tmp_path, prompts, tmp_path / "out")


def test_hpsv2_has_room_for_one_picture_a_prompt(tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "prompts", "hpsv2")
    with pytest.raises(ValueError, match="images_per_prompt 2"):
        export("hpsv2", paint(tmp_path / "pictures", 12), prompts, tmp_path / "out", 2)
    with pytest.raises(ValueError, match="images_per_prompt must be at least 1, got 0"):
        read_prompt_set("hpsv2", prompts, 0)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_what_to_run_names_the_folder_and_survives_a_shell(tmp_path: Path, name: str) -> None:
    out = tmp_path / "it's an export"
    text = find_benchmark(name).scoring(out, tmp_path / "complex_val.txt")
    words = [word for line in text.splitlines() if line.startswith("  ") for word in shlex.split(line)]
    if "-c" not in words:
        assert any(word.strip(")").endswith(str(out)) for word in words)
    else:
        code = words[words.index("-c") + 1]
        assert repr(str(out)) in code
        compile(code, name, "exec")


@pytest.mark.parametrize(
    ("file", "scripts"),
    [
        ("color_val_seen.txt", ["BLIP_vqa"]),
        ("spatial.txt", ["2D_spatial_eval"]),
        ("3d_spatial_val.txt", ["3D_spatial_eval"]),
        ("non_spatial_val.txt", ["CLIP_similarity"]),
        ("numeracy_val.txt", ["numeracy_eval"]),
        ("colorful.txt", re.findall(r"(\w+)\.py", " ".join(line for lines in SCRIPTS.values() for line in lines))),
        ("complex_val_action.txt", ["BLIP_vqa", "2D_spatial_eval", "CLIP_similarity", "3_in_1"]),
    ],
)
def test_compbench_scores_a_category_by_its_own_scripts(tmp_path: Path, file: str, scripts: list[str]) -> None:
    text = find_benchmark("t2i-compbench").scoring(tmp_path, Path(file))
    assert re.findall(r"(\w+)\.py", text) == scripts
    assert text.count("--complex True") == 2 * (file in ("complex_val_action.txt", "colorful.txt"))


def test_pictures_of_a_run_of_ours_keep_their_stamp(tmp_path: Path) -> None:
    prompts, pictures = write_prompts(tmp_path, "partiprompts"), tmp_path / "pictures"
    pictures.mkdir()
    for number in range(4):
        content = stamp.encode(Image.new("RGB", (16, 16), colour(number)), stamp.Stamp(number, "s"))
        (pictures / f"{number:05d}.png").write_bytes(content)
    export("partiprompts", pictures, prompts, tmp_path / "out")
    assert stamp.stamp_of(tmp_path / "out" / "00003.png") == stamp.Stamp(3, "s")
