"""Results in the Hub's formats: a model card's `model-index`, and the entries of `.eval_results/`."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ediffi.evaluation.naming import (
    clip_name,
    dataset_name,
    distance,
    is_distance,
    is_published,
    measured_name,
    metric_name,
)
from ediffi.evaluation.results import Point, Results, flattened
from ediffi.io.files import replace

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, EvalResultEntry

INDEX = "model-index.yaml"
ENTRIES = ".eval_results"
TASK = "text-to-image"
"""The Hub's name of the task."""


def eval_results(results: Results, dataset_id: str | None = None) -> "list[EvalResult]":
    """Every finite number of every setting, for a model card's `model-index`.

    `dataset_id` is the dataset on the Hub, "owner/name"; by default the suite's `hub_dataset`, or else our own name of
    the dataset, which is no repository.
    """
    from huggingface_hub import EvalResult

    several, protocol = len(results.points) > 1, dict(flattened(results.protocol))
    shared: dict[str, Any] = {
        "task_type": TASK,
        "dataset_type": _dataset(results, dataset_id),
        "dataset_name": dataset_name(results),
        "dataset_config": str(results.suite.get("name", "")) or None,
        "dataset_split": protocol.get("dataset.split"),
        "dataset_args": _known({key: protocol.get(f"selection.{key}") for key in ("sha256", "count", "seed")}),
    }
    found = []
    for point in results.in_order:
        arguments = _known({"guidance_scale": point.guidance_scale, "nfe": point.nfe, "count": point.count})
        for name, value in _finite(point):
            kind, slash, _ = name.partition("/")  # "oracle/shape" is "Oracle: Shape"
            title = f"{metric_name(kind)}: {metric_name(name)}" if slash else measured_name(results, name)
            title = f"{title}, {point.title}" if several else title
            metric: dict[str, Any] = {"metric_type": slug(name), "metric_name": title, "metric_value": value}
            found.append(EvalResult(**shared, **metric, metric_args=arguments))
    return found


def headline(results: Results) -> Point | None:
    """The setting that is published: the one of lowest distance, else of highest CLIP score, else the first one."""
    first = results.points[0] if results.points else None
    return results.best(distance([results])) or results.best("clip_score", lowest=False) or first


def entries(
    results: Results, dataset_id: str | None = None, source_url: str | None = None, date: str | None = None
) -> "list[EvalResultEntry]":
    """The numbers of one setting (`headline`) as entries of `.eval_results/`, one for each task of a leaderboard.

    The Hub shows an entry if it knows `dataset_id` (see `eval_results`) as a benchmark with the entry's task.
    `source_url` is of the report; `date` is ISO 8601, the commit's by default.
    """
    from huggingface_hub import EvalResultEntry

    if (point := headline(results)) is None:
        return []
    suite = slug(str(results.suite.get("name", "suite")))
    shared: dict[str, Any] = {"dataset_id": _dataset(results, dataset_id), "date": date, "source_url": source_url}
    return [
        EvalResultEntry(task_id=f"{suite}-{slug(name)}", value=value, notes=_notes(results, point, name), **shared)
        for name, value in _finite(point)
    ]


def write(
    results: Results,
    folder: Path,
    dataset_id: str | None = None,
    source_url: str | None = None,
    date: str | None = None,
) -> list[Path]:
    """Write `model-index.yaml` and `.eval_results/<suite>.yaml`; the same arguments give the same bytes.

    The first is metadata of a model card (see `huggingface_hub.metadata_update`). The second is copied into the model's
    repository. ValueError: `dataset_id` is not of the form owner/name, or there is no finite number to publish.
    """
    from huggingface_hub import eval_result_entries_to_yaml
    from huggingface_hub.repocard_data import eval_results_to_model_index

    numbers = eval_results(results, dataset_id)
    if not numbers:
        raise ValueError(f"the evaluation of {results.model} has no finite number to publish")
    entry = folder / ENTRIES / f"{slug(str(results.suite.get('name', 'suite')))}.yaml"
    listed = eval_result_entries_to_yaml(entries(results, dataset_id, source_url, date))
    index = {"model-index": eval_results_to_model_index(results.model, numbers)}
    for path, content in ((folder / INDEX, index), (entry, listed)):
        path.parent.mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)
        replace(path, text.encode("utf-8", "replace"))
    return [folder / INDEX, entry]


def _dataset(results: Results, dataset_id: str | None) -> str:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, but not re-exported

    own = str(results.suite.get("dataset", "unknown"))
    name = dataset_id or results.suite.get("hub_dataset") or (own if is_published(results) else f"{own}-layout")
    try:
        validate_repo_id(name)
    except HFValidationError:
        raise ValueError(f"dataset_id must be a dataset of the Hub, owner/name; got {name!r}") from None
    return name


def _finite(point: Point) -> list[tuple[str, float]]:
    return [(name, float(value)) for name in point.metrics if (value := point.metric(name)) is not None]


def _known(values: dict[str, Any]) -> dict[str, Any] | None:
    """The values that are not None; None if there are none."""
    return {key: value for key, value in values.items() if value is not None} or None


def _notes(results: Results, point: Point, name: str) -> str:
    """The setting and the networks of an entry's number, in one line."""
    parts = [point.title, f"NFE {point.nfe:g}" if point.nfe is not None else "", f"{point.count} images"]
    if len(results.points) > 1 and results.best(distance([results])):
        parts[0] += f", the lowest distance of {len(results.points)} settings"
    judge = clip_name(results) if name == "clip_score" else measured_name(results, name) if is_distance(name) else ""
    digest = dict(flattened(results.protocol)).get("selection.sha256")
    parts += [judge, f"captions sha256 {str(digest)[:12]}" if digest else ""]
    return "; ".join(part for part in parts if part)


def slug(name: str) -> str:
    """A name for files and identifiers: letters, digits, dots, dashes and underscores."""
    return re.sub(r"[^\w.]+", "-", name).strip("-.") or "unnamed"
