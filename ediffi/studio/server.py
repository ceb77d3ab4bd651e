"""The server of the page, on an address that only this machine can reach."""

import importlib.util
import logging
import os
import socket
import threading
from typing import Any

logger = logging.getLogger(__name__)
HOST = "127.0.0.1"
PORTS_TRIED = 100
"""How many ports after a used one are tried."""


def check_gradio() -> None:
    """Raise `ValueError` if Gradio is not installed."""
    if importlib.util.find_spec("gradio") is None:
        raise ValueError("the studio needs Gradio: pip install 'ediffi[studio]'")


def free_port(port: int) -> int:
    """`port`, or the next one that is free; any free one for 0.

    Raises:
        ValueError: `port` is not from 0 to 65535, or all ports tried are in use.
    """
    if not 0 <= port <= 65535:
        raise ValueError(f"--port must be from 0 to 65535, got {port}")
    last = min(port + PORTS_TRIED, 65535) if port else 0
    for candidate in range(port, last + 1):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, candidate))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise ValueError(f"all ports from {port} to {last} are in use, or not allowed; choose another --port")


def serve(blocks: Any, port: int, folder: str) -> None:
    """Show a page until the process is interrupted.

    Args:
        blocks: the page.
        port: a free port.
        folder: the page may show files in it.
    """
    from ediffi.studio.theme import style_sheet, theme

    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    blocks.launch(
        server_name=HOST,
        server_port=port,
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        inbrowser=False,
        theme=theme(),
        css=style_sheet(),
        allowed_paths=[folder],
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        max_file_size="50mb",
    )
    logger.info("http://%s:%s", HOST, port)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:  # the server's threads end with the process; waiting for open tabs would take seconds
        logger.info("closed")
