"""`ediffi studio`: a page to paint on."""

import os
import sys
from pathlib import Path
from typing import Literal

from ediffi.io.devices import DType


def studio(
    model: str = "toybox",
    port: int = 7860,
    output: Path = Path("outputs/studio"),
    device: str = "auto",
    dtype: DType = "float32",
    compile: bool = False,
    expert_residency: Literal["resident", "stream"] = "resident",
) -> None:
    """Open a page on this machine to paint with words: a brush for each phrase, live previews, a gallery of all images.

    Args:
        port: of the page on 127.0.0.1; if it is in use, the next free one; 0 for any.
        output: folder for the images, created if it is missing.
    """
    from ediffi.studio.server import check_gradio, free_port, serve

    check_gradio()
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before gradio is imported
    chosen = free_port(port)
    if port not in (0, chosen):
        print(f"port {port} is in use; taking {chosen}", file=sys.stderr)

    from ediffi.pipeline.cascade import Cascade
    from ediffi.studio.app import build
    from ediffi.studio.backend import Backend
    from ediffi.studio.gallery import Gallery

    cascade = Cascade.from_pretrained(model, device, expert_residency, dtype=dtype, compile=compile)
    backend = Backend(cascade, Gallery(output))
    try:
        serve(build(backend), chosen, str(backend.gallery.folder))
    finally:
        backend.close()
