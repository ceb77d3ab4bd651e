"""The sheet: the pictures of a run as a visitor sees them, while they are painted and after."""

import base64
import html
import io
from collections.abc import Sequence
from urllib.parse import quote

from PIL import Image

from ediffi.studio.shelf import Shelf

SMALL = 64
"""Pictures up to this side are sent as they are; larger ones are compressed while they are painted."""


def data_url(image: Image.Image) -> str:
    """A picture inside a page."""
    small = image.width <= SMALL
    buffer = io.BytesIO()
    if small:
        image.save(buffer, "png")
    else:
        image.save(buffer, "jpeg", quality=85)
    return f"data:image/{'png' if small else 'jpeg'};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def file_url(shelf: Shelf, name: str) -> str:
    """The address of a picture on the shelf."""
    return "/gradio_api/file=" + quote(str(shelf.folder / name))


def sheet(
    sources: Sequence[str],
    told: str,
    *,
    detail: str = "",
    share: float | None = None,
    error: str = "",
    notices: Sequence[str] = (),
) -> str:
    """Pictures with a line under them, as HTML.

    Args:
        sources: addresses of the pictures; none for an empty sheet.
        told: what happens, or what they show.
        detail: at the right of the line, such as the time that is left.
        share: how much is done, 0 to 1; None for no bar.
        error: why there is no picture.
        notices: what has no effect.
    """
    count = len(sources)
    pictures = "".join(f'<img src="{html.escape(source)}" alt="the picture">' for source in sources)
    blank = "" if sources else '<div class="blank">The picture appears here.</div>'
    bar = "" if share is None else f'<i style="width:{100 * share:.1f}%"></i>'
    said = "".join(f'<div class="notice" role="status">{html.escape(notice)}</div>' for notice in notices)
    if error:
        said = f'<div class="alert" role="alert">{html.escape(error)}</div>' + said
    return (
        f'<div class="sheet n{min(count, 4)}">{pictures}{blank}<div class="said">{said}</div></div>'
        f'<div class="bar{" on" * (share is not None)}">{bar}</div>'
        f'<div class="line"><span>{html.escape(told)}</span><em>{html.escape(detail)}</em></div>'
    )
