"""The texts are correct: command lines parse, code runs, and the named files and functions exist."""

import ast
import json
import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from docs.command_lines import LIGHTNING, PLACES, check, parsers
from docs.hooks import PLACE
from ediffi.cli import UsageError
from ediffi.hub.finding import CONFIG
from ediffi.hub.models import SHIPPED
from ediffi.registry.types import Conditioning, Embedding
from reproduction.quoted import QUOTE

ROOT = Path(__file__).resolve().parent.parent.parent
PLUGIN = ROOT / "examples" / "plugin"
TEXTS = [
    *sorted((ROOT / "docs").glob("*.md")),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "RELEASE_CHECKLIST.md", "benchmarks/README.md")),
    *(ROOT / name for name in ("examples/plugin/README.md", "ediffi/weights/toybox/README.md")),
]
COMMENT = re.compile(r" {3,}\S.*$")
OPTIONAL = re.compile(r"\[(--[^\]]*)\]")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CITED = re.compile(r"eDiff-I,? ((?:(?:section|table|figure|appendix)s? [\w.]*\w(?:,| and)? ?)+)")
CITATION = re.compile(r"(section|table|figure|appendix) ([\w.]*\w)")


class Line(NamedTuple):
    """A command line in a text, and the folder where it runs."""

    text: Path
    folder: Path
    line: str


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def without_fences(text: str) -> str:
    return FENCE.sub("", text)


def lines_of(text: Path) -> Iterator[Line]:
    """The command lines of a text's indented blocks, continued lines joined; `cd` holds to the end of its block."""
    start = text.parent if "examples" in text.parts else ROOT
    folder = start
    for raw in without_fences(text.read_text(encoding="utf-8")).replace("\\\n", " ").splitlines():
        if not raw.startswith("    "):
            folder = start
            continue
        line = raw.strip()
        if line.startswith("cd "):
            folder = start / line.removeprefix("cd ")
        line = line.removeprefix(".venv/bin/")
        if line.startswith("ediffi "):
            yield Line(text, folder, OPTIONAL.sub(r"\1", COMMENT.sub("", line)))


def installed(package: Path, site: Path) -> Path:
    """A folder whose metadata says that a package is installed, as far as its entry points go."""
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    about = site / f"{project['name']}-{project['version']}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Name: {project['name']}\nVersion: {project['version']}\n")
    groups = [f"[{group}]\n" + "\n".join(map(" = ".join, of.items())) for group, of in project["entry-points"].items()]
    (about / "entry_points.txt").write_text("\n".join(groups))
    return site


LINES = [line for text in TEXTS if text.is_file() for line in lines_of(text)]


def test_the_texts_are_there() -> None:
    assert [named(text) for text in TEXTS if not text.is_file()] == []
    assert len(LINES) > 80


@pytest.mark.parametrize("line", LINES, ids=lambda line: f"{named(line.text)}: {line.line}")
def test_a_command_line_parses(line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(line.folder)
    if line.folder == PLUGIN:
        monkeypatch.syspath_prepend(installed(PLUGIN, tmp_path))
    check(shlex.split(line.line)[1:])


@pytest.mark.parametrize("text", [t for t in TEXTS if t.name == "README.md" or t.parent.name == "docs"], ids=named)
def test_a_comment_beside_a_command_is_one_for_the_shell_too(text: Path) -> None:
    """What is copied from a page runs."""
    for line in without_fences(text.read_text(encoding="utf-8")).splitlines():
        beside = COMMENT.search(line.strip()) if re.match(r" {4}(\.venv/bin/)?(ediffi|make|pip) ", line) else None
        assert beside is None or beside[0].lstrip().startswith("#"), line


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("smaple x", UsageError),
        ("toybox sharsd x", UsageError),
        ("data", UsageError),
        ("sample x --sede 3", Exception),
        ("sample x --seed three", Exception),
        ("fit --config recipes/toybox/bsae.yaml", FileNotFoundError),
    ],
)
def test_a_wrong_command_line_is_rejected(line: str, error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(error):
        check(line.split())


@cache
def group(command: str) -> set[str]:
    """The commands of a group; none if it is a command itself."""
    if command in LIGHTNING:
        return set()
    found = {parser.prog.removeprefix(f"ediffi {command}").strip() for parser in parsers(command)}
    return set() if "" in found else found


@pytest.mark.parametrize("text", TEXTS, ids=named)
def test_a_command_in_a_sentence_exists(text: Path) -> None:
    for words in re.findall(r"`ediffi ([^`]*)`", without_fences(text.read_text(encoding="utf-8"))):
        first, *rest = words.split()
        if first == "COMMAND":
            continue
        assert first in PLACES or first in ("--version", "--help"), words
        if rest and first in PLACES and group(first):
            assert set(rest[0].split("|")) <= group(first), words


# Python


def blocks(text: Path) -> list[str]:
    return [code for kind, code in FENCE.findall(text.read_text(encoding="utf-8")) if kind == "python"]


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The shipped model, its first two stages at two steps each; also as "our-lab/birds" at "v1" in the Hub's cache."""
    shipped, cache, commit = tmp_path / "shipped", tmp_path / "cache" / "models--our-lab--birds", "1" * 40
    shutil.copytree(SHIPPED / "toybox", shipped / "toybox")
    config = json.loads((shipped / "toybox" / CONFIG).read_text())
    config["stages"] = config["stages"][:2]
    for stage in config["stages"]:
        stage["sampling"]["num_inference_steps"] = 2
    (shipped / "toybox" / CONFIG).write_text(json.dumps(config))
    shutil.copytree(shipped / "toybox", cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    (cache / "refs" / "v1").write_text(commit)
    monkeypatch.setattr("ediffi.hub.models.SHIPPED", shipped)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so small a network only waits for its second thread
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("models")
@pytest.mark.parametrize("text", [text for text in TEXTS if text.is_file() and blocks(text)], ids=named)
def test_code_runs(text: Path) -> None:
    names: dict[str, Any] = {}
    for code in blocks(text):
        exec(compile(code, named(text), "exec"), names)
    if text.name == "compose.md":
        words = Embedding(torch.zeros(2, 3, 8), torch.ones(2, 3, dtype=torch.bool), torch.ones(2, 64))
        network = names["tiny_net"](width=8)
        assert network(torch.zeros(2, 3, 4, 4), torch.ones(2), Conditioning({"ngram_text": words})).shape == (
            2,
            3,
            4,
            4,
        )


# Names


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def there(path: Path, name: str) -> bool:
    """Whether a file has a function, class or method with a dotted name."""
    body: list[ast.stmt] = tree(path).body
    for part in name.split("."):
        found = [n for n in body if isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name == part]
        if not found:
            return False
        body = found[0].body
    return True


PAPER_MAP = (ROOT / "docs/paper-map.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("file", "name"), PLACE.findall(PAPER_MAP))
def test_a_place_of_the_paper_map_exists(file: str, name: str) -> None:
    assert (ROOT / file).is_file()
    assert there(ROOT / file, name)


def test_a_missing_place_is_found() -> None:
    assert there(ROOT / "registry/types.py", "Conditioning.drop")
    assert not there(ROOT / "registry/types.py", "Conditioning.dorp")
    assert PLACE.findall("x `ediffi/diffusion/noise.py` `LogNormal.sample`, y") == [
        ("ediffi/diffusion/noise.py", "LogNormal.sample")
    ]


def test_citations_in_the_code_are_on_the_paper_map() -> None:
    """Sections, tables and figures of eDiff-I, as docstrings name them."""
    sources = [path for top in ("registry", "evaluation", "ediffi") for path in (ROOT / top).rglob("*.py")]
    found = {
        f"{kind} {number}"
        for path in sources
        for cited in CITED.findall(" ".join(path.read_text(encoding="utf-8").split()))
        for kind, number in CITATION.findall(cited)
    }
    assert {"section 4.3", "table 7", "figure 3", "appendix A"} <= found
    told = PAPER_MAP.lower()
    missing = {one for one in found if not re.search(rf"{one.lower()}\b", told)}
    assert not missing


@pytest.mark.parametrize(
    "what",
    ["section 4.1", "section 4.2", "section 4.3", "section 5", "table 1", "table 5", "table 7", "appendix A"]
    + [f"figure {number}" for number in (3, 4, 5, 7, 13)]
    + ["figures 8 and 18"],
)
def test_the_implemented_parts_of_the_paper_are_on_the_map(what: str) -> None:
    assert re.search(rf"{what.lower()}\b", PAPER_MAP.lower())


FILE = re.compile(r"`((?:registry|evaluation|ediffi|recipes|benchmarks|docs|tests|examples)/[\w./-]+)`")


@pytest.mark.parametrize("text", TEXTS, ids=named)
def test_a_named_file_exists(text: Path) -> None:
    for place in FILE.findall(text.read_text(encoding="utf-8")):
        assert (ROOT / place).exists(), place


def test_numbers_without_a_quotation_are_the_paper_s() -> None:
    """Measured numbers in docs/not-reproduced.md are quoted from a reproduction."""
    text = (ROOT / "docs/not-reproduced.md").read_text(encoding="utf-8")
    assert len(QUOTE.findall(text)) > 10
    assert set(re.findall(r"\d+\.\d+", QUOTE.sub("", text))) == {"1.9", "1.7", "6.95", "61.9"}
