"""The figure in a file or in a page."""

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING

from ediffi.evaluation.naming import PAPER, convention, dataset_name, measured_name, shortened
from ediffi.evaluation.results import Results
from ediffi.evaluation.tradeoff.axes import MUTED, STYLE, VARIABLES, bars, curves
from ediffi.evaluation.tradeoff.plan import FigurePlan, plan
from ediffi.io.files import replace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDE, NARROW = 7.6, 4.2
"""Widths of figures, in inches."""


class MatplotlibMissing(ValueError):
    """matplotlib is not installed; the message says how to install it."""


def draw(several: Sequence[Results], path: Path) -> None:
    """Draw evaluations of one dataset into a PNG or SVG file; the same evaluations give the same bytes.

    ValueError: the name has another suffix, the evaluations cannot be compared, or matplotlib is not installed.
    """
    kind = path.suffix.lower().removeprefix(".")
    if kind not in ("png", "svg"):
        raise ValueError(f"a figure is a .png or .svg file, got {path.name}")
    file = io.BytesIO()
    with _style():
        metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
        _figure(several).savefig(file, format=kind, dpi=160, metadata=metadata)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace(path, file.getvalue())


def svg(several: Sequence[Results], prefix: str, narrow: bool = False) -> str:
    """The figure as an `<svg>` element for a page, which may scale it and set its colours (see `VARIABLES`).

    `prefix` begins its ids, so that a page may have several figures. A `narrow` one is for the screen of a telephone.
    """
    file = io.StringIO()
    with _style():
        _figure(several, narrow).savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text[text.index("<svg") :], flags=re.DOTALL)
    head, rest = text.split(">", 1)
    view = re.search(r'viewBox="[^"]*"', head)
    assert view
    rest = re.sub("<[^>]*>", lambda tag: _for_page(tag[0], prefix), rest)
    return f'<svg {view[0]} role="img" aria-label="{escape(describe(several))}">{rest.strip()}'


def _for_page(tag: str, prefix: str) -> str:
    """A tag of the SVG: ids begin with `prefix`, colours are the page's."""
    tag = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", tag.replace("xlink:href", "href"))
    for colour, variable in VARIABLES.items():
        tag = tag.replace(colour, f"var({variable}, {colour})")
    return tag


def describe(several: Sequence[Results]) -> str:
    """The figure in a sentence, for people who cannot see it."""
    planned = plan(several)
    models = ", ".join(results.model for results in several)
    if planned.kind == "nothing":
        return f"There is no finite number of {models} to draw."
    over = {"curve": " against CLIP score, a point for each guidance scale", "guidance": " over guidance scale"}
    shape = over.get(planned.kind, ", a bar for each setting")
    paper = "; with the FID-30K of eDiff-I's Table 1" if planned.paper else ""
    return f"{measured_name(several[0], planned.metric)}{shape}, of {models}, on {dataset_name(several[0])}{paper}."


def _figure(several: Sequence[Results], narrow: bool = False) -> "Figure":
    """The figure; inside `_style()`."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    planned = plan(several)
    width = NARROW if narrow else WIDE
    notes = _notes(several, planned, int(126 * width / WIDE))
    rows = sum(len(results.points) for results in several) + len(PAPER) * planned.paper
    height = {"bars": 1.3 + (0.38 if narrow else 0.27) * rows, "nothing": 1.2}.get(
        planned.kind, 4.4 + 0.1 * len(several)
    )
    height += 0.17 * len(notes)
    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08))
    axes = figure.subplots()
    figure.supxlabel("\n".join(notes), x=0.012, ha="left", fontsize=7.5, color=MUTED, linespacing=1.5)
    if planned.kind in ("curve", "guidance"):  # with a legend, which has the title
        curves(axes, figure, several, planned)
        return figure
    figure.suptitle(shortened(dataset_name(several[0]), 60), x=0.012, ha="left", fontsize=10.5, fontweight="bold")
    if planned.kind == "bars":
        bars(axes, several, planned, narrow)
    else:
        axes.set_axis_off()
        axes.text(0, 0.5, "There is no finite number to draw.", transform=axes.transAxes, va="center")
    return figure


@contextmanager
def _style() -> Iterator[None]:
    """Matplotlib's settings while a figure is made and saved; names in any script, without `$` formulas."""
    try:
        from matplotlib import rc_context
    except ModuleNotFoundError:
        raise MatplotlibMissing("figures need matplotlib: pip install 'ediffi[plots]'") from None
    with rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        yield


def _notes(several: Sequence[Results], planned: FigurePlan, letters: int) -> list[str]:
    """Lines below a figure, of at most so many letters."""
    count, size = several[0].suite.get("count"), several[0].suite.get("image_size")
    points = [point for results in several for point in results.points]
    rule = f"{convention(several[0])}. " if any(point.guidance_scale is not None for point in points) else ""
    first = {"curve": f"Numbers at the points are guidance scales: {rule}", "guidance": ""}.get(planned.kind, rule)
    known = "NFE: network evaluations for an image. " if any(point.nfe is not None for point in points) else ""
    counted = f"{count:,} images at {size}²." if isinstance(count, int) and size else ""
    lines = [line] if (line := f"{first}{known}{counted}".strip()) else []
    names = ("clip_score", planned.metric) if planned.kind == "curve" else (planned.metric,)
    if any(point.interval(name) for point in points for name in names):
        level = (several[0].protocol.get("intervals") or {}).get("level")
        lines.append(f"Thin lines: {f'{level:.0%} ' if isinstance(level, float) else ''}intervals.")
    if planned.paper:
        lines.append("At the side: zero-shot FID-30K as printed in eDiff-I, Table 1, which has no CLIP scores.")
    if planned.left_out:
        lines.append("Not drawn: " + "; ".join(planned.left_out) + ".")
    return [part for line in lines for part in wrap(line, letters)]
