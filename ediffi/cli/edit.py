"""`ediffi edit IMAGE "PROMPT"` and `ediffi upscale IMAGE "PROMPT"`: images that are made from an image."""

from pathlib import Path


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
    device: str = "cpu",
) -> None:
    """Change an image by a prompt, through all stages: image-to-image, and with a mask, inpainting.

    Args:
        image: a square image; every stage uses it at its own resolution.
        prompt: what the image should show.
        strength: share of the steps, 0 to 1: 0 returns the image, 1 starts from pure noise.
        mask: an image of the same size, white where new content is sampled; black is kept to the pixel.
        output: a PNG file; with several images, out-0.png, out-1.png, ... beside it.
        seed: image k of a run is a function of (seed, k).
        num_images: number of images.
        num_inference_steps: steps of the base stage, or [one,for,each,stage]; strength takes its share of them.
    """
    from ediffi.diffusion.editing import Edit
    from ediffi.io import png
    from ediffi.io.images import open_image
    from ediffi.pipeline.cascade import Cascade
    from ediffi.pipeline.image_files import sample_to_files
    from ediffi.pipeline.options import SamplingOptions
    from ediffi.pipeline.prompt import parse

    parse(prompt)
    change = Edit(open_image(image, exif=True), strength, None if mask is None else open_image(mask, exif=True))
    sample_to_files(
        Cascade.from_pretrained(model, device),
        prompt,
        png.numbered(output, num_images),
        SamplingOptions(
            edit=change,
            seed=seed,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            negative_prompt=negative_prompt,
            sampler=sampler,
        ),
    )


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
    device: str = "cpu",
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
    from ediffi.io import png
    from ediffi.io.images import open_image
    from ediffi.pipeline.cascade import Cascade
    from ediffi.pipeline.image_files import sample_to_files
    from ediffi.pipeline.options import SamplingOptions
    from ediffi.pipeline.prompt import parse

    parse(prompt)
    sample_to_files(
        Cascade.from_pretrained(model, device),
        prompt,
        png.numbered(output, 1),
        SamplingOptions(
            low_res=open_image(image, exif=True),
            first_stage=stage,
            seed=seed,
            num_inference_steps=num_inference_steps,
            sampler=sampler,
        ),
    )
