"""`ediffi evaluate --suite NAME`, and what stands around it: preparing data, comparing models, exporting pictures."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ediffi.cli.parser import UsageError, call, run

if TYPE_CHECKING:
    from ediffi.evaluation.suite import Suite


def evaluate(
    suite: str = "toybox",
    model: str | None = None,
    images: Path | None = None,
    output: Path | None = None,
    root: Path | None = None,
    guidance_scale: str | None = None,
    count: int | None = None,
    seed: int | None = None,
    num_inference_steps: list[int] | None = None,
    sampler: str | None = None,
    feature_extractor: str | None = None,
    feature_weights: str | None = None,
    clip: str | None = None,
    clip_score: bool = True,
    reference: Path | None = None,
    cache: Path = Path("runs/reference"),
    strict: bool = True,
    batch_size: int = 8,
    shard_size: int | None = None,
    devices: int = 1,
    num_nodes: int = 1,
    threads: int = 1,
    workers: int = 0,
    device: str = "cpu",
    expert_residency: Literal["resident", "stream"] = "resident",
) -> None:
    """Judge a model by a suite: Fréchet distance, KID, precision and recall, CLIP score, and a report page.

    The same command goes on where it was cut. Besides: `ediffi evaluate suites`, `prepare`, `compare`, `export`.

    Args:
        suite: one that ships (`ediffi evaluate suites`), or a YAML file.
        model: the shipped "toybox" by default, or a folder.
        images: a folder of pictures that any system made of the suite's captions, instead of a model: named by number
            (00000.png) or by annotation id.
        output: folder of pictures, results.json and report.html (default: runs/evaluation/SUITE-MODEL).
        root: folder of the data set (default: data/coco2014, data/visual-genome).
        guidance_scale: one or several, as in 0,1,2,3; of the base stage. The suite's own by default.
        count: fewer captions than the suite's; the numbers then compare with nobody's.
        seed: of the selection and the pictures.
        num_inference_steps: steps of the base stage, or [one, for, each, stage].
        sampler: a registered sampler, or a preset (paper-steps, paper-nfe).
        feature_extractor: of torch-fidelity (inception-v3-compat, dinov2-vit-l-14, ...), or clip.
        feature_weights: a file with its weights.
        clip: a folder with the CLIP that scores, or a repository of the Hub.
        clip_score: whether captions are scored.
        reference: an .npz of pytorch-fid or clean-fid to compare with, instead of the data set's own pictures.
        cache: folder of reference statistics.
        strict: refuse CMYK, 16-bit, animated and broken pictures; otherwise convert or leave out, and count them.
        batch_size: pictures at a time; a part of the settings.
        shard_size: WebDataset shards of so many pictures, instead of PNG files.
        devices: processes on this machine, each with a device of its own; the pictures are the same.
        num_nodes: machines; torchrun does as well, and says both numbers itself.
        threads: of the processor in each process that paints; a setting, since it changes last bits.
        workers: processes that decode pictures, for each process that judges.
        device: cpu, cuda, ...
        expert_residency: resident keeps all experts in memory, stream only the one in use.
    """
    if model is not None and images is not None:
        raise UsageError("--model and --images are two ways to say what is judged; give one")

    import sys
    from importlib.util import find_spec

    if find_spec("torch_fidelity") is None:
        raise ValueError("judging needs torch-fidelity; install it with: pip install 'ediffi[eval]'")

    from ediffi.evaluation.suite import read_suite
    from ediffi.io.distributed import launch
    from ediffi.pipeline.evaluation_run import Evaluation
    from ediffi.pipeline.options import SamplingOptions

    scales = None if guidance_scale is None else _scales(guidance_scale)
    networks = {"feature_extractor": feature_extractor, "feature_weights": feature_weights}
    chosen = read_suite(suite, count=count, seed=seed, guidance_scales=scales, **networks)
    evaluation = Evaluation(
        chosen if clip is None else chosen.with_clip(clip),
        output or _output(chosen, model, images),
        root,
        cache,
        launch(device, devices, num_nodes),
        batch_size=batch_size,
        num_workers=workers,
        strict=strict,
        clip_score=clip_score,
        statistics=reference,
        command=" ".join(["ediffi", *sys.argv[1:]]),
    )
    if images is not None:
        evaluation.tell(evaluation.judge_images(images))
    else:
        options = SamplingOptions(num_inference_steps=num_inference_steps, sampler=sampler)
        evaluation.tell(evaluation.judge_model(model or "toybox", options, shard_size, threads, expert_residency))


def suites() -> None:
    """List the suites that ship."""
    from ediffi.evaluation.suite import read_suite, shipped

    for name in shipped():
        print(f"{name:<22} {read_suite(name).about}")


def prepare(dataset: str, root: Path | None = None, thorough: bool = False) -> int:
    """Check a data set: what is there, what is missing, what to download where.

    Args:
        dataset: coco2014 or visual-genome.
        root: its folder (default: data/coco2014, data/visual-genome).
        thorough: also decode every picture, and compute the hashes of archives that have to be unpacked: minutes.
    """
    from ediffi.evaluation.datasets.catalogue import prepare as check

    report = check(dataset, root, thorough)
    print(*report.lines, sep="\n")
    return 0 if report.complete else 1


def compare(folders: list[Path], output: Path = Path("comparison.html")) -> None:
    """Put several evaluations on one page, with one figure per data set.

    Args:
        folders: of evaluations, with results.json.
        output: the page.
    """
    import sys

    from ediffi.evaluation.report import compare as room

    print(room(folders, output, ["ediffi", *sys.argv[1:]]))


def prompts(benchmark: str, file: Path, output: Path, images_per_prompt: int | None = None) -> None:
    """Turn a compositional benchmark's own prompt file into one for `ediffi sample --prompts`, a line for each picture.

    Args:
        benchmark: geneval, t2i-compbench, hpsv2 or partiprompts.
        file: its prompt file; of hpsv2 also the folder of its four.
        output: a .jsonl file.
        images_per_prompt: by default what the benchmark's protocol has.
    """
    import json

    from ediffi.evaluation.compositional.benchmarks import read_prompt_set
    from ediffi.io.files import replace

    if output.suffix != ".jsonl":
        raise ValueError(f"--output must end in .jsonl, got {str(output)!r}")
    lines = [
        json.dumps({"prompt": item.caption}) for item in read_prompt_set(benchmark, file, images_per_prompt).items()
    ]
    replace(output, ("\n".join(lines) + "\n").encode())
    print(f"{len(lines)} prompts in {output}")


def export(benchmark: str, pictures: Path, prompts: Path, output: Path, images_per_prompt: int | None = None) -> None:
    """Lay pictures out as a compositional benchmark's own scripts read them.

    Args:
        benchmark: geneval, t2i-compbench, hpsv2 or partiprompts.
        pictures: folder of numbered pictures or shards, as `ediffi sample --prompts` writes them.
        prompts: the benchmark's own prompt file.
        output: folder of the export.
        images_per_prompt: by default what the benchmark's protocol has.
    """
    from ediffi.evaluation.compositional.export import export as room

    print(room(benchmark, pictures, prompts, output, images_per_prompt))


def _scales(text: str) -> list[float]:
    """The numbers of "0,1,2.5".

    Raises:
        UsageError: it is something else.
    """
    try:
        return [float(part) for part in text.strip("[]").split(",")]
    except ValueError:
        raise UsageError(f"--guidance-scale expects numbers with commas between them, got {text!r}") from None


def _output(suite: "Suite", model: str | None, images: Path | None) -> Path:
    what = (images or Path(model or "toybox")).resolve().name
    return Path("runs/evaluation") / f"{suite.name}-{what}"


COMMANDS = (suites, prepare, compare, prompts, export)


def main(argv: list[str]) -> int:
    """Evaluate a model or images, or run one of COMMANDS."""
    if argv and argv[0] in [command.__name__ for command in COMMANDS]:
        return call(COMMANDS, argv, "evaluate")
    return run(evaluate, argv, "evaluate")
