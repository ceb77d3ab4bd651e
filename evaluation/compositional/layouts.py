"""The files and folders that the scripts of each benchmark read. Pure functions of the prompts."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ediffi.evaluation.compositional.prompts import STYLES, BenchmarkPrompt

MAX_NAME = 255
"""Longest file name in bytes on common file systems."""


@dataclass(frozen=True)
class ExportLayout:
    """Files of an export, as paths with "/" in its folder.

    Attributes:
        images: of image k; the suffix says the format.
        texts: contents of the other files.
        folders: folders that belong to the export alone; "" is its whole folder.
        siblings: names of further allowed entries in the folder, where it does not belong to the export alone.
    """

    images: Sequence[str]
    texts: Mapping[str, str] = field(default_factory=dict)
    folders: Sequence[str] = ("",)
    siblings: Sequence[str] = ()


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
    ".png" (UniDet_eval/numeracy_eval.py). 3_in_1_eval/3_in_1.py expects ten images a prompt.

    Raises:
        ValueError: a prompt has "/", "_", ".png" or a control character, or is too long for a file name: the scripts
            of the benchmark could not write it, or would read another prompt back.
    """
    names = []
    for row, prompt in enumerate(prompts):
        for k in range(row * images_per_prompt, (row + 1) * images_per_prompt):
            names.append(f"{prompt.text}_{k:06d}.png")
        if problem := _not_a_name(prompt.text, names[-1]):
            raise ValueError(
                f"prompt {row} ({prompt.text[:60]!r}) {problem}, and T2I-CompBench reads prompts from file names"
            )
    return ExportLayout([f"samples/{name}" for name in names])


def _not_a_name(text: str, name: str) -> str | None:
    """Why the scripts could not read a prompt back from its file's name; None if they can."""
    for mark in ("/", "_", ".png"):
        if mark in text:
            return f'has "{mark}" in it'
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        return "has a control character in it"
    if (length := len(name.encode())) > MAX_NAME:
        return f"makes a file name of {length} bytes, more than {MAX_NAME}"
    return None


def hpsv2(prompts: Sequence[BenchmarkPrompt], images_per_prompt: int = 1) -> ExportLayout:
    """`anime/00000.jpg` for the first prompt of `anime.json`.

    tgxs002/HPSv2, README.md (custom evaluation) and hpsv2/evaluation.py, which takes every entry of the folder for a
    style, and looks for the number of each prompt. There the images are saved as JPEG at Pillow's default quality, and
    the published numbers are of such images; so they are here.

    Raises:
        ValueError: `images_per_prompt` is not 1, the only number that the file names allow.
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
