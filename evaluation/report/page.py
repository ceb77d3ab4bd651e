"""The report of an evaluation, and the comparison of several: one page with numbers, figures, images and protocol."""

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from ediffi.evaluation.meaning import meaning
from ediffi.evaluation.naming import (
    clip_name,
    comparable_to_paper,
    convention,
    dataset_name,
    distance_name,
    measured_name,
)
from ediffi.evaluation.report.differences import difference_table
from ediffi.evaluation.report.gallery import SCRIPT, Gallery, ReportSample, gallery
from ediffi.evaluation.report.stored import StoredEvaluation, spreads
from ediffi.evaluation.report.tables import any_marked, headlines, main_table, measure_tables, parts, settings_tables
from ediffi.evaluation.report.verdict import verdict
from ediffi.evaluation.results import Results, check_comparable, flattened
from ediffi.evaluation.tradeoff import MatplotlibMissing, svg
from ediffi.io.page import write_page

FILE = "report.html"
CAPTIONS = 48
"""Captions whose images a comparison shows."""
TEMPLATE = Path(__file__).with_name("report.html.j2")
_PARTS = {"dataset": "Dataset", "selection": "Captions", "reference": "Reference images"}
_REFERENCE = {"pictures": "list of images, SHA-256", "sha256": "reference, SHA-256", "preparation.which": ""}
_REFERENCE |= {"preparation.images_sha256": "images, SHA-256", "preparation.rule": "made square"}
_REFERENCE |= {"preparation.size": "size", "preparation.from": "from", "foreign": "made elsewhere"}
"""Names of the leaves of a reference for people; empty of what another leaf says."""
_PARTS |= {"feature_extractor": "Feature extractor", "clip": "CLIP", "guidance": "Guidance", "versions": "Versions"}


def write(
    results: Results,
    folder: Path,
    samples: Mapping[str, Sequence[ReportSample]] | None = None,
    command: str | Sequence[str] = "",
) -> Path:
    """Write `report.html` of an evaluation; without matplotlib it has no figure, and says so.

    `samples` are images of each point, by the point's name. `command` was run: a text or a list of arguments.
    """
    titles, samples = {point.name: point.title for point in results.points}, samples or {}
    if unknown := [name for name in samples if name not in titles]:
        raise ValueError(f"there are samples of {unknown[0]!r}, and the results have only {', '.join(titles)}")
    lead = results.suite.get("about") or f"Suite {results.suite.get('name', '')}"
    images, count = gallery([(results, samples)]), (results.protocol.get("selection") or {}).get("count") or 0
    if images and count > len(images.rows):
        images = replace(images, which=f"The first {len(images.rows)} of {count:,} captions.")
    more = {"images": images, "differences": None}
    return _write(folder / FILE, [[results]], results.model, lead, command, [more])


def compare(folders: Sequence[Path], file: Path, command: str | Sequence[str] = "", captions: int = CAPTIONS) -> Path:
    """Write one page on the evaluations in several folders, with a figure and a table for each dataset, and the images
    of all systems for the `captions` on which they differ most.

    Models of one name are distinguished by their folders. ValueError names the field in which two protocols differ.
    """
    if len(folders) < 2:
        raise ValueError(f"a comparison needs at least two folders, got {len(folders)}")
    (place, times), *_ = Counter(folder.resolve() for folder in folders).most_common(1)
    if times > 1:
        raise ValueError(f"{place} was given twice")
    groups: dict[str, list[tuple[Path, Results]]] = {}
    for folder in folders:
        results = Results.read(folder)
        groups.setdefault(dataset_name(results), []).append((folder, results))
    distinct = [_distinct(group) for group in groups.values()]
    for group in distinct:
        check_comparable(group)
    models = list(dict.fromkeys(results.model for group in distinct for results in group))
    title = " · ".join(models) if len(models) < 4 else f"{len(models)} models"
    stored = [
        [StoredEvaluation(folder, results) for (folder, _), results in zip(group, named, strict=True)]
        for group, named in zip(groups.values(), distinct, strict=True)
    ]
    more = [{"images": compared_images(one, captions), "differences": difference_table(one)} for one in stored]
    return _write(file, distinct, title, f"Compared on {' and '.join(groups)}", command, more)


def compared_images(several: Sequence[StoredEvaluation], captions: int) -> Gallery | str | None:
    """The images of systems for the captions on which they differ most; or in a sentence why they cannot be shown; None
    if the evaluations have no captions."""
    if not all(one.captions for one in several):
        return None
    try:
        known, differ = spreads(several)
        numbers = sorted(known or range(len(several[0].captions)), key=lambda n: (-known.get(n, 0.0), n))[:captions]
        shown = [(one.results, dict(one.samples(numbers))) for one in several]
    except (OSError, ValueError, KeyError) as error:
        return f"The images cannot be shown: {error}."
    images, count = gallery(shown, known, differ), len(several[0].captions)
    if images and count > len(images.rows):
        order = f" where {differ} differs most" if differ else ""
        images = replace(images, which=f"{len(images.rows)} of {count:,} captions{order}; --captions sets how many.")
    return images


def _distinct(group: Sequence[tuple[Path, Results]]) -> list[Results]:
    """Results whose models have different names: equal ones get the names or the paths of their folders."""
    count = Counter(results.model for _, results in group)
    for label in (lambda folder: folder.name, str):
        models = [f"{one.model} ({label(folder)})" if count[one.model] > 1 else one.model for folder, one in group]
        if len(set(models)) == len(models):
            break
    return [replace(results, model=model) for model, (_, results) in zip(models, group, strict=True)]


def _write(
    file: Path,
    groups: Sequence[Sequence[Results]],
    title: str,
    lead: str,
    command: str | Sequence[str],
    more: Sequence[Mapping[str, Any]],
) -> Path:
    """`more` has the images and the differences of each group."""
    several = [results for group in groups for results in group]
    commands = [command if isinstance(command, str) else shlex.join(command)]
    commands += [str(results.protocol.get("command") or "") for results in several]
    return write_page(
        file,
        TEMPLATE,
        title=title,
        lead=lead,
        notices=[*_notices(several), *(notice for group in groups for notice in _version_notices(group))],
        sections=[{**_section(group, number), **more[number]} for number, group in enumerate(groups)],
        script=SCRIPT.read_text(encoding="utf-8"),
        commands=list(dict.fromkeys(text for text in commands if text)),
        suites=list(dict.fromkeys(_suite_text(results) for results in several if "selection" in results.protocol)),
        meanings=_meanings(several),
        protocols=[(dataset_name(group[0]), _protocol(group[0])) for group in groups],
        code=[(results.model, _code(results)) for results in several if _code(results)],
        settings=[(results.model, *settings_tables(results)) for results in several],
    )


def _code(results: Results) -> str:
    """The commit that computed the numbers of an evaluation, in words; empty if it is not known."""
    code = results.protocol.get("code") or {}
    return f"{code['commit']}{', with changes' if code.get('changed_since') else ''}" if "commit" in code else ""


def _section(group: Sequence[Results], number: int) -> dict[str, Any]:
    """What the template shows of a dataset: numbers, tables, and the figure, or in `about` why there is none."""
    table, measures = main_table(group), measure_tables(group)
    section = {"title": dataset_name(group[0]), "distance": distance_name(group[0]), "several": len(group) > 1}
    section |= {"headlines": headlines(group), "tables": parts(table), "measures": measures, "level": _level(group)}
    section |= {"nfe": any(point.nfe is not None for results in group for point in results.points)}
    section |= {"settings": any(p.title != results.model for results in group for p in results.points)}
    section |= {"models": section["several"] or not section["settings"], "clip": _clip(group)}
    section |= {"anchor": f"protocol-{number}", "marks": any_marked([table, *measures])}
    try:
        figures = [svg(group, f"figure-{number}"), svg(group, f"narrow-{number}", narrow=True)]
        return section | {"figures": figures}
    except MatplotlibMissing as error:
        return section | {"figures": [], "about": f"There is no figure: {error}."}


def _level(group: Sequence[Results]) -> str:
    """What the intervals of a dataset's numbers are, in words; empty if there are none."""
    if not any(point.interval(name) for results in group for point in results.points for name in point.metrics):
        return ""
    level = (group[0].protocol.get("intervals") or {}).get("level")
    return f"{level:.0%} interval" if isinstance(level, float) else "interval"


def _clip(group: Sequence[Results]) -> str:
    """The CLIP that scored; empty if there are no scores."""
    scored = any("clip_score" in point.metrics for results in group for point in results.points)
    return clip_name(group[0]) if scored else ""


def _meanings(several: Sequence[Results]) -> list[tuple[str, str, str]]:
    """Of each metric on the page its name, its title and what it is."""
    titles = {
        name: f"{name.partition('/')[0]}: {title}" if "/" in name else title
        for results in several
        for point in results.points
        for name in point.metrics
        if name != "kid_std" or point.interval("kid_mean") is None  # else nothing on the page shows it
        for title in [measured_name(results, name)]
    }
    return [(name, title[:1].upper() + title[1:], meaning(name)) for name, title in titles.items()]


def _notices(several: Sequence[Results]) -> list[tuple[str, str]]:
    """Each notice once, and the models and settings it is about; empty if it is about all of them."""
    owners: dict[str, list[str]] = {}
    for results in several:
        for text in dict.fromkeys(text for point in results.points for text in point.notices):
            titles = [point.title for point in results.points if text in point.notices]
            of = ", ".join(titles) if len(titles) < len(results.points) else ""
            model = results.model if len(several) > 1 else ""
            owners.setdefault(text, []).append(f"{model}: {of}" if model and of else model or of)
    names = {results.model for results in several}
    return [(text, "" if set(whose) == names else "; ".join(whose)) for text, whose in owners.items()]


def _version_notices(group: Sequence[Results]) -> list[tuple[str, str]]:
    """A notice for each library whose version differs."""
    versions = [dict(flattened(results.protocol.get("versions") or {"": None})) for results in group]
    found = []
    for name in dict.fromkeys(name for one in versions for name in one if name):
        values = [str(one.get(name, "unknown")) for one in versions]
        if len(set(values)) > 1:
            each = ", ".join(f"{value} ({results.model})" for value, results in zip(values, group, strict=True))
            found.append((f"Judged with different versions of {name}: {each}.", ""))
    return found


def _protocol(results: Results) -> list[tuple[str, list[tuple[str, str]]]]:
    """The parts of the protocol, each with its leaves by name."""
    order = [name for name in _PARTS if name in results.protocol]
    order += [name for name in results.protocol if name not in _PARTS and name not in ("command", "code")]
    parts = []
    for name in order:
        part = results.protocol[name]
        if name == "reference" and isinstance(part, Mapping):  # its extractor has a part of its own
            part = {key: value for key, value in part.items() if key != "feature_extractor" and value is not False}
        titles = _REFERENCE if name == "reference" else {}
        leaves = [
            (titles.get(leaf, leaf), "none" if value is None else str(value))
            for leaf, value in flattened(part)
            if titles.get(leaf, leaf)
        ]
        parts.append((_PARTS.get(name, name.replace("_", " ").capitalize()), leaves))
    if "guidance" not in results.protocol and any(point.guidance_scale is not None for point in results.points):
        parts.append((_PARTS["guidance"], [("", convention(results))]))
    if comparable_to_paper(results):
        table = "Table 1 of eDiff-I has the same protocol: COCO 2014 validation, 30,000 captions, 256²."
        parts.append(("The paper", [("", table)]))
    return parts


def _suite_text(results: Results) -> str:
    """The suite as YAML, without empty values."""

    def filled(values: Mapping[str, Any]) -> dict[str, Any]:
        plain = {key: filled(value) if isinstance(value, Mapping) else value for key, value in values.items()}
        return {key: value for key, value in plain.items() if value not in (None, {}, [], "")}

    return yaml.safe_dump(filled(results.suite), sort_keys=False, allow_unicode=True, width=100).strip()


def judged_sample(
    caption: str, image: Image.Image, measured: Mapping[str, float], number: int | None = None
) -> ReportSample:
    """A sample with the verdict of the dataset's `measure`, see `verdict`."""
    return ReportSample(caption, image, *verdict(measured), number)
