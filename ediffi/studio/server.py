"""The server of the page, by default on an address that only this machine can reach, and the look of the page."""

import errno
import importlib.util
import logging
import os
import socket
import threading
from typing import Any

from ediffi.studio.canvas import WEB
from ediffi.studio.gallery import Gallery
from ediffi.studio.guard import Guard
from ediffi.studio.opening import MAX_FILE_MB

logger = logging.getLogger(__name__)
HOST = "127.0.0.1"
PORTS_TRIED = 100
STYLE_SHEETS = ("layout", "form", "pictures")

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
    "button_primary_background_fill": ("*primary_600", "*primary_600"),
    "button_primary_background_fill_hover": ("*primary_700", "*primary_700"),
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


def check_gradio() -> None:
    """Raise `ValueError` if Gradio is not installed."""
    if importlib.util.find_spec("gradio") is None:
        raise ValueError("the studio needs Gradio: pip install 'ediffi[studio]'")


def free_port(port: int, host: str = HOST) -> int:
    """`port`, or the next one that is free; any free one for 0; ValueError if all ports tried are in use."""
    if not 0 <= port <= 65535:
        raise ValueError(f"--port must be from 0 to 65535, got {port}")
    last = min(port + PORTS_TRIED, 65535) if port else 0
    for candidate in range(port, last + 1):
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, candidate))
            except socket.gaierror:
                raise ValueError(f"--host must be an address of this machine, got {host!r}") from None
            except OSError as error:
                if error.errno == errno.EADDRNOTAVAIL:
                    raise ValueError(f"--host must be an address of this machine, got {host!r}") from None
                continue
            return int(probe.getsockname()[1])
    raise ValueError(f"all ports from {port} to {last} are in use, or not allowed; choose another --port")


def serve(blocks: Any, port: int, gallery: Gallery, host: str = HOST, password: str | None = None) -> None:
    """Show a page until the process is interrupted, behind a `Guard`, which also serves the images of the gallery."""
    from starlette.middleware import Middleware

    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    blocks.launch(
        server_name=host,
        server_port=port,
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        theme=theme(),
        css="\n".join((WEB / f"{name}.css").read_text("utf-8") for name in STYLE_SHEETS),
        app_kwargs={"middleware": [Middleware(Guard, gallery=gallery, host=host, port=port, password=password)]},
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        max_file_size=f"{MAX_FILE_MB}mb",
    )
    logger.info("http://%s:%s", f"[{host}]" if ":" in host else host, port)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:  # the server's threads end with the process; waiting for open tabs would take seconds
        logger.info("closed")


def theme() -> Any:
    """The look of the page: gray with one accent colour, light and dark. Nothing in it is downloaded."""
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
