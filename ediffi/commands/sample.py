"""`ediffi sample "PROMPT"`."""

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ediffi.cli import run

if TYPE_CHECKING:
    from PIL.Image import Image

SETTINGS = "ediffi"
"""Key of the PNG text field that holds the settings."""


def main(argv: list[str]) -> int:
    """Paint what a prompt says."""
    return run(sample, argv)


def sample(
    prompt: str,
    /,
    output: Path = Path("out.png"),
    model: str = "toybox",
    seed: int = 0,
    num_images: int = 1,
    num_inference_steps: list[int] | None = None,
    guidance_scale: list[float] | None = None,
    negative_prompt: str | None = None,
    sampler: str | None = None,
    device: str = "cpu",
    expert_residency: Literal["resident", "stream"] = "resident",
) -> None:
    """Paint what a prompt says.

    Args:
        prompt: what the picture should show.
        output: a PNG file; with several images, out-0.png, out-1.png, ... beside it.
        model: the shipped "toybox", or a folder.
        seed: picture k of a run is a function of (seed, k).
        num_images: how many pictures.
        num_inference_steps: steps of the base stage, or [one, for, each, stage].
        guidance_scale: w of uncond + w (cond - uncond), 1 is off; of the base stage, or [one, for, each, stage].
        negative_prompt: what the picture should not show.
        sampler: a registered sampler, or a preset (paper-steps, paper-nfe).
        device: cpu, cuda, ...
        expert_residency: resident keeps all experts in memory, stream only the one in use; the pictures are the same.
    """
    from tqdm import tqdm

    from ediffi.cascade import Cascade, check_prompt
    from registry.types import SamplerState

    check_prompt(prompt)
    paths = _paths(output, num_images)
    started = time.perf_counter()
    cascade = Cascade.from_pretrained(model, device, expert_residency)
    if ignored := cascade.unknown_words(prompt):
        print(f"ignored, not in the vocabulary of {model}: {', '.join(ignored)}", file=sys.stderr)
    plan = cascade.plan(num_inference_steps, guidance_scale, sampler)
    with tqdm(total=sum(sampling.num_inference_steps for sampling in plan), unit="step", disable=None) as bar:

        def progress(stage: str, state: SamplerState) -> None:
            bar.set_description(stage)
            bar.update()

        pictures = cascade(
            prompt,
            negative_prompt=negative_prompt,
            num_images_per_prompt=num_images,
            seed=seed,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            sampler=sampler,
            progress=progress,
        )
    for index, (path, image) in enumerate(zip(paths, pictures.images, strict=True)):
        _save(image, path, {**pictures.settings, "index": index})
    _report(prompt, paths, pictures.settings, time.perf_counter() - started)


def _paths(output: Path, num_images: int) -> list[Path]:
    """Where the pictures go; refuses before any work what could not be written after it."""
    if num_images < 1:
        raise ValueError(f"--num-images must be at least 1, got {num_images}")
    if output.suffix.lower() != ".png":
        raise ValueError(f"--output must end in .png, got {str(output)!r}")
    if not output.parent.is_dir():
        raise FileNotFoundError(f"the folder of --output does not exist: {output.parent}")
    if output.is_dir():
        raise IsADirectoryError(f"--output is a folder: {output}")
    numbered = [output.with_stem(f"{output.stem}-{index}") for index in range(num_images)]
    paths = [output] if num_images == 1 else numbered
    beside = paths[0].with_name(paths[0].name + ".tmp")
    beside.touch()
    beside.unlink()
    return paths


def _save(image: "Image", path: Path, settings: Mapping[str, Any]) -> None:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_itxt(SETTINGS, json.dumps(settings, ensure_ascii=False))
    beside = path.with_name(path.name + ".tmp")
    image.save(beside, "png", pnginfo=info)
    beside.replace(path)


def _report(prompt: str, paths: list[Path], settings: Mapping[str, Any], seconds: float) -> None:
    stages = ", ".join(
        f"{name} {s['sampler']} {s['num_inference_steps']} steps ({s['nfe']} NFE) guidance {s['guidance_scale']:g}"
        for name, s in settings["stages"].items()
    )
    print(f"{prompt!r}, seed {settings['seed']}: {stages}; {seconds:.1f} s")
    for path in paths:
        print(path.resolve())
