"""`ediffi analyze attention|prompt-switch`: what a cascade reads of its prompts."""

import json
from pathlib import Path


def attention(
    prompt: str,
    /,
    output: Path = Path("attention"),
    model: str = "toybox",
    stage: str | None = None,
    seed: int = 0,
    words: str | None = None,
) -> None:
    """Plot the cross-attention of each word over the noise levels, with the null token (eDiff-I, figure 3).

    Args:
        prompt: the prompt to sample.
        output: folder for overlays.png, curve.png and attention.json.
        stage: a stage; the base stage by default.
        seed: of the image.
        words: words of the overlays, as in "red,circle,null"; all by default.
    """
    from ediffi.pipeline.attention_maps import attention_maps
    from ediffi.pipeline.cascade import Cascade
    from ediffi.pipeline.figures import attention_curve, overlays
    from ediffi.pipeline.options import SamplingOptions

    watched = attention_maps(Cascade.from_pretrained(model), prompt, SamplingOptions(seed=seed), stage)
    output.mkdir(parents=True, exist_ok=True)
    chosen = watched.words() if words is None else [word.strip() for word in words.split(",")]
    overlays(watched, chosen, output / "overlays.png")
    attention_curve(watched, output / "curve.png")
    shares = {source: [round(value, 5) for value in share.tolist()] for source, share in watched.shares().items()}
    content = {"prompt": prompt, "seed": seed, "sigmas": watched.sigmas, "shares": shares}
    (output / "attention.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for when, step in (("noisiest", 0), ("cleanest", -1)):
        parts = ", ".join(f"{source} {100 * values[step]:.0f} %" for source, values in shares.items())
        print(f"at the {when} call, sigma {watched.sigmas[step]:.3g}: {parts}")
    print(output / "overlays.png", output / "curve.png", sep="\n")


def prompt_switch(
    prompt: str,
    switch_prompt: str,
    /,
    output: Path = Path("prompt-switch.png"),
    model: str = "toybox",
    seed: int = 0,
    shares: list[float] = [0.0, 0.07, 0.2, 0.4, 0.6, 0.8, 1.0],  # noqa: B006
) -> None:
    """Plot the effect of a second prompt that replaces the first for the last steps (eDiff-I, figure 4).

    Args:
        prompt: the prompt of the noisy steps.
        switch_prompt: the prompt of the last steps.
        output: a PNG file.
        seed: of all images.
        shares: of the base stage's steps that read the second prompt, one image each.
    """
    from ediffi.io.png import check_writable
    from ediffi.io.progress import Progress
    from ediffi.pipeline.cascade import Cascade
    from ediffi.pipeline.figures import strip
    from ediffi.pipeline.options import SamplingOptions
    from ediffi.pipeline.style import Switch
    from ediffi.registry.types import SamplerState

    options = [SamplingOptions(seed=seed, switch=Switch(switch_prompt, 1 - share)) for share in shares]
    check_writable(output)
    cascade = Cascade.from_pretrained(model)
    steps = sum(sampling.num_inference_steps for sampling in cascade.plan())
    with Progress(total=steps * len(shares), unit="step") as bar:

        def progress(stage: str, state: SamplerState) -> None:
            bar.update()

        images = [cascade.generate(prompt, chosen, progress).images[0] for chosen in options]
    strip(images, [f"{100 * share:g} %" for share in shares], output)
    print(output)


COMMANDS = (attention, prompt_switch)
