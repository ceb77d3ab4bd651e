"""Figures 3 and 4: what the network looks at, and when a prompt decides."""

import numpy as np
import torch

from ediffi.evaluation.datasets.toybox import prompts, read, score
from ediffi.io.images import to_images
from ediffi.pipeline.attention_maps import NULL, attention_maps
from ediffi.pipeline.cascade import Cascade
from ediffi.pipeline.options import SamplingOptions
from ediffi.pipeline.style import Switch
from reproduction.directory import ReproductionDirectory
from reproduction.drawing import lines, wall
from reproduction.outcome import Figure, Outcome, ResultTable

FRACTIONS = (0.0, 0.07, 0.2, 0.4, 0.6, 0.8, 1.0)


def figure3(repro: ReproductionDirectory) -> Outcome:
    """The share of the attention that text gets, and the null token, over the noise."""
    cascade = Cascade.from_pretrained(repro.budget.model)
    texts = [caption.text for _, caption in prompts(3, max(2, repro.budget.cases // 4))]
    watched = [attention_maps(cascade, text, SamplingOptions(seed=seed)) for seed, text in enumerate(texts)]
    sigmas = watched[0].sigmas
    shares = {
        source: torch.stack([one.shares()[source] for one in watched]).mean(0).tolist()
        for source in watched[0].shares()
    }
    text = [sum(values[k] for name, values in shares.items() if name != NULL) for k in range(len(sigmas))]
    series = {"all text": (sigmas, text), "null token": (sigmas, shares[NULL])}
    series |= {name: (sigmas, values) for name, values in shares.items() if name != NULL}
    axes = {"xscale": "log", "xlabel": "sigma", "ylabel": "share of the attention", "ylim": (0, 1)}
    lines(repro.path("figures", "figure3.png"), series, axes)
    rises = shares[NULL][-1] > shares[NULL][0]
    return Outcome(
        here=f"The null token gets {shares[NULL][0]:.2f} of the attention at the noisiest call and "
        f"{shares[NULL][-1]:.2f} at the cleanest (mean of {len(texts)} prompts).",
        weaker=f"{'In direction as in the paper, but far less' if rises else 'Unlike in the paper, it does not rise'}: "
        "with a vocabulary of 74 words, text stays useful at low noise too.",
        numbers={"sigmas": sigmas, "shares": shares, "prompts": len(texts)},
        figures=[Figure("figure3.png", "Shares of the cross-attention by source, from low noise to high.")],
    )


def figure4(repro: ReproductionDirectory) -> Outcome:
    """Images whose prompt is exchanged for the last steps: which of the two prompts they show."""
    cascade = Cascade.from_pretrained(repro.budget.model)
    cascade = cascade.up_to(cascade.stages[1].name)
    pairs = max(2, repro.budget.cases // 10)
    cases = prompts(4, 2 * pairs)
    shown, right = (
        [],
        {"first prompt": np.zeros((pairs, len(FRACTIONS))), "second prompt": np.zeros((pairs, len(FRACTIONS)))},
    )
    for number, (one, two) in enumerate(zip(cases[:pairs], cases[pairs:], strict=True)):
        images = []
        for fraction in FRACTIONS:
            made = cascade(one[1].text, seed=number, switch=Switch(two[1].text, 1 - fraction))
            images.append(to_images(made.stages[cascade.stages[-1].name])[0])
        for column, image in enumerate(images):
            reading = read(np.array(image))
            for name, (scene, caption) in zip(right, (one, two), strict=True):
                right[name][number, column] = score(scene, caption, reading).everything
        shown.append(images)
    curves = {name: values.mean(0).tolist() for name, values in right.items()}
    percent = [100 * fraction for fraction in FRACTIONS]
    axes = {
        "xlabel": "last steps with the second prompt, %",
        "ylabel": "images that show all of it",
        "ylim": (0, 1.02),
    }
    lines(repro.path("figures", "figure4.png"), {name: (percent, values) for name, values in curves.items()}, axes)
    wall(repro.path("figures", "figure4-strip.png"), shown[:3], [f"{value:g} %" for value in percent])
    seven, forty = FRACTIONS.index(0.07), FRACTIONS.index(0.6)
    return Outcome(
        here=f"Exchanged for the last 7 % of the steps, {curves['first prompt'][seven]:.2f} of the images still show "
        f"all of the first prompt ({curves['first prompt'][0]:.2f} unexchanged); exchanged after the first 40 %, "
        f"{curves['second prompt'][forty]:.2f} show all of the second.",
        weaker=f"{pairs} pairs; shares are of sampling steps.",
        numbers={"fractions": list(FRACTIONS), "everything right": curves, "pairs": pairs},
        tables=[
            ResultTable(
                "Everything right, by the share of the steps that the second prompt got",
                ["", *(f"{value:g} %" for value in percent)],
                [[name, *(f"{value:.2f}" for value in values)] for name, values in curves.items()],
            )
        ],
        figures=[
            Figure("figure4-strip.png", "Three pairs of prompts; under each column, the share of the second."),
            Figure("figure4.png", "Which prompt the oracle finds in the images."),
        ],
    )
