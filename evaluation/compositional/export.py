"""Pictures into the folders that the benchmarks' own scripts read, not compressed again where the format is theirs."""

import filecmp
import json
import os
import shutil
from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from ediffi.evaluation.compositional.benchmarks import Benchmark, named, read_prompt_set
from ediffi.evaluation.compositional.layouts import Layout
from ediffi.evaluation.compositional.prompt_set import PromptSet
from ediffi.evaluation.images import claim, stamp
from ediffi.evaluation.images.folder import PictureFolder
from ediffi.evaluation.images.found import SUFFIXES, FoundPictures, find_pictures
from ediffi.evaluation.images.numbered import Pictures
from ediffi.evaluation.images.shards import INDEX, PictureShards
from ediffi.io import files
from ediffi.io.images import oddity, rgb

FORMATS = {".png": "PNG", ".jpg": "JPEG"}
SUFFIXES_OF = {"PNG": {".png"}, "JPEG": {".jpg", ".jpeg"}}


@dataclass(frozen=True)
class Exported:
    """What an export came to.

    Attributes:
        folder: where it is.
        count: pictures in it.
        made: by this run; the others were there.
        scoring: what to run on it, for people to read.
    """

    folder: Path
    count: int
    made: int
    scoring: str

    def __str__(self) -> str:
        there = f", {self.count - self.made} of them were there" if self.made < self.count else ""
        return f"{self.count} pictures in {self.folder}{there}\nto score them, {self.scoring}"


def export(suite: str, pictures: Path, prompts: Path, output: Path, images_per_prompt: int | None = None) -> Exported:
    """Lay out a folder of pictures for a compositional benchmark.

    Picture k is of prompt k // images_per_prompt of the file. Where a `run.json` beside the pictures says which prompts
    they were made from, that counts instead: they may stand in any order.

    Args:
        suite: "geneval", "t2i-compbench", "hpsv2" or "partiprompts".
        pictures: folder of numbered pictures, or of shards.
        prompts: the benchmark's own prompt file.
        output: folder of the export; new, or of the same export to go on with.
        images_per_prompt: by default what the benchmark's protocol has.

    Raises:
        OSError: a file or folder is missing, or cannot be written.
        BlockingIOError: another export is at work in `output`.
        ValueError: there are not as many pictures as asked for, they are of other prompts, one is broken or not plain
            8-bit, `prompts` is not a prompt file of the benchmark, or `output` holds something else.
    """
    prompt_set = read_prompt_set(suite, prompts, images_per_prompt)
    _check_count(prompt_set, _count(pictures), str(pictures))
    found = find_pictures(pictures, [item.key for item in prompt_set.items()])
    order = _order(prompt_set, pictures / claim.RUN)
    benchmark = named(suite)
    made = export_pictures(benchmark, prompt_set, found, output, order)
    return Exported(output, len(prompt_set), made, benchmark.scoring(output, prompts))


def export_pictures(
    benchmark: Benchmark, prompt_set: PromptSet, pictures: Pictures, output: Path, order: Sequence[int] | None = None
) -> int:
    """Write what is missing of an export; how many pictures that were.

    A picture file of the format asked for is linked, and shares its bytes with the export from then on, or copied
    where the file system does not link. Others are decoded and written in that format.

    Args:
        benchmark: whose layout it gets.
        prompt_set: its prompts.
        pictures: as many as the prompt set wants.
        output: folder of the export; new, or of the same export to go on with.
        order: which picture stands in for item 0, 1, ... of the prompt set; by default the one with its number.

    Raises:
        OSError: a file is missing, or cannot be written.
        BlockingIOError: another export is at work in `output`.
        ValueError: there are more or fewer pictures, one is broken or not plain 8-bit, a prompt does not fit the
            layout, or `output` holds something else.
    """
    _check_count(prompt_set, len(pictures), "the folder")
    numbers = list(range(len(pictures))) if order is None else list(order)
    layout = benchmark.layout(prompt_set.prompts, prompt_set.images_per_prompt)
    _check_output(output, layout)
    settings = {"export": benchmark.name, **prompt_set.protocol, "pictures": pictures.fingerprint()}
    settings["order"] = claim.settings_hash({"order": numbers})
    made = 0
    with ExitStack() as stack:
        for room in layout.rooms:
            (output / room).mkdir(parents=True, exist_ok=True)
            stack.enter_context(claim.held(output / room))
            claim.settle(output / room, settings)
        aside = output / layout.rooms[0] / ".part"  # not beside its place: the scripts read whole folders
        for number, name in zip(
            tqdm(numbers, desc="exporting", unit="picture", disable=None), layout.pictures, strict=True
        ):
            if not _is_whole(pictures, number, output / name):
                _put(pictures, number, output / name, aside)
                made += 1
        for name, content in layout.texts.items():
            if not (target := output / name).exists():
                files.replace(target, content.encode())
    return made


def _check_count(prompt_set: PromptSet, found: int, where: str) -> None:
    if found != len(prompt_set):
        each = prompt_set.images_per_prompt
        raise ValueError(
            f"{prompt_set.name} wants {len(prompt_set)} pictures, {each} of each of {len(prompt_set.prompts)} prompts, "
            f"and {where} has {found}"
        )


def _count(folder: Path) -> int:
    """How many pictures a folder holds."""
    if not folder.is_dir():
        raise NotADirectoryError(f"no folder {folder}")
    if (folder / INDEX).exists():
        return len(PictureShards.read(folder))
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.is_file()]
    return sum(Path(name).suffix.lower() in SUFFIXES and not name.startswith(".") for name in names)


def _order(prompt_set: PromptSet, run: Path) -> list[int] | None:
    """The picture of each item by the prompts that a run wrote down; None if it wrote none.

    Raises:
        ValueError: they are not the prompt set's.
    """
    if (made_from := _recorded(run)) is None:
        return None
    wanted = [item.caption for item in prompt_set.items()]
    there, asked = Counter(made_from), Counter(wanted)
    if strangers := list(((there - asked) or (asked - there)).elements()):
        raise ValueError(
            f"{run.parent} holds pictures of {len(made_from)} other prompts than the {len(wanted)} asked for, says its "
            f"{run.name}: they differ in {strangers[0][:60]!r}"
        )
    places: dict[str, deque[int]] = defaultdict(deque)
    for number, text in enumerate(made_from):
        places[text].append(number)
    return [places[text].popleft() for text in wanted]


def _recorded(run: Path) -> list[str] | None:
    """The prompts in a `run.json` of ours."""
    if not run.exists():
        return None
    try:
        content = json.loads(run.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{run} is broken, so it is not known which prompts the pictures are of: {error}") from None
    if not isinstance(content, dict) or content.get("format") != claim.FORMAT:
        return None
    settings = content.get("settings")
    texts = settings.get("prompts") if isinstance(settings, dict) else None
    return texts if isinstance(texts, list) and all(isinstance(text, str) for text in texts) else None


def _check_output(output: Path, layout: Layout) -> None:
    """Refuse a folder that holds anything that is no export, before anything is written."""
    if output.exists() and not output.is_dir():
        raise NotADirectoryError(f"{output} is a file; the export needs a folder")
    if layout.siblings and output.is_dir():
        for name in sorted(path.name for path in output.iterdir()):
            if name not in layout.siblings:
                raise ValueError(f"{output} holds {name}; only {', '.join(layout.siblings)} may stand there")
    for room in (output / name for name in layout.rooms):
        if room.is_dir() and not (room / claim.RUN).exists():
            names = sorted(path.name for path in room.iterdir() if not path.name.startswith("."))
            if strangers := [name for name in names if name != f"{claim.RUN}.tmp"]:
                raise ValueError(f"{room} holds {strangers[0]} and is no export; choose another folder")


def _is_whole(pictures: Pictures, number: int, target: Path) -> bool:
    """Is a picture there? A file in its own format has the very bytes of the picture's; others are there or not."""
    file = _file(pictures, number)
    if not target.exists() or file is None or file.suffix.lower() not in SUFFIXES_OF[FORMATS[target.suffix]]:
        return target.exists()
    return target.samefile(file) or filecmp.cmp(target, file, shallow=False)


def _file(pictures: Pictures, number: int) -> Path | None:
    """The file of a picture that has one to itself."""
    if not isinstance(pictures, FoundPictures | PictureFolder):
        return None
    return (pictures.folder / pictures.name(number)).resolve()


def _put(pictures: Pictures, number: int, target: Path, aside: Path) -> None:
    """One picture, written aside and then into its place."""
    image, file = pictures[number], _file(pictures, number)
    if odd := oddity(image):
        raise ValueError(f"{pictures.name(number)} is {odd}; the benchmarks' scripts read plain 8-bit pictures")
    target.parent.mkdir(parents=True, exist_ok=True)
    aside.unlink(missing_ok=True)
    if file is not None and image.format == FORMATS[target.suffix]:
        if image.format == "PNG":
            stamp.stamp_of(file)  # its checksums: decoding forgives a lost end
        _link(file, aside)
    else:
        rgb(image).save(aside, FORMATS[target.suffix])
    aside.replace(target)


def _link(file: Path, place: Path) -> None:
    """The file under another name; its copy, where links cannot be made."""
    try:
        os.link(file, place)
    except OSError:
        shutil.copyfile(file, place)
