"""How the page looks: a calm gray with one accent, in light and in dark, with the fonts that the machine has."""

from pathlib import Path
from typing import Any

SANS = ("Inter", "SF Pro Text", "Segoe UI", "Helvetica Neue", "Arial", "sans-serif")
MONO = ("SF Mono", "Cascadia Mono", "Menlo", "Consolas", "monospace")
LOOK = {
    "body_background_fill": "#f6f6f7",
    "body_background_fill_dark": "#131316",
    "block_background_fill": "transparent",
    "block_background_fill_dark": "transparent",
    "block_border_width": "0px",
    "block_border_width_dark": "0px",
    "block_shadow": "none",
    "block_shadow_dark": "none",
    "block_label_text_color": "*neutral_600",
    "block_label_text_color_dark": "*neutral_400",
    "block_title_text_color": "*neutral_600",
    "block_title_text_color_dark": "*neutral_400",
    "block_title_text_weight": "500",
    "block_padding": "0px",
    "input_background_fill": "white",
    "input_background_fill_dark": "#1b1b1f",
    "input_border_color": "*neutral_300",
    "input_border_color_dark": "#38383f",
    "input_border_width": "1px",
    "input_shadow": "none",
    "input_shadow_focus": "0 0 0 3px rgba(99, 102, 241, .22)",
    "input_border_color_focus": "*primary_500",
    "border_color_primary": "#dcdce0",
    "border_color_primary_dark": "#313138",
    "body_text_color": "#1d1d22",
    "body_text_color_dark": "#ececf0",
    "body_text_color_subdued": "#6b6b76",
    "body_text_color_subdued_dark": "#9d9da8",
    "button_primary_background_fill": "*primary_600",
    "button_primary_background_fill_hover": "*primary_700",
    "button_primary_background_fill_dark": "*primary_500",
    "button_primary_background_fill_hover_dark": "*primary_600",
    "button_primary_text_color": "white",
    "button_secondary_background_fill": "white",
    "button_secondary_background_fill_hover": "#efeff2",
    "button_secondary_background_fill_dark": "#24242a",
    "button_secondary_background_fill_hover_dark": "#2e2e35",
    "button_secondary_border_color": "#dcdce0",
    "button_secondary_border_color_dark": "#3a3a42",
    "layout_gap": "10px",
    "form_gap_width": "0px",
}
"""What differs from Gradio's plain theme; a star names a colour of the theme."""


def theme() -> Any:
    """The theme of the page; nothing in it is fetched from elsewhere."""
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
    return base.set(**LOOK)


def style() -> str:
    """The page's own rules, beside the theme."""
    return Path(__file__).with_name("page.css").read_text(encoding="utf-8")
