"""Prompts of the compositional benchmarks: their files, read as the benchmarks' scripts read them."""

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ediffi.evaluation.datasets.captioned import CaptionedImage
from ediffi.evaluation.images.claim import settings_hash
from ediffi.io import prompt_files

STYLES = ("anime", "concept-art", "paintings", "photo")
"""HPSv2's styles, in the order of its list of prompt files (tgxs002/HPSv2, hpsv2/utils.py)."""

COLUMNS = ("Prompt", "Category", "Challenge", "Note")  # columns of google-research/parti, PartiPrompts.tsv

_QUOTED = re.compile(r'"(?:[^"]|"")*"')


@dataclass(frozen=True)
class BenchmarkPrompt:
    """A prompt of a benchmark."""

    text: str  # as in the file, white space included
    metadata: Mapping[str, Any] = field(default_factory=dict)  # the file's other values for it, plain JSON


class PromptSet:
    """A benchmark's prompts, each for `images_per_prompt` images: image k is of prompt k // images_per_prompt.

    `prompts` are in the order of the benchmark's file; the same text may occur twice.
    """

    def __init__(self, name: str, prompts: Sequence[BenchmarkPrompt], images_per_prompt: int = 1) -> None:
        if images_per_prompt < 1:
            raise ValueError(f"images_per_prompt must be at least 1, got {images_per_prompt}")
        self.name, self.prompts, self.images_per_prompt = name, list(prompts), images_per_prompt
        self.protocol: Mapping[str, Any] = {
            "prompts": len(self.prompts),
            "images_per_prompt": images_per_prompt,
            "sha256": settings_hash({"prompts": [[prompt.text, prompt.metadata] for prompt in self.prompts]}),
            "references": "none",
        }

    def items(self) -> list[CaptionedImage]:
        """A caption for each image; the key is "00007" for row 7, "00007-2" for its third image of several."""
        keys = [f"{row:05d}" for row in range(len(self.prompts))]
        if self.images_per_prompt > 1:
            keys = [f"{key}-{sample}" for key in keys for sample in range(self.images_per_prompt)]
        return [CaptionedImage(key, self.prompts[k // self.images_per_prompt].text, key) for k, key in enumerate(keys)]


def read_geneval(path: Path) -> list[BenchmarkPrompt]:
    """GenEval's `evaluation_metadata.jsonl`: "prompt", "tag" and "include" in each line (djghosh13/geneval, prompts/).

    The metadata is the whole object, which `evaluation/evaluate_images.py` needs.
    """
    prompts = []
    for where, line in prompt_files.read_lines(path):
        row = prompt_files.parse_json(line, where)
        if not (isinstance(row, dict) and isinstance(row.get("tag"), str) and _is_include(row.get("include"))):
            raise ValueError(f'{where}: not an object with "prompt", "tag", and a list "include" of classes and counts')
        prompts.append(BenchmarkPrompt(prompt_files.check_text(row.get("prompt"), where), row))
    return prompts


def read_t2i_compbench(path: Path) -> list[BenchmarkPrompt]:
    """T2I-CompBench's prompts: one a line, up to the first tab if there is one.

    Karine-Huang/T2I-CompBench, GORS_finetune/inference_eval.py, which splits lines as `str.splitlines` does; the files
    are in examples/dataset/, one a category.
    """
    prompts = []
    for number, line in enumerate(prompt_files.read_text(path).splitlines(), start=1):
        text = prompt_files.check_text(line.split("\t")[0], f"{path}, line {number}")
        prompts.append(BenchmarkPrompt(text, {"category": path.stem}))
    return prompts


def read_hpsv2(path: Path) -> list[BenchmarkPrompt]:
    """HPSv2's prompts: a JSON list of texts for each style (tgxs002/HPSv2, hpsv2/evaluation.py).

    The files are in https://huggingface.co/datasets/zhwang/HPDv2, benchmark/. `path` is the file of a style, as
    `anime.json`, or the folder with all of them, which are then read in the order of `STYLES`.
    """
    if path.is_dir():
        return [prompt for style in STYLES for prompt in read_hpsv2(path / f"{style}.json")]
    if path.suffix != ".json" or path.stem not in STYLES:
        raise ValueError(f"{path} must be named after its style: {', '.join(f'{style}.json' for style in STYLES)}")
    texts = prompt_files.parse_json(prompt_files.read_text(path), str(path))
    if not isinstance(texts, list) or not texts:
        raise ValueError(f"{path} has no prompts, or is not a list of prompts")
    return [
        BenchmarkPrompt(prompt_files.check_text(text, f"{path}, prompt {row}"), {"style": path.stem, "row": row})
        for row, text in enumerate(texts)
    ]


def read_partiprompts(path: Path) -> list[BenchmarkPrompt]:
    """PartiPrompts: tab-separated, a header of `COLUMNS`, and quotes that are text (google-research/parti).

    Quotes are not removed: a prompt that begins with a quoted word would lose its quotes.
    """
    lines = [line for _, line in prompt_files.read_lines(path)]
    try:
        rows = list(csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    except csv.Error as error:
        raise ValueError(f"{path} is not a table of prompts: {error}") from None
    if not rows or tuple(rows[0]) != COLUMNS:
        found = ", ".join(rows[0]) if rows else "none"
        raise ValueError(f"{path} must have the columns {', '.join(COLUMNS)}, separated by tabs; it has {found[:200]}")
    prompts = []
    for number, row in enumerate(rows[1:], start=2):
        where = f"{path}, line {number}"
        if len(row) != len(COLUMNS):
            raise ValueError(f"{where}: {len(row)} fields, and there must be {len(COLUMNS)}")
        if any('""' in value and _QUOTED.fullmatch(value) for value in row):
            raise ValueError(f"{where}: quoted as spreadsheets do; in the published file quotes are text")
        metadata = dict(zip(("category", "challenge", "note"), row[1:], strict=True))
        prompts.append(BenchmarkPrompt(prompt_files.check_text(row[0], where), metadata))
    return prompts


def _is_include(value: Any) -> bool:
    """Whether it is a list of classes with counts, which GenEval looks for in an image."""
    return isinstance(value, list) and all(
        isinstance(item, dict) and isinstance(item.get("class"), str) and isinstance(item.get("count"), int)
        for item in value
    )
