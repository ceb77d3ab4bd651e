"""Who may use the page: what is checked of each request before Gradio sees it.

Any website can make a browser send requests to 127.0.0.1, and a name of its own can resolve to that address. So the
Host must be this machine (DNS rebinding), the Origin must be the page, and everything but the page itself needs the
token that the page sets as a cookie, which other sites do not get sent. On a network address, a password comes first.
"""

import base64
import binascii
import hmac
import ipaddress
import logging
import re
import secrets
import socket
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from ediffi.studio.gallery import SOURCES, STYLES, Gallery

logger = logging.getLogger(__name__)
LOOPBACK = ("127.0.0.1", "localhost", "::1")
FILES = "/gallery/"
"""The path of the gallery's files: of those that the gallery made, and of nothing else in its folder."""
OPEN = ("/", "/gradio_api/startup-events")
"""What needs no cookie: the page, which sets it, and what Gradio asks itself when it starts."""
USED: tuple[str, ...] = ("/config", "/assets/", "/static/", "/svelte/", "/theme.css", "/favicon.ico")
USED += tuple(
    f"/gradio_api/{name}"
    for name in ("app_id", "info", "queue/", "upload", "heartbeat/", "cancel", "reset", "startup-events", "theme.css")
)
USED += ("/manifest.json", "/pwa_icon")
"""Beginnings of the paths of Gradio that the page uses. Its other routes, which read files or addresses, are closed."""
HEADERS = {"content-security-policy": "frame-ancestors 'none'", "referrer-policy": "same-origin"}
HEADERS |= {"x-content-type-options": "nosniff"}


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server on `host`."""
    try:
        return host in LOOPBACK or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """ASGI middleware around Gradio's application.

    Args:
        app: Gradio's.
        gallery: whose files are served.
        host: the address that is served.
        port: its port, for the name of the cookie, which browsers share between all ports.
        password: asked for by the browser; needed where `host` is not this machine alone.
    """

    def __init__(self, app: Any, gallery: Gallery, host: str, port: int, password: str | None = None) -> None:
        if not is_loopback(host) and not password:
            raise ValueError(f"a page on {host} needs a password")
        self.app, self.gallery, self.host, self.password = app, gallery, host, password
        self.cookie, self.token = f"ediffi-studio-{port}", secrets.token_urlsafe(32)
        self.names = {*LOOPBACK, host, socket.gethostname().lower()}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request, or refuse it in one sentence."""
        if scope["type"] == "websocket":  # the page has none
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        from starlette.responses import FileResponse, PlainTextResponse

        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        path, send = scope["path"], self._with_headers(send, sets_cookie=scope["path"] == "/")
        if self.password and path != OPEN[1] and not self._knows_password(headers.get("authorization", "")):
            asks = {"www-authenticate": 'Basic realm="ediffi studio", charset="UTF-8"'}
            await PlainTextResponse("the password of the studio, please", 401, asks)(scope, receive, send)
        elif refusal := self._refusal(scope["method"], path, headers):
            logger.warning("refused %s %s: %s", scope["method"], path[:100], refusal)
            await PlainTextResponse(refusal, 403)(scope, receive, send)
        elif path.startswith(FILES):
            file = self._file(path.removeprefix(FILES)) if scope["method"] in ("GET", "HEAD") else None
            answer = PlainTextResponse("no such image", 404) if file is None else FileResponse(file)
            await answer(scope, receive, send)
        elif path in OPEN or path.startswith(USED):
            await self.app(scope, receive, send)
        else:
            await PlainTextResponse("the page has nothing there", 404)(scope, receive, send)

    def _refusal(self, method: str, path: str, headers: Mapping[str, str]) -> str | None:
        """Why a request is not the page's; None if it is."""
        host = headers.get("host", "")
        if not self._is_this_machine(urlsplit(f"//{host}").hostname if _HOST.fullmatch(host) else None):
            return "the Host of the request is not this machine"
        origin = headers.get("origin")
        if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
            return "the request comes from another page"
        visits = method == "GET" and path == "/" and headers.get("sec-fetch-mode") == "navigate"
        if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none") and not visits:
            return "the request comes from another site"
        if path in OPEN and method in ("GET", "HEAD"):
            return None
        given = re.search(rf"(?:^|; ?){re.escape(self.cookie)}=([^;]*)", headers.get("cookie", ""))
        if given is None or not hmac.compare_digest(given[1].encode(), self.token.encode()):
            return "the request has no token of the page; load the page again"
        return None

    def _is_this_machine(self, name: str | None) -> bool:
        if is_loopback(self.host):
            return name in LOOPBACK
        try:
            return name in self.names or bool(ipaddress.ip_address(name or ""))
        except ValueError:
            return False

    def _knows_password(self, given: str) -> bool:
        try:
            _, _, password = base64.b64decode(given.removeprefix("Basic "), validate=True).partition(b":")
        except binascii.Error:
            return False
        return hmac.compare_digest(password, (self.password or "").encode())

    def _file(self, name: str) -> Any:
        """The file of an image of the gallery, or of an image that one was made from; None if there is none."""
        if re.fullmatch(rf"({STYLES}|{SOURCES})/[0-9a-f]{{16}}\.png", name):
            path = self.gallery.folder / name
            return path if path.is_file() and not path.is_symlink() else None
        try:
            return self.gallery.folder / self.gallery.image(name).name
        except (OSError, ValueError):
            return None

    def _with_headers(self, send: Any, sets_cookie: bool) -> Callable[[Any], Any]:
        added = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
        if sets_cookie:
            value = f"{self.cookie}={self.token}; Path=/; HttpOnly; SameSite=Strict"
            added.append((b"set-cookie", value.encode()))

        async def sending(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *added]}
            await send(message)

        return sending


_HOST = re.compile(r"[\w.-]+(:\d{1,5})?|\[[0-9a-fA-F:.]+\](:\d{1,5})?", re.ASCII)
