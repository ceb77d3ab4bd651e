"""The compositional benchmarks: images per prompt, readers, the files their scripts read, and the scoring commands."""

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ediffi.evaluation.compositional import prompts as readers
from ediffi.evaluation.compositional.prompts import STYLES, BenchmarkPrompt, PromptSet
from ediffi.registry.core import UnknownNameError


@dataclass(frozen=True)
class ExportLayout:
    """Files of an export, as paths with "/" in its folder."""

    images: Sequence[str]  # of image k; the suffix says the format
    texts: Mapping[str, str] = field(default_factory=dict)  # contents of the other files
    folders: Sequence[str] = ("",)  # those that belong to the export alone; "" is its whole folder
    siblings: Sequence[str] = ()  # further allowed entries of the folder, where it does not belong to the export alone


class Benchmark(NamedTuple):
    """A benchmark whose authors' scripts score the images."""

    images_per_prompt: int  # of its protocol
    read: Callable[[Path], list[BenchmarkPrompt]]  # reads a prompt file
    layout: Callable[[Sequence[BenchmarkPrompt], int], ExportLayout]
    scoring: Callable[[Path, Path], str]  # the commands that score an export, from its folder and the prompt file


def find_benchmark(name: str) -> Benchmark:
    """The benchmark called `name`; raises UnknownNameError, which lists similar names."""
    if name not in BENCHMARKS:
        raise UnknownNameError.among(BENCHMARKS, "benchmark", name)
    return BENCHMARKS[name]


def read_prompt_set(name: str, path: Path, images_per_prompt: int | None = None) -> PromptSet:
    """The prompts in a benchmark's prompt file (of HPSv2 also the folder of its four), as a dataset.

    `images_per_prompt` is that of the benchmark's protocol by default. ValueError names what is no prompt file of it.
    """
    benchmark = find_benchmark(name)
    count = benchmark.images_per_prompt if images_per_prompt is None else images_per_prompt
    if not (prompts := benchmark.read(path)):
        raise ValueError(f"{path} has no prompts")
    return PromptSet(name, prompts, count)


def geneval(prompts: Sequence[BenchmarkPrompt], images_per_prompt: int) -> ExportLayout:
    """`00000/metadata.jsonl` and `00000/samples/0000.png`, ... for the prompt in row 0.

    djghosh13/geneval, README.md (image generation) and evaluation/evaluate_images.py, which visits each folder whose
    name is all digits, reads one JSON object, and takes each numbered .png. The README calls `grid.png` optional; no
    script reads it, and it is not written.
    """
    images = [f"{row:05d}/samples/{k:04d}.png" for row in range(len(prompts)) for k in range(images_per_prompt)]
    texts = {f"{row:05d}/metadata.jsonl": json.dumps(prompt.metadata) for row, prompt in enumerate(prompts)}
    return ExportLayout(images, texts)


def t2i_compbench(prompts: Sequence[BenchmarkPrompt], images_per_prompt: int) -> ExportLayout:
    """`samples/<prompt>_000012.png`, numbered through all prompts.

    Karine-Huang/T2I-CompBench, Readme.md (evaluation) and GORS_finetune/inference_eval.py. The scripts list `samples`,
    so nothing else is written there; they take the part before the first "_" as the prompt (BLIPvqa_eval/BLIP_vqa.py,
    CLIPScore_eval/CLIP_similarity.py), the part between the first two as the number (UniDet_eval), and cut at the first
    ".png" (UniDet_eval/numeracy_eval.py). 3_in_1_eval/3_in_1.py expects ten images a prompt. A prompt that such names
    cannot carry is a ValueError.
    """
    names = []
    for row, prompt in enumerate(prompts):
        for k in range(row * images_per_prompt, (row + 1) * images_per_prompt):
            names.append(f"{prompt.text}_{k:06d}.png")
        if problem := _not_a_name(prompt.text, names[-1]):
            what = f"prompt {row} ({prompt.text[:60]!r})"
            raise ValueError(f"{what} {problem}, and T2I-CompBench reads prompts from file names")
    return ExportLayout([f"samples/{name}" for name in names])


def _not_a_name(text: str, name: str) -> str | None:
    """Why the scripts could not read a prompt back from its file's name; None if they can."""
    for mark in ("/", "_", ".png"):
        if mark in text:
            return f'has "{mark}" in it'
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        return "has a control character in it"
    if (length := len(name.encode())) > 255:  # the limit of common file systems
        return f"makes a file name of {length} bytes, more than 255"
    return None


def hpsv2(prompts: Sequence[BenchmarkPrompt], images_per_prompt: int = 1) -> ExportLayout:
    """`anime/00000.jpg` for the first prompt of `anime.json`.

    tgxs002/HPSv2, README.md (custom evaluation) and hpsv2/evaluation.py, which takes every entry of the folder for a
    style, and looks for the number of each prompt. There the images are saved as JPEG at Pillow's default quality, and
    the published numbers are of such images; so they are here. The file names allow only one image of each prompt.
    """
    if images_per_prompt != 1:
        raise ValueError(f"HPSv2 takes 1 image of each prompt, got images_per_prompt {images_per_prompt}")
    images = [f"{prompt.metadata['style']}/{prompt.metadata['row']:05d}.jpg" for prompt in prompts]
    folders = list(dict.fromkeys(str(prompt.metadata["style"]) for prompt in prompts))
    return ExportLayout(images, folders=folders, siblings=STYLES)


def partiprompts(prompts: Sequence[BenchmarkPrompt], images_per_prompt: int = 1) -> ExportLayout:
    """`00000.png`, ... and `metadata.jsonl` with the file name, prompt, category, challenge and note of each.

    google-research/parti is a list of prompts without a script that reads images. Our choice: the folder that Hugging
    Face's `datasets` reads as "imagefolder".
    """
    each = [prompt for prompt in prompts for _ in range(images_per_prompt)]
    rows = [{"file_name": f"{k:05d}.png", "prompt": one.text, **one.metadata} for k, one in enumerate(each)]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return ExportLayout([row["file_name"] for row in rows], {"metadata.jsonl": lines})


def _score_geneval(output: Path, file: Path) -> str:
    """djghosh13/geneval, README.md (evaluation)."""
    images = shlex.quote(str(output.resolve()))
    return (
        "in a checkout of djghosh13/geneval with its environment (it needs a GPU):\n"
        "  ./evaluation/download_models.sh DETECTOR/\n"
        f"  python evaluation/evaluate_images.py {images} --outfile results.jsonl --model-path DETECTOR\n"
        "  python evaluation/summary_scores.py results.jsonl"
    )


BLIP = "(cd BLIPvqa_eval && python BLIP_vqa.py --out_dir={})"
CLIP = "python CLIPScore_eval/CLIP_similarity.py --outpath={}"
UNIDET = "(cd UniDet_eval && python %s_eval.py --outpath {}%s)"
THREE_IN_ONE = "(cd 3_in_1_eval && python 3_in_1.py --outpath {})"
SCRIPTS: Mapping[str, Sequence[str]] = {
    "color": [BLIP],
    "shape": [BLIP],
    "texture": [BLIP],
    "spatial": [UNIDET % ("2D_spatial", "")],
    "3d_spatial": [UNIDET % ("3D_spatial", "")],
    "numeracy": [UNIDET % ("numeracy", "")],
    "non_spatial": [CLIP],
    "complex": [BLIP, UNIDET % ("2D_spatial", " --complex True"), f"{CLIP} --complex True", THREE_IN_ONE],
}
"""The scripts of each category (T2I-CompBench, Readme.md); {} is the folder: 3D_spatial_eval.py fails at a last "/"."""


def _score_t2i_compbench(output: Path, file: Path) -> str:
    """The commands of the category that the prompt file is named after, `color_val.txt`; of all if there is none."""
    found = [category for category in SCRIPTS if f"{file.stem}_".startswith(f"{category}_")]
    checkout = "in a checkout of Karine-Huang/T2I-CompBench with its environment"
    lines = [f"{checkout} (it needs a GPU; weights: see its Readme.md):"]
    for category in found or SCRIPTS:
        lines += [] if found else [f"  # if the prompts are of the category {category}"]
        lines += [f"  {command.format(shlex.quote(str(output.resolve())))}" for command in SCRIPTS[category]]
    return "\n".join(lines)


def _score_hpsv2(output: Path, file: Path) -> str:
    """tgxs002/HPSv2, README.md (custom evaluation)."""
    call = f"import hpsv2; hpsv2.evaluate({str(output.resolve())!r}, hps_version='v2.1')"
    return (
        "with the package hpsv2 of tgxs002/HPSv2 installed, which fetches its weights and prompts\n"
        f"(scores of v2.0 and v2.1 do not compare):\n  python -c {shlex.quote(call)}"
    )


def _score_partiprompts(output: Path, file: Path) -> str:
    """google-research/parti has no script; the command loads the folder."""
    call = f"from datasets import load_dataset; print(load_dataset('imagefolder', data_dir={str(output.resolve())!r}))"
    return f"ask people: PartiPrompts has no script. This loads the folder:\n  python -c {shlex.quote(call)}"


# The numbers of images are from GenEval's README, T2I-CompBench's Readme and HPSv2's file names; PartiPrompts has none.
BENCHMARKS: Mapping[str, Benchmark] = {
    "geneval": Benchmark(4, readers.read_geneval, geneval, _score_geneval),
    "t2i-compbench": Benchmark(10, readers.read_t2i_compbench, t2i_compbench, _score_t2i_compbench),
    "hpsv2": Benchmark(1, readers.read_hpsv2, hpsv2, _score_hpsv2),
    "partiprompts": Benchmark(1, readers.read_partiprompts, partiprompts, _score_partiprompts),
}
