"""`ediffi toybox`: the shards and measurements of the Toybox model."""

from pathlib import Path
from typing import Literal

from ediffi.cli.parser import check_positive


def shards(
    output: Path,
    image_size: int = 64,
    count: int = 60_000,
    split: Literal["train", "test"] = "train",
    seed: int = 0,
    encoder_folder: Path | None = None,
    reference: Literal["own", "style"] = "own",
    long_share: float = 0.3,
    layout_share: float = 1.0,
) -> None:
    """Render scenes and write them as shards, with captions and embeddings.

    Args:
        output: folder of the shards; must not have any.
        image_size: side of the images in pixels.
        count: number of samples.
        split: train leaves out the attribute combinations that only test has.
        seed: of the scenes and the captions.
        encoder_folder: folder with t5 and clip; those that ship by default.
        reference: what the CLIP image embedding is of: the image itself (own), or another one in its style (style).
        long_share: share of long captions.
        layout_share: share of the short captions of several objects that name their positions.
    """
    from ediffi.hub.models import SHIPPED
    from ediffi.toybox.shards import write_toybox

    folder = encoder_folder or SHIPPED / "toybox" / "encoders"
    path = write_toybox(
        output, folder, image_size, count, split, seed, long_share, reference=reference, layout_share=layout_share
    )
    print(path)


def score(
    model: str = "toybox",
    output: Path = Path("runs/toybox/score"),
    count: int = 300,
    seed: int = 0,
    length: Literal["short", "long"] = "short",
    guidance_scale: float | None = None,
) -> None:
    """Sample held-out prompts and score the images with the oracle.

    Args:
        output: folder for results.json and sheet.png.
        count: number of prompts.
        seed: of the prompts and the images.
        length: of the captions.
        guidance_scale: of the base stage; the model's own by default.
    """
    from ediffi.pipeline.cascade import Cascade
    from ediffi.toybox.score import judge, write

    check_positive(count=count)
    results, shown = judge(Cascade.from_pretrained(model), count, seed, length=length, guidance_scale=guidance_scale)
    write(output, results, shown)
    for stage, fields in results["accuracy"].items():
        print(stage, "  ".join(f"{name} {value:.3f}" for name, value in fields.items()))
    print("everything right by number of objects:", results["by_objects"])
    print(output / "sheet.png")


def controls(
    model: str = "toybox",
    output: Path = Path("runs/toybox/controls"),
    count: int = 200,
    seed: int = 0,
    paint_weight: list[float] = [0.3],  # noqa: B006
    style_scale: list[float] = [1.0],  # noqa: B006
    split: Literal["test", "train"] = "test",
    stage: str | None = None,
) -> None:
    """Score paint-with-words and style images with the oracle, against the same prompts without them.

    Args:
        output: folder for controls.json, paint.png and style.png.
        count: number of layouts, and of style images.
        seed: of the cases and the images.
        paint_weight: each w' to try.
        style_scale: each scale to try.
        split: test has only attribute combinations that training never had, train only others.
        stage: the last stage to sample, such as sr64; all by default.
    """
    from ediffi.pipeline.cascade import Cascade
    from ediffi.toybox.controls import judge

    check_positive(count=count)
    cascade = Cascade.from_pretrained(model)
    cascade = cascade if stage is None else cascade.up_to(stage)
    results = judge(cascade, count, seed, paint_weight, style_scale, output, split)
    for kind, name in (("paint", "paint_weight"), ("style", "style_scale")):
        for value, rates in results[kind].items():
            print(f"{name} {value}:", "  ".join(f"{key} {rate:.3f}" for key, rate in rates.items()))
    print(output / "paint.png", output / "style.png", sep="\n")


def psnr(model: str = "toybox", count: int = 50, seed: int = 0) -> None:
    """Compare each super-resolution stage with bicubic enlargement, on held-out scenes.

    Args:
        count: number of scenes.
        seed: of the scenes and the sampling noise.
    """
    from ediffi.pipeline.cascade import Cascade
    from ediffi.toybox.score import against_bicubic

    check_positive(count=count)
    for stage, values in against_bicubic(Cascade.from_pretrained(model), count, seed).items():
        print(f"{stage}: {values['stage']:.2f} dB, bicubic {values['bicubic']:.2f} dB")


def record(output: Path, runs: Path = Path("runs/toybox"), stages: list[str] = ["base", "sr64", "sr256"]) -> None:  # noqa: B006
    """Write training.json and training.png: how the stages were trained.

    Args:
        output: folder to write to.
        runs: folder of the runs.
        stages: names of the runs in it.
    """
    from ediffi.toybox.record import record as write_record

    for name, stage in write_record([runs / name for name in stages], output)["stages"].items():
        print(f"{name}: {stage['steps']} steps, {stage['samples']} samples, {stage['minutes']} minutes")


COMMANDS = (shards, score, controls, psnr, record)
