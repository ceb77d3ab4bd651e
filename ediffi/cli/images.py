"""`ediffi sample`, `ediffi edit`, `ediffi upscale` and `ediffi inspect`: images from prompts and from images."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ediffi.cli.parser import UsageError, check_positive
from ediffi.io.devices import DType

if TYPE_CHECKING:
    from ediffi.pipeline.cascade import Cascade
    from ediffi.pipeline.options import SamplingOptions

MOST = 100_000_000
"""Images of a run over a file of prompts."""
MOST_AGAIN = 1000
"""Images of a batch that one of them may have sampled once more: its file may be from elsewhere."""
Residency = Literal["resident", "stream"]


def sample(
    prompt: str | None = None,
    /,
    output: Path | None = None,
    model: str = "toybox",
    seed: int = 0,
    num_images: int = 1,
    num_inference_steps: list[int] | None = None,
    guidance_scale: list[float] | None = None,
    negative_prompt: str | None = None,
    style_image: Path | None = None,
    style_scale: float = 1.0,
    paint: Path | None = None,
    paint_weight: list[float] | None = None,
    switch_prompt: str | None = None,
    switch_at: float = 0.5,
    guidance_interval: list[float] | None = None,
    dynamic_threshold: float | None = None,
    sampler: str | None = None,
    prompts: Path | None = None,
    batch_size: int = 8,
    shard_size: int | None = None,
    devices: int = 1,
    num_nodes: int = 1,
    threads: int = 1,
    device: str = "auto",
    dtype: DType = "float32",
    compile: bool = False,
    expert_residency: Residency = "resident",
) -> None:
    """Generate images from a prompt, or from a file of prompts.

    Args:
        prompt: what the image should show; "a (red:1.5) circle" gives "red" 1.5 times the weight.
        output: a PNG file (default: out.png); with several images, out-0.png, ... beside it; a folder with --prompts.
        num_images: number of images of each prompt.
        style_image: an image whose style the new image takes, laid on white where it is transparent.
        style_scale: strength of the style: 0 none, 1 as in training, more is stronger.
        paint: a layout in JSON, phrases of the prompt and their regions (docs/painting.md).
        paint_weight: strength of the layout, 0 is off; of the base stage, or [one,for,each,stage].
        switch_prompt: a second prompt, which the base stage reads from --switch-at on.
        switch_at: share of the base stage's steps that read the first prompt.
        guidance_interval: "[low, high]": guidance of the base stage applies for low < sigma <= high; always by default.
        dynamic_threshold: quantile of Imagen's dynamic thresholding in the base stage, such as 0.995; off by default.
        prompts: a file of prompts: one a line, or JSON, JSON lines or a table (CSV) with a field "prompt".
        batch_size: with --prompts, images a batch; a setting, which a resumed run must not change.
        shard_size: with --prompts, write WebDataset shards of so many images instead of PNG files.
        threads: with --prompts, CPU threads of each process; a setting, since it changes the last bits.
    """
    if (prompt is None) == (prompts is None):
        raise UsageError("give a prompt, or a file of them with --prompts (see ediffi sample --help)")
    if guidance_interval is not None and len(guidance_interval) != 2:
        raise UsageError(f"--guidance-interval takes [low, high], got {guidance_interval}")
    _check_belonging(
        ("--style-scale", style_scale != 1.0, "--style-image", style_image),
        ("--switch-at", switch_at != 0.5, "--switch-prompt", switch_prompt),
        ("--paint-weight", paint_weight is not None, "--paint", paint),
    )
    check_positive(num_images=num_images, batch_size=batch_size, threads=threads, devices=devices, num_nodes=num_nodes)
    if prompts is None and (devices * num_nodes > 1 or shard_size is not None):
        raise UsageError("--devices, --num-nodes and --shard-size are for many prompts; give a file with --prompts")

    from ediffi.diffusion.layout import read_layout
    from ediffi.evaluation.images.generate import generate, open_store
    from ediffi.io import png
    from ediffi.io.distributed import launch
    from ediffi.pipeline.cascade import Cascade
    from ediffi.pipeline.cascade_generator import CascadeGenerator, identity
    from ediffi.pipeline.options import SamplingOptions
    from ediffi.pipeline.prompt import read_prompts
    from ediffi.pipeline.style import Style, Switch

    options = SamplingOptions(
        seed=seed,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        negative_prompt=negative_prompt,
        style=None if style_image is None else Style(style_image, style_scale),
        paint=() if paint is None else tuple(read_layout(paint)),
        paint_weight=paint_weight,
        switch=None if switch_prompt is None else Switch(switch_prompt, switch_at),
        guidance_interval=None if guidance_interval is None else (guidance_interval[0], guidance_interval[1]),
        dynamic_threshold=dynamic_threshold,
        sampler=sampler,
    )
    if prompts is None:
        load = partial(Cascade.from_pretrained, model, device, expert_residency, dtype=dtype, compile=compile)
        _to_files(str(prompt), output or Path("out.png"), num_images, options, load)
        return
    # The images of a prompt are neighbours: image k of a run is that of prompt k // num_images.
    lines = read_prompts(prompts)
    if num_images * len(lines) > MOST:
        raise UsageError(f"{len(lines)} prompts with {num_images} images each are more than {MOST} images")
    texts = [text for text in lines for _ in range(num_images)]
    store = open_store(output or Path(prompts.stem), len(texts), shard_size)
    store.unit(batch_size)  # before any process is started: batches must fill a shard
    context = launch(device, devices, num_nodes)
    cascade = Cascade.from_pretrained(model, context.device, expert_residency, dtype=dtype, compile=compile)
    generator = CascadeGenerator(cascade, options, identity(model), threads)
    made = generate(generator, texts, store, batch_size=batch_size, context=context)
    if context.rank == 0:
        if inputs := options.inputs():
            png.save_inputs(store.folder, inputs)
        print(f"{made}: {store.folder.resolve()}")


def _check_belonging(*pairs: tuple[str, bool, str, Any]) -> None:
    """Refuse options that have no effect without another one: (option, whether it was given, the other, its value)."""
    for option, given, other, value in pairs:
        if given and value is None:
            raise UsageError(f"{option} has no effect without {other}")


def edit(
    image: Path,
    prompt: str,
    /,
    strength: float = 0.8,
    mask: Path | None = None,
    output: Path = Path("out.png"),
    model: str = "toybox",
    seed: int = 0,
    num_images: int = 1,
    num_inference_steps: list[int] | None = None,
    guidance_scale: list[float] | None = None,
    negative_prompt: str | None = None,
    sampler: str | None = None,
    device: str = "auto",
    dtype: DType = "float32",
    compile: bool = False,
) -> None:
    """Change an image by a prompt, through all stages: image-to-image, and with a mask, inpainting.

    Args:
        image: a square image, laid on white where it is transparent; every stage uses it at its own resolution.
        prompt: what the image should show.
        strength: share of the steps, 0 to 1: 0 returns the image, 1 starts from pure noise.
        mask: an image of the same size, white where new content is sampled; black and transparent are kept exactly.
        output: a PNG file; with several images, out-0.png, out-1.png, ... beside it.
        num_images: number of images.
        num_inference_steps: steps of the base stage, or [one,for,each,stage]; strength takes its share of them.
    """
    from ediffi.diffusion.editing import Edit
    from ediffi.pipeline.cascade import Cascade
    from ediffi.pipeline.options import SamplingOptions

    options = SamplingOptions(
        edit=Edit(image, strength, mask),
        seed=seed,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        negative_prompt=negative_prompt,
        sampler=sampler,
    )
    load = partial(Cascade.from_pretrained, model, device, dtype=dtype, compile=compile)
    _to_files(prompt, output, num_images, options, load)


def upscale(
    image: Path,
    prompt: str,
    /,
    stage: str | None = None,
    output: Path = Path("out.png"),
    model: str = "toybox",
    seed: int = 0,
    num_inference_steps: list[int] | None = None,
    sampler: str | None = None,
    device: str = "auto",
    dtype: DType = "float32",
    compile: bool = False,
) -> None:
    """Enlarge an image with the super-resolution stages.

    Args:
        image: a square image, resized to the input of the stage.
        prompt: what it shows.
        stage: the first stage to use; by default the one whose input is nearest to the size of the image.
        output: a PNG file.
        seed: of the noise.
        num_inference_steps: [one,for,each,stage] of the whole cascade.
    """
    from ediffi.io.image_input import read_image
    from ediffi.pipeline.cascade import Cascade
    from ediffi.pipeline.options import SamplingOptions

    options = SamplingOptions(
        low_res=read_image(image),
        first_stage=stage,
        seed=seed,
        num_inference_steps=num_inference_steps,
        sampler=sampler,
    )
    load = partial(Cascade.from_pretrained, model, device, dtype=dtype, compile=compile)
    _to_files(prompt, output, 1, options, load)


def inspect(
    image: Path,
    /,
    again: bool = False,
    output: Path | None = None,
    model: str | None = None,
    device: str = "auto",
) -> None:
    """Print the settings that an image was sampled with, as JSON; or sample it once more.

    An image holds its settings, and the layout, style and other images that it was made from. So it is sampled once
    more from its file alone, and compared with it pixel by pixel. Of a batch it is sampled alone, and where that rounds
    differently, with its batch.

    Args:
        image: a PNG that ediffi made.
        again: sample it once more.
        output: of --again, a PNG file; IMAGE-again.png by default.
        model: of --again, where the model of the image is, if its name does not tell; one of the Hub is downloaded only
            if it is given here. Another model is refused.
    """
    from ediffi.io.png import settings_of

    settings = settings_of(image)
    if again:
        _repeat(image, settings, output or image.with_stem(f"{image.stem}-again"), model, device)
    elif output is not None or model is not None:
        raise UsageError("--output and --model are of --again, which samples the image once more")
    else:
        print(json.dumps(settings, indent=2, ensure_ascii=False))


def _repeat(image: Path, settings: dict[str, Any], output: Path, model: str | None, device: str) -> None:
    from ediffi.hub import finding
    from ediffi.io import png
    from ediffi.io.images import difference, open_image
    from ediffi.pipeline import inputs
    from ediffi.pipeline.again import Repetition
    from ediffi.pipeline.cascade import Cascade
    from ediffi.studio.request import layout_inputs

    known = inputs.found(png.inputs_of(image)) | layout_inputs(settings)
    alone = Repetition(settings, known)
    (path,) = png.numbered(output, 1)
    place, here = model or str(settings.get("model")), model is None  # a file from elsewhere starts no download
    try:
        finding.find(place, local_files_only=here)
    except FileNotFoundError as error:
        if model is not None:
            raise
        raise FileNotFoundError(f"{image} is of the model {place!r}: --model says where that is ({error})") from None
    precision = {"dtype": settings.get("dtype", "float32"), "compile": settings.get("compile", False)}
    if not (isinstance(precision["dtype"], str) and isinstance(precision["compile"], bool)):
        raise ValueError(f"the settings of {image} are broken: {precision}")
    cascade = Cascade.from_pretrained(place, device, local_files_only=here, **precision)
    done, before = alone(cascade), open_image(image)
    (made,), again = done.pil(), done.settings
    differs = difference(before, made)
    if differs and 1 < alone.batch <= MOST_AGAIN:
        print(f"alone, {differs}: once more with the {alone.batch} images of its batch")
        done = replace(alone, alone=False)(cascade)
        made, again = done.pil()[alone.index], {**done.settings, "index": alone.index}
        differs = difference(before, made)
    png.save(made, path, again, done.inputs())
    print(path, differs or "every pixel is the same", sep="\n")


def _to_files(
    prompt: str, output: Path, number: int, options: "SamplingOptions", load: "Callable[[], Cascade]"
) -> None:
    """Sample images of one prompt into files; the prompt and the paths are checked before the model is loaded."""
    from ediffi.io.png import numbered
    from ediffi.pipeline.image_files import sample_to_files
    from ediffi.pipeline.prompt import parse

    parse(prompt)
    paths = numbered(output, number)
    sample_to_files(load(), prompt, paths, options)
