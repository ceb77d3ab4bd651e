"""The numbers as the Hub reads them: a model card's `model-index`, and the entries of `.eval_results/`."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ediffi.evaluation.naming import clip_name, dataset_name, distance, is_distance, measured_name, metric_name
from ediffi.evaluation.results import Point, Results, flattened
from ediffi.evaluation.tradeoff.plan import in_order
from ediffi.io.files import replace

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, EvalResultEntry

INDEX = "model-index.yaml"
ENTRIES = ".eval_results"
TASK = "text-to-image"
"""The Hub's name of what is judged."""


def eval_results(results: Results, dataset_id: str | None = None) -> "list[EvalResult]":
    """Every finite number of every setting, for a model card's `model-index`.

    The suite is the data set's configuration, and each number carries its guidance scale, NFE and count of pictures.

    Args:
        results: the evaluation.
        dataset_id: the data set on the Hub, "owner/name"; by default our own name of it, which names no repository.

    Raises:
        ValueError: `dataset_id` cannot be one.
    """
    from huggingface_hub import EvalResult

    several, protocol = len(results.points) > 1, dict(flattened(results.protocol))
    found = []
    for point in in_order(results):
        for name in point.metrics:
            value = point.metric(name)
            if value is not None:
                title = _title(results, name)
                one = EvalResult(
                    task_type=TASK,
                    dataset_type=_dataset(results, dataset_id),
                    dataset_name=dataset_name(results),
                    dataset_config=str(results.suite.get("name", "")) or None,
                    dataset_split=protocol.get("dataset.split"),
                    dataset_args=_plain({key: protocol.get(f"selection.{key}") for key in ("sha256", "count", "seed")}),
                    metric_type=_slug(name),
                    metric_name=f"{title}, {point.title}" if several else title,
                    metric_value=float(value),
                    metric_args=_plain({**_made(point), "count": point.count}),
                )
                found.append(one)
    return found


def headline(results: Results) -> Point | None:
    """The setting that is published: of the lowest distance, else of the highest CLIP score, else the first."""
    first = results.points[0] if results.points else None
    return results.best(distance([results])) or results.best("clip_score", lowest=False) or first


def entries(
    results: Results, dataset_id: str | None = None, source_url: str | None = None, date: str | None = None
) -> "list[EvalResultEntry]":
    """The numbers of one setting (`headline`) as entries of `.eval_results/`; a leaderboard has one for each task.

    The notes of each say which setting it is, of how many, and by which networks it was judged. The Hub shows an entry
    where `dataset_id` is a data set that it knows as a benchmark, and that has the entry's task.

    Args:
        results: the evaluation.
        dataset_id: the data set on the Hub, "owner/name"; by default our own name of it, which names no repository.
        source_url: where the report is.
        date: when it was judged, in ISO 8601; by default the Hub takes the commit's.

    Raises:
        ValueError: `dataset_id` cannot be one.
    """
    from huggingface_hub import EvalResultEntry

    point = headline(results)
    if point is None:
        return []
    suite, dataset = _slug(str(results.suite.get("name", "suite"))), _dataset(results, dataset_id)
    measured = [(name, value) for name in point.metrics if (value := point.metric(name)) is not None]
    return [
        EvalResultEntry(
            dataset_id=dataset,
            task_id=f"{suite}-{_slug(name)}",
            value=float(value),
            date=date,
            source_url=source_url,
            notes=_notes(results, point, name),
        )
        for name, value in measured
    ]


def write(
    results: Results,
    folder: Path,
    dataset_id: str | None = None,
    source_url: str | None = None,
    date: str | None = None,
) -> list[Path]:
    """Write `model-index.yaml` and `.eval_results/<suite>.yaml`, each beside its place and then into it.

    The first is metadata of a model card (`huggingface_hub.metadata_update` takes it), the second goes into the model's
    repository as it is. The same arguments give the same bytes.

    Args:
        results: the evaluation.
        folder: where they go.
        dataset_id: see `entries`.
        source_url: see `entries`.
        date: see `entries`.

    Raises:
        ValueError: `dataset_id` cannot be one, or there is no finite number to publish.
        OSError: a file cannot be written.
    """
    from huggingface_hub import eval_result_entries_to_yaml
    from huggingface_hub.repocard_data import eval_results_to_model_index

    numbers = eval_results(results, dataset_id)
    if not numbers:
        raise ValueError(f"the evaluation of {results.model} has no finite number to publish")
    index = {"model-index": eval_results_to_model_index(results.model, numbers)}
    listed = eval_result_entries_to_yaml(entries(results, dataset_id, source_url, date))
    suite = _slug(str(results.suite.get("name", "suite")))
    contents: dict[Path, Any] = {folder / INDEX: index, folder / ENTRIES / f"{suite}.yaml": listed}
    for path, content in contents.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)
        replace(path, text.encode("utf-8", "replace"))
    return list(contents)


def _dataset(results: Results, dataset_id: str | None) -> str:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # meant for others, not re-exported

    name = dataset_id or str(results.suite.get("dataset", "unknown"))
    try:
        validate_repo_id(name)
    except HFValidationError:
        raise ValueError(f"dataset_id {name!r} cannot be a data set of the Hub; owner/name is meant") from None
    return name


def _made(point: Point) -> dict[str, Any]:
    return {"guidance_scale": point.guidance_scale, "nfe": point.nfe}


def _plain(values: dict[str, Any]) -> dict[str, Any] | None:
    """What is known of some values; None if nothing is."""
    return {key: value for key, value in values.items() if value is not None} or None


def _notes(results: Results, point: Point, name: str) -> str:
    """How an entry's number came about, in one line."""
    parts = [point.title, f"NFE {point.nfe:g}" if point.nfe is not None else "", f"{point.count} pictures"]
    if len(results.points) > 1 and results.best(distance([results])):
        parts[0] += f", the lowest distance of {len(results.points)} settings"
    judge = clip_name(results) if name == "clip_score" else measured_name(results, name) if is_distance(name) else ""
    digest = dict(flattened(results.protocol)).get("selection.sha256")
    parts += [judge, f"captions sha256 {str(digest)[:12]}" if digest else ""]
    return "; ".join(part for part in parts if part)


def _title(results: Results, name: str) -> str:
    """A metric's name on a card: "FID", or "Oracle: Shape" of "oracle/shape"."""
    kind, slash, _ = name.partition("/")
    return f"{metric_name(kind)}: {metric_name(name)}" if slash else measured_name(results, name)


def _slug(name: str) -> str:
    """A name that can be a file's and an identifier: letters, digits, dots, dashes and underscores."""
    return re.sub(r"[^\w.]+", "-", name).strip("-.") or "unnamed"
