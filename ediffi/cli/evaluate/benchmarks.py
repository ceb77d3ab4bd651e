"""`ediffi evaluate prompts` and `export`: the files of compositional benchmarks."""

import json
from pathlib import Path


def prompts(benchmark: str, file: Path, output: Path, images_per_prompt: int | None = None) -> None:
    """Convert the prompt file of a compositional benchmark for `ediffi sample --prompts`, a line for each image.

    Args:
        benchmark: geneval, t2i-compbench, hpsv2 or partiprompts.
        file: its prompt file; of hpsv2 also the folder of its four.
        output: a .jsonl file.
        images_per_prompt: of the benchmark's protocol by default.
    """
    from ediffi.evaluation.compositional.benchmarks import read_prompt_set
    from ediffi.io.files import replace
    from ediffi.io.prompt_files import literal

    if output.suffix != ".jsonl":
        raise ValueError(f"--output must end in .jsonl, got {str(output)!r}")
    items = read_prompt_set(benchmark, file, images_per_prompt).items()
    lines = [json.dumps({"prompt": literal(item.caption)}) for item in items]
    replace(output, ("\n".join(lines) + "\n").encode())
    print(f"{len(lines)} prompts in {output}")


def export(benchmark: str, images: Path, prompts: Path, output: Path, images_per_prompt: int | None = None) -> None:
    """Copy images to where the scripts of a compositional benchmark read them.

    Args:
        benchmark: geneval, t2i-compbench, hpsv2 or partiprompts.
        images: folder of numbered images or shards, as `ediffi sample --prompts` writes them.
        prompts: the benchmark's prompt file.
        output: folder of the export.
        images_per_prompt: of the benchmark's protocol by default.
    """
    from ediffi.evaluation.compositional import export as benchmark_files

    print(benchmark_files.export(benchmark, images, prompts, output, images_per_prompt))
