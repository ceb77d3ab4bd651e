"""The page: what stands on it, in which order, and where it is written."""

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace as changed
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ediffi.evaluation.naming import comparable_to_paper, convention, dataset_name, distance_name
from ediffi.evaluation.report.samples import Sample, wall
from ediffi.evaluation.report.tables import Bars, Headline, Table, bar_tables, headlines, main_table, settings_tables
from ediffi.evaluation.results import Results, check_comparable, flattened
from ediffi.evaluation.tradeoff import MatplotlibMissing, describe, svg
from ediffi.io.files import replace

FILE = "report.html"
TEMPLATE = "report.html.j2"
_PARTS = {
    "dataset": "Data set",
    "selection": "Captions",
    "reference": "Reference pictures",
    "feature_extractor": "Feature extractor",
    "clip": "CLIP",
    "guidance": "Guidance",
    "versions": "Versions",
}
_PAPER = (
    "Table 1 of eDiff-I is of this protocol, as far as it says: COCO 2014 validation, 30,000 random captions, 256². "
    "It names neither its captions nor its rule of resizing."
)


class Section(NamedTuple):
    """A data set on the page.

    Attributes:
        title: its name.
        headlines: the best numbers.
        figure: the `<svg>` element; empty without matplotlib.
        about: the figure in a sentence, or why there is none.
        distance: what the Fréchet distance is here.
        several: whether there are several models.
        table: all settings.
        bars: what the data set measures itself.
    """

    title: str
    headlines: Sequence[Headline]
    figure: str
    about: str
    distance: str
    several: bool
    table: Table
    bars: Sequence[Bars]


def write(
    results: Results,
    folder: Path,
    samples: Mapping[str, Sequence[Sample]] | None = None,
    command: str | Sequence[str] = "",
) -> Path:
    """Write `report.html` of an evaluation, beside its place and then into it.

    The page loads nothing, from the network or from disk; the same arguments give the same bytes. Without matplotlib it
    says so where the figure would be.

    Args:
        results: the evaluation.
        folder: where the page goes.
        samples: pictures to show of each point, by the point's name.
        command: what was typed, a text or a list of arguments.

    Raises:
        ValueError: `samples` names a point that the results do not have.
        OSError: the file cannot be written.
    """
    titles = {point.name: point.title for point in results.points}
    unknown = [name for name in samples or {} if name not in titles]
    if unknown:
        raise ValueError(f"there are samples of {unknown[0]!r}, and the results have only {', '.join(titles)}")
    shown = {titles[name]: (samples or {})[name] for name in titles if name in (samples or {})}
    page = {
        "title": results.model,
        "lead": results.suite.get("about") or f"Suite {results.suite.get('name', '')}",
        "wall": wall(shown),
        **_common([[results]], command),
    }
    return _render(page, folder / FILE)


def compare(folders: Sequence[Path], file: Path, command: str | Sequence[str] = "") -> Path:
    """Write one page on the evaluations in several folders: a figure and a table for each data set.

    Models of one name are told apart by their folders.

    Args:
        folders: each with a `results.json`.
        file: the page.
        command: what was typed, a text or a list of arguments.

    Raises:
        FileNotFoundError: a folder has no results.
        ValueError: fewer than two folders, one folder twice, broken results, or numbers of different protocols on one
            data set; the message says which field differs.
        OSError: the file cannot be written.
    """
    if len(folders) < 2:
        raise ValueError(f"a comparison needs at least two folders, got {len(folders)}")
    places = Counter(folder.resolve() for folder in folders)
    twice = [place for place, count in places.items() if count > 1]
    if twice:
        raise ValueError(f"{twice[0]} was named twice")
    groups: dict[str, list[tuple[Path, Results]]] = {}
    for folder in folders:
        results = Results.read(folder)
        groups.setdefault(dataset_name(results), []).append((folder, results))
    told_apart = [_told_apart(group) for group in groups.values()]
    for group in told_apart:
        check_comparable(group)
    models = list(dict.fromkeys(results.model for group in told_apart for results in group))
    page = {
        "title": " · ".join(models) if len(models) < 4 else f"{len(models)} models",
        "lead": f"Compared on {' and '.join(groups)}",
        "wall": None,
        **_common(told_apart, command),
    }
    return _render(page, file)


def _told_apart(group: Sequence[tuple[Path, Results]]) -> list[Results]:
    """Results whose models have different names: those that share one get their folders' names, or whole paths."""
    names = [results.model for _, results in group]
    for label in (lambda folder: folder.name, str):
        models = [
            f"{name} ({label(folder)})" if names.count(name) > 1 else name
            for name, (folder, _) in zip(names, group, strict=True)
        ]
        if len(set(models)) == len(models):
            break
    return [changed(results, model=model) for model, (_, results) in zip(models, group, strict=True)]


def _common(groups: Sequence[Sequence[Results]], command: str | Sequence[str]) -> dict[str, Any]:
    """What both kinds of page have."""
    several = [results for group in groups for results in group]
    return {
        "sections": [_section(group, f"figure-{index}") for index, group in enumerate(groups)],
        "notices": _notices(several) + [text for group in groups for text in _versions_differ(group)],
        "protocols": [(dataset_name(group[0]), _protocol(group[0])) for group in groups],
        "settings": [(results.model, *settings_tables(results)) for results in several],
        "suites": list({_suite_text(results): None for results in several}),
        "commands": _commands(several, command),
    }


def _commands(several: Sequence[Results], command: str | Sequence[str]) -> list[str]:
    """What was typed: for this page, and for the evaluations on it where these say."""
    typed = [command if isinstance(command, str) else shlex.join(command)]
    typed += [str(results.protocol.get("command") or "") for results in several]
    return list(dict.fromkeys(text for text in typed if text))


def _section(group: Sequence[Results], prefix: str) -> Section:
    about = describe(group)
    try:
        figure = svg(group, prefix)
    except MatplotlibMissing as error:
        figure, about = "", f"There is no figure: {error}."
    title, distance = dataset_name(group[0]), distance_name(group[0])
    return Section(
        title, headlines(group), figure, about, distance, len(group) > 1, main_table(group), bar_tables(group)
    )


def _notices(several: Sequence[Results]) -> list[tuple[str, str]]:
    """Each notice once, and of which models and settings it is; nothing of which where it is of all."""
    owners: dict[str, list[str]] = {}
    for results in several:
        for text in dict.fromkeys(text for point in results.points for text in point.notices):
            titles = [point.title for point in results.points if text in point.notices]
            of = ", ".join(titles) if len(titles) < len(results.points) else ""
            model = results.model if len(several) > 1 else ""
            owners.setdefault(text, []).append(f"{model}: {of}" if model and of else model or of)
    names = {results.model for results in several}
    return [(text, "" if set(whose) == names else "; ".join(whose)) for text, whose in owners.items()]


def _versions_differ(group: Sequence[Results]) -> list[tuple[str, str]]:
    """A notice for each library that judged in different versions."""
    versions = [dict(flattened(results.protocol.get("versions") or {"": None})) for results in group]
    names = dict.fromkeys(name for one in versions for name in one if name)
    found = []
    for name in names:
        values = [str(one.get(name, "unknown")) for one in versions]
        if len(set(values)) > 1:
            each = ", ".join(f"{value} ({results.model})" for value, results in zip(values, group, strict=True))
            found.append((f"Judged with different versions of {name}: {each}.", ""))
    return found


def _protocol(results: Results) -> list[tuple[str, list[tuple[str, str]]]]:
    """The protocol, part by part, each leaf by its name."""
    order = [name for name in _PARTS if name in results.protocol]
    order += [name for name in results.protocol if name not in _PARTS and name != "command"]
    parts = []
    for name in order:
        part = results.protocol[name]
        if name == "reference" and isinstance(part, Mapping):  # its extractor stands below
            part = {key: value for key, value in part.items() if key != "feature_extractor"}
        leaves = [(leaf, "none" if value is None else str(value)) for leaf, value in flattened(part)]
        parts.append((_PARTS.get(name, name.replace("_", " ").capitalize()), leaves))
    if "guidance" not in results.protocol:
        parts.append((_PARTS["guidance"], [("", convention(results))]))
    if comparable_to_paper(results):
        parts.append(
            ("The paper", [("", "Its Table 1 is of this protocol: COCO 2014 validation, 30,000 captions, 256².")])
        )
    return parts


def _suite_text(results: Results) -> str:
    """The suite as a YAML file would have it."""
    return yaml.safe_dump(_said(results.suite), sort_keys=False, allow_unicode=True, width=100).strip()


def _said(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested plain JSON without what is empty."""
    plain = {key: _said(value) if isinstance(value, Mapping) else value for key, value in values.items()}
    return {key: value for key, value in plain.items() if value not in (None, {}, [], "")}


def _render(page: Mapping[str, Any], file: Path) -> Path:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template(TEMPLATE).render(**page)
    file.parent.mkdir(parents=True, exist_ok=True)
    replace(file, text.encode("utf-8", "replace"))
    return file
