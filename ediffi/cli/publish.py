"""`ediffi publish`: a model onto the Hub, with its card, its results and its recipes."""

from pathlib import Path

from ediffi.cli.parser import UsageError
from ediffi.cli.recipes import find


def publish(
    source: Path,
    repository: str,
    /,
    license: str | None = None,
    private: bool = False,
    revision: str | None = None,
    results: list[Path] | None = None,
    recipe: list[Path] | None = None,
    device: str = "auto",
    dry_run: bool = False,
) -> None:
    """Publish a model on the Hub: weights, config, model card with samples, results, recipes.

    A publication is one commit, so the repository never holds a part of a model; the same command completes an
    interrupted upload. The token is the one of `hf auth login`, or HF_TOKEN.

    Args:
        source: a model folder, the folder of `ediffi grow`, or the run directory of a stage.
        repository: ORG/REPO; created if it does not exist.
        license: an identifier of the Hub: apache-2.0, openrail, cc-by-nc-4.0, ...
        private: visible only to its owners.
        revision: branch to publish on; created if it does not exist.
        results: the folder of an `ediffi evaluate`, or several.
        recipe: a YAML file, or a recipe that ships, that the model was trained with, or several.
        device: where the samples are generated.
        dry_run: write the files into SOURCE-published instead, without the network.
    """
    if license is None:
        raise UsageError("--license is missing: the licence of the model, such as apache-2.0")
    from functools import partial
    from tempfile import TemporaryDirectory

    from ediffi.hub.publish import PublicationOptions
    from ediffi.hub.publish import publish as publish_folder
    from ediffi.pipeline.cascade import paint_samples
    from ediffi.training.finished_run import model_folder

    options = PublicationOptions(repository, license, results or [], [find(one) for one in recipe or []])
    paint = partial(paint_samples, device=device)
    written = source.resolve().with_name(f"{source.resolve().name}-published") if dry_run else None
    with TemporaryDirectory(prefix="ediffi-publish-") as beside:
        print(publish_folder(model_folder(source, Path(beside)), options, paint, private, revision, written))
