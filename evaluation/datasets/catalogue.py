"""The data sets by name: opened where a team keeps them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ediffi.evaluation.datasets.captioned import CaptionedPictures

ROOTS = {"coco2014": Path("data/coco2014"), "visual-genome": Path("data/visual-genome")}
"""Where a data set is looked for if nobody says where."""


def open_dataset(name: str, root: Path | None = None, options: Mapping[str, Any] | None = None) -> CaptionedPictures:
    """A data set.

    Args:
        name: "coco2014", "visual-genome" or "toybox".
        root: its folder; one of `ROOTS` by default. Toybox needs none.
        options: arguments of the data set's own.

    Raises:
        ValueError: there is no such data set, it takes no such option, or its files are broken.
        OSError: a file is missing or cannot be read.
    """
    from ediffi.evaluation.datasets.coco import Coco
    from ediffi.evaluation.datasets.toybox.judged import Toybox
    from ediffi.evaluation.datasets.visual_genome import VisualGenome

    openers = {"coco2014": Coco.open, "visual-genome": VisualGenome, "toybox": Toybox}
    if name not in openers:
        raise ValueError(f"no data set {name!r}: there are {', '.join(openers)}")
    folder = [] if name == "toybox" else [root or ROOTS[name]]
    try:
        return openers[name](*folder, **(options or {}))  # type: ignore[operator]
    except TypeError as error:
        raise ValueError(f"dataset_options {dict(options or {})} are not for {name}: {error}") from None
