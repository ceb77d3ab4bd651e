"""Lay images out in the folders that the benchmarks' scripts read; an image file of the right format stays as it is."""

import filecmp
import os
import shutil
from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from ediffi.evaluation.compositional.benchmarks import ExportLayout, find_benchmark, read_prompt_set
from ediffi.evaluation.images import claim, stamp
from ediffi.evaluation.images.found import find_images
from ediffi.evaluation.images.members import SUFFIXES
from ediffi.evaluation.images.numbered import INDEX, ImageFolder, ImageShards, NumberedImages
from ediffi.io import files, plain_json
from ediffi.io.images import oddity, rgb
from ediffi.io.progress import Progress
from ediffi.io.prompt_files import literal

FORMATS = {".png": "PNG", ".jpg": "JPEG"}


@dataclass(frozen=True)
class Exported:
    """An exported folder: its images, how many of them this run wrote, and the commands that score it, for people."""

    folder: Path
    count: int
    made: int
    scoring: str

    def __str__(self) -> str:
        existed = f", {self.count - self.made} of them existed" if self.made < self.count else ""
        return f"{self.count} images in {self.folder}{existed}\nto score them, {self.scoring}"


def export(name: str, images: Path, prompts: Path, output: Path, images_per_prompt: int | None = None) -> Exported:
    """Lay out a folder of images for a compositional benchmark; resumes an export that was interrupted.

    Image k is of prompt k // images_per_prompt of the file. If a `run.json` beside the images records their prompts,
    that counts instead: then the images may be in any order.

    An image file of the layout's format is hard-linked, or copied where the file system cannot link. Others are decoded
    and written in that format. BlockingIOError: another export is writing to `output`. ValueError says which image,
    prompt or file does not fit the benchmark.
    """
    benchmark, prompt_set = find_benchmark(name), read_prompt_set(name, prompts, images_per_prompt)
    items = prompt_set.items()
    if (count := _count(images)) != len(items):
        each = f"{prompt_set.images_per_prompt} of each of {len(prompt_set.prompts)} prompts"
        raise ValueError(f"{name} needs {len(items)} images, {each}, and {images} has {count}")
    found = find_images(images, [item.key for item in items])
    order = _order([literal(item.caption) for item in items], images / claim.RUN)
    layout = benchmark.layout(prompt_set.prompts, prompt_set.images_per_prompt)
    _check_output(output, layout)
    settings = {"export": name, **prompt_set.protocol, "pictures": found.fingerprint()}
    settings["order"] = claim.settings_hash({"order": order})
    made = 0
    with ExitStack() as stack:
        for folder in layout.folders:
            (output / folder).mkdir(parents=True, exist_ok=True)
            stack.enter_context(claim.lock(output / folder))
            claim.record_settings(output / folder, settings)
        part = output / layout.folders[0] / ".part"  # not beside its target: the scripts read whole folders
        pairs = zip(order, layout.images, strict=True)
        for number, target in Progress(pairs, "exporting", len(order), unit="image"):
            file = found.path(number).resolve() if isinstance(found, ImageFolder) else None  # a shard has no files
            if not _is_whole(file, output / target):
                _put(found, number, file, output / target, part)
                made += 1
        for target, content in layout.texts.items():
            if not (output / target).exists():
                files.replace(output / target, content)
    return Exported(output, len(items), made, benchmark.scoring(output, prompts))


def _count(folder: Path) -> int:
    if not folder.is_dir():
        raise NotADirectoryError(f"no folder {folder}")
    if (folder / INDEX).exists():
        return len(ImageShards.read(folder))
    paths = (path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    return sum(path.suffix.lower() in SUFFIXES for path in paths)


def _order(wanted: Sequence[str], run: Path) -> list[int]:
    """The number of the image of each wanted prompt: by the prompts that a run recorded, or else 0, 1, 2, ..."""
    if (recorded := _recorded_prompts(run)) is None:
        return list(range(len(wanted)))
    there, needed = Counter(recorded), Counter(wanted)
    if differing := list(((there - needed) or (needed - there)).elements()):
        counts = f"{len(recorded)} other prompts than the {len(wanted)} of the benchmark"
        raise ValueError(f"{run} records images of {counts}: they differ in {differing[0][:60]!r}")
    places: dict[str, deque[int]] = defaultdict(deque)
    for number, text in enumerate(recorded):
        places[text].append(number)
    return [places[text].popleft() for text in wanted]


def _recorded_prompts(run: Path) -> list[str] | None:
    """The prompts in a `run.json` that `ediffi` wrote."""
    if not run.exists():
        return None
    try:
        content = plain_json.read(run)
    except ValueError as error:
        raise ValueError(f"{run} is broken, so the prompts of the images are unknown: {error}") from None
    if not isinstance(content, dict) or content.get("format") != claim.FORMAT:
        return None
    settings = content.get("settings")
    texts = settings.get("prompts") if isinstance(settings, dict) else None
    return texts if isinstance(texts, list) and all(isinstance(text, str) for text in texts) else None


def _check_output(output: Path, layout: ExportLayout) -> None:
    """Refuse a folder with files of anything but an export, before anything is written."""
    if output.exists() and not output.is_dir():
        raise NotADirectoryError(f"{output} is a file; the export needs a folder")
    if layout.siblings and output.is_dir() and (found := {path.name for path in output.iterdir()} - {*layout.siblings}):
        raise ValueError(f"{output} contains {min(found)}; only {', '.join(layout.siblings)} are allowed there")
    for folder in (output / name for name in layout.folders):
        if folder.is_dir() and not (folder / claim.RUN).exists():
            names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
            if others := [name for name in names if name != f"{claim.RUN}.tmp"]:
                raise ValueError(f"{folder} contains {others[0]} and is no export; choose another folder")


def _is_whole(file: Path | None, target: Path) -> bool:
    """Whether the target exists, and has the very bytes of the image's file if both have the same format."""
    if not target.exists() or file is None or file.suffix.lower().replace(".jpeg", ".jpg") != target.suffix:
        return target.exists()
    return target.samefile(file) or filecmp.cmp(target, file, shallow=False)


def _put(images: NumberedImages, number: int, file: Path | None, target: Path, part: Path) -> None:
    image = images[number]
    if odd := oddity(image):
        raise ValueError(f"{images.name(number)} is {odd}; the benchmarks' scripts read plain 8-bit images")
    target.parent.mkdir(parents=True, exist_ok=True)
    part.unlink(missing_ok=True)
    if file is not None and image.format == FORMATS[target.suffix]:
        if image.format == "PNG":
            stamp.stamp_of(file)  # checks its checksums: PIL decodes a file whose end is lost
        try:
            os.link(file, part)
        except OSError:  # the file system cannot link
            shutil.copyfile(file, part)
    else:
        rgb(image).save(part, FORMATS[target.suffix])
    part.replace(target)
