"""The look of the page: gray with one accent colour, light and dark, with fonts of the machine only."""

from pathlib import Path
from typing import Any

SANS = ("Inter", "SF Pro Text", "Segoe UI", "Helvetica Neue", "Arial", "sans-serif")
MONO = ("SF Mono", "Cascadia Mono", "Menlo", "Consolas", "monospace")
LIGHT_AND_DARK = {
    "body_background_fill": ("#f6f6f7", "#131316"),
    "body_text_color": ("#1d1d22", "#ececf0"),
    "body_text_color_subdued": ("#6b6b76", "#9d9da8"),
    "border_color_primary": ("#dcdce0", "#313138"),
    "block_background_fill": ("transparent", "transparent"),
    "block_border_width": ("0px", "0px"),
    "block_shadow": ("none", "none"),
    "block_label_text_color": ("*neutral_600", "*neutral_400"),
    "block_title_text_color": ("*neutral_600", "*neutral_400"),
    "input_background_fill": ("white", "#1b1b1f"),
    "input_border_color": ("*neutral_300", "#38383f"),
    "button_primary_background_fill": ("*primary_600", "*primary_500"),
    "button_primary_background_fill_hover": ("*primary_700", "*primary_600"),
    "button_secondary_background_fill": ("white", "#24242a"),
    "button_secondary_background_fill_hover": ("#efeff2", "#2e2e35"),
    "button_secondary_border_color": ("#dcdce0", "#3a3a42"),
}
"""Differences from Gradio's base theme. A star names another variable of the theme."""
BOTH = {
    "block_title_text_weight": "500",
    "block_padding": "0px",
    "input_border_width": "1px",
    "input_shadow": "none",
    "input_shadow_focus": "0 0 0 3px rgba(99, 102, 241, .22)",
    "input_border_color_focus": "*primary_500",
    "button_primary_text_color": "white",
    "layout_gap": "10px",
    "form_gap_width": "0px",
}


def theme() -> Any:
    """The theme of the page. Nothing in it is downloaded."""
    import gradio as gr

    base = gr.themes.Base(
        primary_hue=gr.themes.colors.indigo,
        secondary_hue=gr.themes.colors.indigo,
        neutral_hue=gr.themes.colors.zinc,
        text_size=gr.themes.sizes.text_sm,
        spacing_size=gr.themes.sizes.spacing_sm,
        radius_size=gr.themes.sizes.radius_md,
        font=SANS,
        font_mono=MONO,
    )
    light = {name: colours[0] for name, colours in LIGHT_AND_DARK.items()}
    dark = {f"{name}_dark": colours[1] for name, colours in LIGHT_AND_DARK.items()}
    return base.set(**light, **dark, **BOTH)


def style_sheet() -> str:
    """The page's own CSS."""
    return Path(__file__).with_name("page.css").read_text(encoding="utf-8")
