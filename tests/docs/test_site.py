"""The site builds without warnings, all links work, nothing loads from another host, and all names are documented."""

import ast
import html
import inspect
import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import pytest

from docs.command_lines import LIGHTNING, PLACES, entry, parsers
from docs.reference import module_of, sources
from ediffi.cli import recipes
from ediffi.registry import denoisers, samplers

ROOT = Path(__file__).resolve().parent.parent.parent
LOADED = {"img": "src", "script": "src", "iframe": "src", "source": "src", "video": "src", "link": "href"}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page(NamedTuple):
    """The anchors of a page, its links, and the files that it loads."""

    anchors: set[str]
    links: list[str]
    loaded: list[str]


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.page = Page(set(), [], [])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        has = {name: value or "" for name, value in attrs}
        self.page.anchors.update(has[name] for name in ("id", "name") if name in has)
        if tag == "a" and "href" in has:
            self.page.links.append(has["href"])
        if has.get(LOADED.get(tag, "")):
            self.page.loaded.append(has[LOADED[tag]])


@pytest.fixture(scope="module")
def site(new_folder: Callable[[str], Path]) -> Path:
    """Built as `make docs` does."""
    folder = new_folder("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: read(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}


def read(text: str) -> Page:
    reader = Reader()
    reader.feed(text)
    return reader.page


def target(site: Path, page: Path, link: str) -> tuple[Path, str] | None:
    """The file and the anchor of a link; None for another site."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return None
    place = site / parts.path.lstrip("/") if parts.path.startswith("/") else page.parent / parts.path
    path = page if not parts.path else place.resolve()
    return path / "index.html" if path.is_dir() else path, unquote(parts.fragment)


def test_every_link_leads_to_a_page_and_a_place_on_it(site: Path, pages: dict[Path, Page]) -> None:
    broken, followed = [], 0
    for path, page in pages.items():
        for link in page.links:
            found = target(site, path, link)
            if found is None:
                continue
            followed += 1
            file, anchor = found
            if not file.is_file() or (anchor and anchor not in pages[file].anchors):
                broken.append(f"{path.relative_to(site)} -> {link}")
    assert followed > 1000
    assert not broken


def test_the_first_steps_are_a_notebook(site: Path) -> None:
    made = json.loads((site / "first-steps.ipynb").read_text(encoding="utf-8"))
    assert made["nbformat"] == 4
    code = [cell["source"] for cell in made["cells"] if cell["cell_type"] == "code"]
    page = (ROOT / "docs/first-steps.md").read_text(encoding="utf-8")
    assert len(code) == page.count("```python") == 7
    assert all(f"```python\n{cell}\n```" in page for cell in code)
    assert "```" not in "".join(cell["source"] for cell in made["cells"])


def test_what_is_public_is_on_its_page(site: Path) -> None:
    text = (site / "public.html").read_text(encoding="utf-8")
    for name in ("Cascade", "Region", *samplers.names(), *denoisers.names()):
        assert f"<code>{name}</code>" in text


def test_links_to_other_sites_are_known(site: Path, pages: dict[Path, Page]) -> None:
    out = {link for path, page in pages.items() for link in page.links if target(site, path, link) is None}
    assert {urlsplit(link).scheme for link in out} <= {"https", "mailto"}
    assert {urlsplit(link).netloc for link in out} <= {"arxiv.org", "squidfunk.github.io", "keepachangelog.com", ""}


def test_nothing_loads_from_another_host(site: Path, pages: dict[Path, Page]) -> None:
    loaded = {(path, link) for path, page in pages.items() for link in page.loaded}
    assert len(loaded) > len(pages)
    for path, link in loaded:
        if link.startswith("data:"):
            continue
        found = target(site, path, link)
        assert found is not None, f"{path.relative_to(site)} loads {link}"
        assert found[0].is_file(), f"{path.relative_to(site)} lacks {link}"
    for style in site.rglob("*.css"):
        assert not re.search(r"(url\(\s*|@import\s*)[\"']?(https?:)?//", style.read_text(encoding="utf-8")), style


def test_the_reader_finds_links_and_loaded_files() -> None:
    page = read("<link href=//fonts.elsewhere/a.css><img src='b.png'><a href='c.html#d'>x</a><h1 id=e>")
    assert page == Page({"e"}, ["c.html#d"], ["//fonts.elsewhere/a.css", "b.png"])
    assert target(Path("/s"), Path("/s/i.html"), page.loaded[0]) is None


@pytest.mark.parametrize("command", PLACES)
def test_every_command_has_a_page_with_every_option(site: Path, command: str) -> None:
    text = (site / "cli" / f"{command}.html").read_text(encoding="utf-8")
    module, main = entry(command)
    assert f"ediffi {command}" in text
    if command in LIGHTNING:
        assert "--start.…" in text
        assert "batch_size" in text
        return
    found = list(parsers(command))
    assert found
    functions = {f.__name__.replace("_", "-"): f for _, f in inspect.getmembers(module, inspect.isfunction)}
    for parser in found:
        assert parser.prog in text
        description = inspect.cleandoc(parser.description or "").splitlines()
        assert all(html.escape(line, quote=False) in text for line in description if "`" not in line)
        function = functions.get(parser.prog.rpartition(" ")[2], main)
        if function is not main:
            for name in inspect.signature(function).parameters:
                assert f"--{name.replace('_', '-')}<" in text or f">{name.upper()}" in text, f"{parser.prog}: {name}"


def test_groups_are_complete() -> None:
    assert [parser.prog.split()[-1] for parser in parsers("recipes")] == [
        command.__name__ for command in recipes.COMMANDS
    ]
    assert [parser.prog for parser in parsers("evaluate")][:2] == ["ediffi evaluate", "ediffi evaluate suites"]
    assert [parser.prog for parser in parsers("edit")] == ["ediffi edit"]


def test_every_recipe_is_in_the_table(site: Path) -> None:
    text = (site / "recipes.html").read_text(encoding="utf-8")
    assert all(f"<code>{name}</code>" in text for name in recipes.names())


def documented(node: ast.AST, prefix: str) -> Iterator[str]:
    """The public functions, classes and methods with a docstring, by their dotted names."""
    for child in ast.iter_child_nodes(node):
        named = isinstance(child, ast.FunctionDef | ast.ClassDef) and not child.name.startswith("_")
        if named and ast.get_docstring(child):
            yield f"{prefix}.{child.name}"
            if isinstance(child, ast.ClassDef):
                yield from documented(child, f"{prefix}.{child.name}")


def test_every_public_name_is_in_the_reference(pages: dict[Path, Page]) -> None:
    anchors = set().union(*(page.anchors for path, page in pages.items() if path.parent.name == "api"))
    wanted = set()
    for path in sources(ROOT):
        module = module_of(path)
        wanted |= {module, *documented(ast.parse((ROOT / path).read_text(encoding="utf-8")), module)}
    assert {
        "ediffi.registry.types.Conditioning.drop",
        "ediffi.pipeline.cascade.Cascade",
        "ediffi.evaluation.metrics.kid.kid",
    } <= wanted
    assert not wanted - anchors


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def address(site: Path) -> Iterator[str]:
    """The site on loopback."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_requests_no_other_host(address: str, scheme: str, width: int) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    asked: set[str] = set()
    errors: list[str] = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM)
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.on("request", lambda request: asked.add(urlsplit(request.url).netloc))
        page.on("pageerror", lambda error: errors.append(str(error)))
        for name in ("index.html", "compose.html", "cli/sample.html", "api/ediffi.registry.html"):
            page.goto(f"{address}/{name}")
            assert page.evaluate("document.body.dataset.mdColorScheme") == {"light": "default", "dark": "slate"}[scheme]
            assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        page.keyboard.press("/")
        page.keyboard.type("paint-with-words")
        page.wait_for_selector(".md-search-result__item")
        browser.close()
    assert asked == {urlsplit(address).netloc}
    assert not errors
