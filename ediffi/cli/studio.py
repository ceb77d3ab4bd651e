"""`ediffi studio`: a page to paint on."""

import getpass
import os
import sys
from pathlib import Path
from typing import Literal

from ediffi.cli.parser import UsageError
from ediffi.io.devices import DType

PASSWORD = "EDIFFI_STUDIO_PASSWORD"
LEAST = 8


def studio(
    model: str = "toybox",
    port: int = 7860,
    host: str = "127.0.0.1",
    output: Path = Path("outputs/studio"),
    device: str = "auto",
    dtype: DType = "float32",
    compile: bool = False,
    expert_residency: Literal["resident", "stream"] = "resident",
) -> None:
    """Open a page on this machine to paint with words: a brush for each phrase, live previews, a gallery of all images.

    Args:
        port: of the page; if it is in use, the next free one; 0 for any.
        host: the address to serve. With another than 127.0.0.1, such as 0.0.0.0, other machines can open the page, with
            a password that is asked for (or EDIFFI_STUDIO_PASSWORD).
        output: folder for the images, created if it is missing.
    """
    from ediffi.studio.server import check_gradio, free_port, serve

    check_gradio()
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before gradio is imported
    chosen, password = free_port(port, host), _password(host)
    if port not in (0, chosen):
        print(f"port {port} is in use; taking {chosen}", file=sys.stderr)

    from ediffi.pipeline.cascade import Cascade
    from ediffi.studio.app import build
    from ediffi.studio.backend import Backend
    from ediffi.studio.gallery import Gallery

    cascade = Cascade.from_pretrained(model, device, expert_residency, dtype=dtype, compile=compile)
    backend = Backend(cascade, Gallery(output))
    try:
        if password is not None:
            print(
                f"{host} is open to the network: who knows the password can generate images on this machine, upload "
                f"style images, and see those in {backend.gallery.folder}; the connection is not encrypted",
                file=sys.stderr,
            )
        serve(build(backend), chosen, backend.gallery, host, password)
    finally:
        backend.close()


def _password(host: str) -> str | None:
    """The password of a page that other machines can open; None for this machine alone."""
    from ediffi.studio.guard import is_loopback

    if is_loopback(host):
        return None
    password = os.environ.get(PASSWORD)
    if password is None:
        if not sys.stdin.isatty():
            raise UsageError(f"--host {host} opens the page to the network and needs a password: set {PASSWORD}")
        password = getpass.getpass(f"a password for the page on {host}: ")
    if len(password) < LEAST:
        raise UsageError(f"the password of the page must have at least {LEAST} characters, got {len(password)}")
    return password
