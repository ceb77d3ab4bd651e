"""The tables and figures, in the order of the report."""

from collections.abc import Callable
from typing import NamedTuple

from reproduction.directory import ReproductionDirectory
from reproduction.items.branching import branching
from reproduction.items.controls import controls, guidance
from reproduction.items.cost import figure13
from reproduction.items.curves import figure7, figure8
from reproduction.items.inside import figure3, figure4
from reproduction.items.samplers import table_of_samplers
from reproduction.items.shipped import shipped
from reproduction.items.table1 import table1
from reproduction.outcome import Outcome


class ReproductionItem(NamedTuple):
    """A table or figure.

    Attributes:
        title: of its section.
        paper: what the paper shows, in a sentence.
        make: makes it.
    """

    title: str
    paper: str
    make: Callable[[ReproductionDirectory], Outcome]


ITEMS = {
    "model": ReproductionItem("The model", "Images that follow their prompts; no counts.", shipped),
    "figure3": ReproductionItem(
        "Figure 3: attention over noise",
        "At high noise cross-attention looks at the text, at low noise at the null token.",
        figure3,
    ),
    "figure4": ReproductionItem(
        "Figure 4: exchanging the prompt",
        "Another prompt for the last 7 % of the noise changes nothing, after the first 40 % everything.",
        figure4,
    ),
    "controls": ReproductionItem(
        "Paint-with-words and style transfer",
        "Objects lie where they are painted; a style image gives its style. Shown by examples.",
        controls,
    ),
    "samplers": ReproductionItem(
        "Samplers", "DEIS, 25 steps and 10 for super-resolution; no comparison.", table_of_samplers
    ),
    "guidance": ReproductionItem("Guidance in a part of the noise", "Not in the paper.", guidance),
    "figure13": ReproductionItem(
        "Figure 13: what capacity costs",
        "A wider or deeper network costs time in proportion; experts do not.",
        figure13,
    ),
    "table1": ReproductionItem(
        "Table 1: what each ensemble adds",
        "FID-30K falls from 7.35 (A, no experts) to 7.26 (B), 7.11 (C) and 6.95 (D).",
        table1,
    ),
    "branching": ReproductionItem(
        "How many experts, and where", "Only the two ends of the tree are grown; other splits are left open.", branching
    ),
    "figure7": ReproductionItem(
        "Figure 7: distance against CLIP score",
        "The ensemble is below the baseline everywhere, on COCO and on Visual Genome's long captions.",
        figure7,
    ),
    "figure8": ReproductionItem(
        "Figure 8: which text encoders",
        "Both encoders win; on long captions T5 alone beats CLIP alone clearly.",
        figure8,
    ),
}
"""By the name that `--only` takes."""
