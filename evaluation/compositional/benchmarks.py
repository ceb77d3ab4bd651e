"""The compositional benchmarks: images per prompt, readers, folders, and the commands that score them."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ediffi.evaluation.compositional import layouts, prompts
from ediffi.evaluation.compositional.layouts import ExportLayout
from ediffi.evaluation.compositional.prompts import BenchmarkPrompt, PromptSet
from ediffi.registry.core import UnknownNameError


class Benchmark(NamedTuple):
    """A benchmark whose authors' scripts score the images.

    Attributes:
        images_per_prompt: how many images of each prompt its protocol has.
        read: reads a prompt file.
        layout: the files of an export.
        scoring: the commands that score an export, from its folder and the prompt file.
    """

    images_per_prompt: int
    read: Callable[[Path], list[BenchmarkPrompt]]
    layout: Callable[[Sequence[BenchmarkPrompt], int], ExportLayout]
    scoring: Callable[[Path, Path], str]


def find_benchmark(name: str) -> Benchmark:
    """The benchmark called `name`; raises UnknownNameError, which lists similar names."""
    if name not in BENCHMARKS:
        raise UnknownNameError.among(BENCHMARKS, "benchmark", name)
    return BENCHMARKS[name]


def read_prompt_set(name: str, path: Path, images_per_prompt: int | None = None) -> PromptSet:
    """The prompts in a benchmark's prompt file, as a dataset.

    Args:
        name: of the benchmark.
        path: its prompt file; of HPSv2 also the folder of its four.
        images_per_prompt: by default the number of the benchmark's protocol.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: there is no such benchmark, or the file is not a prompt file of it.
    """
    benchmark = find_benchmark(name)
    count = benchmark.images_per_prompt if images_per_prompt is None else images_per_prompt
    return PromptSet(name, benchmark.read(path), count)


def _score_geneval(output: Path, file: Path) -> str:
    """djghosh13/geneval, README.md (evaluation)."""
    return (
        "in a checkout of djghosh13/geneval with its environment (it needs a GPU):\n"
        "  ./evaluation/download_models.sh DETECTOR/\n"
        f"  python evaluation/evaluate_images.py {_quoted(output)} --outfile results.jsonl --model-path DETECTOR\n"
        "  python evaluation/summary_scores.py results.jsonl"
    )


BLIP = "(cd BLIPvqa_eval && python BLIP_vqa.py --out_dir={})"
CLIP = "python CLIPScore_eval/CLIP_similarity.py --outpath={}"
UNIDET = "(cd UniDet_eval && python {script}_eval.py --outpath {{}})"
SPATIAL = UNIDET.format(script="2D_spatial")
SCRIPTS: Mapping[str, Sequence[str]] = {
    "color": [BLIP],
    "shape": [BLIP],
    "texture": [BLIP],
    "spatial": [SPATIAL],
    "3d_spatial": [UNIDET.format(script="3D_spatial")],
    "numeracy": [UNIDET.format(script="numeracy")],
    "non_spatial": [CLIP],
    "complex": [
        BLIP,
        SPATIAL.replace("{})", "{} --complex True)"),
        f"{CLIP} --complex True",
        "(cd 3_in_1_eval && python 3_in_1.py --outpath {})",
    ],
}
"""Which script scores which category (Karine-Huang/T2I-CompBench, Readme.md); {} is the folder, without a "/" at its
end, with which 3D_spatial_eval.py fails."""


def _score_t2i_compbench(output: Path, file: Path) -> str:
    """The commands of the category that the prompt file is named after, `color_val.txt`; of all if there is none."""
    found = [category for category in SCRIPTS if f"{file.stem}_".startswith(f"{category}_")]
    lines = [
        "in a checkout of Karine-Huang/T2I-CompBench with its environment (it needs a GPU; weights: see its Readme.md):"
    ]
    for category in found or SCRIPTS:
        lines += [] if found else [f"  # if the prompts are of the category {category}"]
        lines += [f"  {command.format(_quoted(output))}" for command in SCRIPTS[category]]
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


def _quoted(path: Path) -> str:
    return shlex.quote(str(path.resolve()))


# The numbers of images are from GenEval's README, T2I-CompBench's Readme and HPSv2's file names; PartiPrompts has none.
BENCHMARKS: Mapping[str, Benchmark] = {
    "geneval": Benchmark(4, prompts.read_geneval, layouts.geneval, _score_geneval),
    "t2i-compbench": Benchmark(10, prompts.read_t2i_compbench, layouts.t2i_compbench, _score_t2i_compbench),
    "hpsv2": Benchmark(1, prompts.read_hpsv2, layouts.hpsv2, _score_hpsv2),
    "partiprompts": Benchmark(1, prompts.read_partiprompts, layouts.partiprompts, _score_partiprompts),
}
