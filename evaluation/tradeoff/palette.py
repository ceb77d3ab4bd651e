"""Colours and lines of the figures."""

from typing import Any

INK, MUTED, FAINT, SHEET = "#1c1e21", "#6a6f78", "#d9dce1", "#fefefe"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b4649b", "#a87900", "#3d9fd6")
"""After Okabe and Ito, distinct for the colour-blind; the light ones are darker here, to be legible on white."""
MARKERS = "os^DvP"
VARIABLES = {INK: "--ink", MUTED: "--muted", FAINT: "--rule", SHEET: "--sheet"} | {
    colour: f"--series-{index}" for index, colour in enumerate(COLOURS)
}
"""The CSS variable with which a page replaces each colour of an SVG."""
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "figure.facecolor": SHEET,
    "axes.facecolor": "none",
    "text.parse_math": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "ediffi",
}
