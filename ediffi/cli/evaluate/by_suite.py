"""`ediffi evaluate --suite NAME`, and the captions and files of suites."""

import json
import shlex
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from ediffi.cli.parser import UsageError
from ediffi.io.devices import DType


def evaluate(
    suite: str = "toybox",
    model: str | None = None,
    images: Path | None = None,
    match: Literal["name", "index", "key", "order"] = "name",
    output: Path | None = None,
    root: Path | None = None,
    guidance_scale: str | None = None,
    count: int | None = None,
    seed: int | None = None,
    num_inference_steps: list[int] | None = None,
    sampler: str | None = None,
    feature_extractor: str | None = None,
    feature_weights: str | None = None,
    more_features: list[str] | None = None,
    scorers: list[str] | None = None,
    clip: str | None = None,
    clip_score: bool = True,
    reference: Path | None = None,
    other_sizes: Literal["refused", "resized"] | None = None,
    cache: Path = Path("runs/reference"),
    strict: bool = True,
    batch_size: int = 8,
    shard_size: int | None = None,
    devices: int = 1,
    num_nodes: int = 1,
    threads: int = 1,
    workers: int = 0,
    device: str = "auto",
    dtype: DType = "float32",
    compile: bool = False,
    expert_residency: Literal["resident", "stream"] = "resident",
) -> None:
    """Evaluate a model by a suite: Fréchet distance, KID, precision and recall, CLIP score, and a report page.

    The same command resumes an interrupted evaluation. See also `ediffi evaluate suites`, `captions`, `pair`,
    `copies`, `prepare`, `compare`, `table`, `scores`, `prompts`, `export`.

    Args:
        suite: one that ships (`ediffi evaluate suites`), or a YAML file.
        model: the shipped "toybox" by default, a folder, or ORG/REPO of the Hub.
        images: images of the suite's captions by any system, instead of a model: a folder, or WebDataset shards. Their
            names are numbers (00000.png) or annotation ids, as `ediffi evaluate captions` has them.
        match: of --images: by number (index) or id (key), whichever fits (name), or by the order of names.
        output: folder of images, results.json and report.html (default: runs/evaluation/SUITE-MODEL).
        root: folder of the dataset (default: data/coco2014, data/visual-genome, data/emoji); of `dataset: own` always
            needed.
        guidance_scale: one or several, as in 0,1,2,3; of the base stage. The suite's own by default.
        count: number of captions, if fewer than the suite's; the results then compare with no published ones.
        seed: of the selection and the images.
        feature_extractor: of torch-fidelity (inception-v3-compat, dinov2-vit-l-14, ...), efficientnet-lite0, or clip.
        feature_weights: a file with its weights.
        more_features: further extractors in the same pass: clip-l14-336 (for CMMD), dgm-dinov2-vit-l-14 (for
            FD-DINOv2). A suite can give their weights.
        scorers: how well images fit their captions by other models (pickscore, or a plug-in's).
        clip: a folder with the CLIP of the CLIP score, or a repository of the Hub.
        clip_score: compute the CLIP score.
        reference: images to compare with instead of the dataset's, a folder or shards; or an .npz of pytorch-fid or
            clean-fid.
        other_sizes: what becomes of images of another size than the suite's: refused, or resized by the rule that the
            protocol names. The suite's own by default.
        cache: folder of reference statistics.
        strict: refuse CMYK, 16-bit, animated and broken images; otherwise convert or skip, and count them.
        batch_size: images a batch; a setting, which a resumed run must not change.
        shard_size: write WebDataset shards of so many images, instead of PNG files.
        threads: CPU threads of each process that samples; a setting, since it changes the last bits.
        workers: processes that decode images, for each process that evaluates.
    """
    if model is not None and images is not None:
        raise UsageError("give --model or --images, not both")
    if find_spec("torch_fidelity") is None:
        raise ValueError("an evaluation needs torch-fidelity: pip install 'ediffi[eval]'")
    from ediffi.evaluation.suite import read_suite
    from ediffi.io.distributed import launch
    from ediffi.pipeline.evaluation_run import Evaluation
    from ediffi.pipeline.options import SamplingOptions

    scales = None if guidance_scale is None else _scales(guidance_scale)
    networks = {"feature_extractor": feature_extractor, "feature_weights": feature_weights, "other_sizes": other_sizes}
    more: dict[str, Any] = {
        "more_features": None if more_features is None else dict.fromkeys(more_features),
        "scorers": None if scorers is None else {name: {} for name in scorers},
    }
    chosen = read_suite(suite, count=count, seed=seed, guidance_scales=scales, **networks, **more)
    evaluation = Evaluation(
        chosen if clip is None else chosen.with_clip(clip),
        output or Path("runs/evaluation", f"{chosen.name}-{(images or Path(model or 'toybox')).resolve().name}"),
        root,
        cache,
        launch(device, devices, num_nodes),
        batch_size=batch_size,
        num_workers=workers,
        strict=strict,
        clip_score=clip_score,
        reference=reference,
        command=shlex.join(["ediffi", *sys.argv[1:]]),
    )
    if images is not None:
        evaluation.log(evaluation.judge_images(images, match))
    else:
        options = SamplingOptions(num_inference_steps=num_inference_steps, sampler=sampler)
        run_options = (shard_size, threads, expert_residency, dtype, compile)
        evaluation.log(evaluation.judge_model(model or "toybox", options, *run_options))


def suites() -> None:
    """List the suites that ship."""
    from ediffi.evaluation.suite import read_suite, shipped

    for name in shipped():
        print(f"{name:<22} {read_suite(name).about}")


def captions(
    suite: str,
    output: Path = Path("captions.jsonl"),
    root: Path | None = None,
    count: int | None = None,
    seed: int | None = None,
) -> None:
    """Write the captions that a suite chooses, for any system to paint.

    Image k is of line k: name it by its number (00000.png) or by the id of the line, and give the folder to
    `ediffi evaluate --suite SUITE --images FOLDER`. `ediffi sample --prompts` reads the file, too.

    Args:
        suite: one that ships (`ediffi evaluate suites`), or a YAML file.
        output: a .jsonl file.
        root: folder of the dataset (default: data/NAME); of `dataset: own` always needed.
        count: number of captions, if fewer than the suite's.
        seed: of the selection.
    """
    from ediffi.evaluation.datasets.captioned import select
    from ediffi.evaluation.datasets.catalogue import open_dataset
    from ediffi.evaluation.suite import read_suite
    from ediffi.io.files import replace

    if output.suffix != ".jsonl":
        raise ValueError(f"--output must end in .jsonl, got {str(output)!r}")
    chosen = read_suite(suite, count=count, seed=seed)
    items = select(open_dataset(chosen.dataset, root, chosen.dataset_options).items(), chosen.count, chosen.seed)
    rows = ({"number": number, "id": item.key, "caption": item.caption} for number, item in enumerate(items))
    output.parent.mkdir(parents=True, exist_ok=True)
    replace(output, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    print(f"{len(items)} captions in {output}")


def prepare(dataset: str, root: Path | None = None, thorough: bool = False) -> int:
    """Check the files of a dataset, and print what is missing and where to download it.

    Args:
        dataset: coco2014 or visual-genome.
        root: its folder (default: data/coco2014, data/visual-genome).
        thorough: also decode every image, and hash the archives that have to be unpacked: minutes.
    """
    from ediffi.evaluation.datasets.catalogue import prepare as check

    report = check(dataset, root, thorough)
    print(*report.lines, sep="\n")
    return 0 if report.complete else 1


def _scales(text: str) -> list[float]:
    try:
        return [float(part) for part in text.strip("[]").split(",")]
    except ValueError:
        raise UsageError(f"--guidance-scale expects numbers with commas between them, got {text!r}") from None
