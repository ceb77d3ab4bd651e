"""`ediffi sample "PROMPT"`, and `ediffi sample --prompts FILE`."""

from pathlib import Path
from typing import Literal

from ediffi.cli.parser import UsageError


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
    device: str = "cpu",
    expert_residency: Literal["resident", "stream"] = "resident",
) -> None:
    """Paint what a prompt says.

    Args:
        prompt: what the picture should show; "a (red:1.5) circle" makes "red" count 1.5 times.
        output: a PNG file (default: out.png); with several images, out-0.png, ... beside it; a folder with --prompts.
        model: the shipped "toybox", a folder, or ORG/REPO of the Hub.
        seed: picture k of a run is a function of (seed, k).
        num_images: how many pictures, of each prompt.
        num_inference_steps: steps of the base stage, or [one, for, each, stage].
        guidance_scale: w of uncond + w (cond - uncond), 1 is off; of the base stage, or [one, for, each, stage].
        negative_prompt: what the picture should not show.
        style_image: a reference picture, whose style the picture takes.
        style_scale: how much of it; 0 is nothing, 1 as the model was trained, more is more style.
        paint: a layout in JSON, phrases of the prompt and where they belong (README, "Paint with words").
        paint_weight: how strongly they are drawn there, 0 is off; of the base stage, or [one, for, each, stage].
        switch_prompt: another prompt, which takes over in the base stage.
        switch_at: share of the base stage's steps before it does.
        guidance_interval: "[low, high]", noise levels of the base stage at which guidance works; all by default.
        dynamic_threshold: quantile of Imagen's dynamic thresholding in the base stage, such as 0.995; off by default.
        sampler: a registered sampler, or a preset (paper-steps, paper-nfe).
        prompts: a file of prompts instead of one, a line each (.txt) or objects with the field "prompt" (.jsonl).
        batch_size: pictures at a time with --prompts; as all settings, the same when a run goes on.
        shard_size: with --prompts, WebDataset shards of so many pictures instead of PNG files.
        devices: with --prompts, processes on this machine, each with a device of its own; the pictures are the same.
        num_nodes: with --prompts, machines; torchrun does as well, and says both numbers itself.
        threads: with --prompts, of the processor in each process; a setting, since it changes last bits.
        device: cpu, cuda, ...
        expert_residency: resident keeps all experts in memory, stream only the one in use; the pictures are the same.
    """
    if (prompt is None) == (prompts is None):
        raise UsageError("give a prompt, or a file of them with --prompts (see ediffi sample --help)")
    if guidance_interval is not None and len(guidance_interval) != 2:
        raise UsageError(f"--guidance-interval takes [low, high], got {guidance_interval}")

    several = {"num_images": num_images, "batch_size": batch_size, "threads": threads}
    for name, value in (several | {"devices": devices, "num_nodes": num_nodes}).items():
        if value < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    if prompts is None and (devices * num_nodes > 1 or shard_size is not None):
        raise UsageError("--devices, --num-nodes and --shard-size are for many prompts; give a file with --prompts")

    from ediffi.diffusion.layout import read_layout
    from ediffi.evaluation.images.generate import generate, open_store
    from ediffi.io import png
    from ediffi.io.distributed import launch
    from ediffi.io.images import open_image
    from ediffi.pipeline.cascade import Cascade
    from ediffi.pipeline.generator import CascadeGenerator, identity
    from ediffi.pipeline.image_files import sample_to_files
    from ediffi.pipeline.options import SamplingOptions, Style, Switch
    from ediffi.pipeline.prompt import parse, read_prompts

    options = SamplingOptions(
        seed=seed,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        negative_prompt=negative_prompt,
        style=None if style_image is None else Style(open_image(style_image, exif=True), style_scale),
        paint=() if paint is None else tuple(read_layout(paint)),
        paint_weight=paint_weight,
        switch=None if switch_prompt is None else Switch(switch_prompt, switch_at),
        guidance_interval=None if guidance_interval is None else (guidance_interval[0], guidance_interval[1]),
        dynamic_threshold=dynamic_threshold,
        sampler=sampler,
    )
    if prompt is not None:
        parse(prompt)
        paths = png.numbered(output or Path("out.png"), num_images)
        sample_to_files(Cascade.from_pretrained(model, device, expert_residency), prompt, paths, options)
        return
    assert prompts is not None
    texts = [text for text in read_prompts(prompts) for _ in range(num_images)]
    store = open_store(output or Path(prompts.stem), len(texts), shard_size)
    store.unit(batch_size)  # before any process is started: batches must fill a shard
    fleet = launch(device, devices, num_nodes)
    cascade = Cascade.from_pretrained(model, fleet.device, expert_residency)
    generator = CascadeGenerator(cascade, options, identity(model), threads)
    made = generate(generator, texts, store, batch_size=batch_size, context=fleet)
    if fleet.rank == 0:
        print(f"{made}: {store.folder.resolve()}")
