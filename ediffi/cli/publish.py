"""`ediffi publish`: a model onto the Hub, with its card, its results and the recipes that made it."""

from pathlib import Path

from ediffi.cli.parser import UsageError


def publish(
    source: Path,
    repository: str,
    /,
    license: str | None = None,
    private: bool = False,
    revision: str | None = None,
    results: list[Path] | None = None,
    recipe: list[Path] | None = None,
    device: str = "cpu",
    dry_run: bool = False,
) -> None:
    """Publish a model on the Hub: weights, config, model card with a sample grid, results, recipes.

    The config goes last, so that no half of a model loads; a publication that was cut is completed by the same command.
    The token is the one of `hf auth login`, or HF_TOKEN.

    Args:
        source: a model folder, the stage that `ediffi grow` left, or the training run of a stage.
        repository: ORG/REPO; made if it does not exist.
        license: what others may do with it, an identifier of the Hub: apache-2.0, openrail, cc-by-nc-4.0, ...
        private: only for its owners.
        revision: branch to publish on; made if it does not exist.
        results: the folder of an `ediffi evaluate`, or several.
        recipe: a YAML file that the model was made with, or several.
        device: where the sample grid is painted.
        dry_run: write what would go up into SOURCE-published, and use no network.
    """
    if license is None:
        raise UsageError("say under which licence the model is published, as --license apache-2.0")
    from tempfile import TemporaryDirectory

    from ediffi.hub.publish import PublicationOptions
    from ediffi.hub.publish import publish as publish_folder
    from ediffi.pipeline.cascade import Cascade
    from ediffi.pipeline.samples import paint_samples, sampled_stages
    from ediffi.training.finished_run import model_folder

    def paint(folder: Path, output: Path) -> list[str]:
        cascade = Cascade.from_pretrained(folder, device, "stream", stages=sampled_stages(folder))
        return paint_samples(cascade, output)

    order = PublicationOptions(repository, license, results or [], recipe or [])
    written = source.resolve().with_name(f"{source.resolve().name}-published") if dry_run else None
    with TemporaryDirectory(prefix="ediffi-publish-") as beside:
        print(publish_folder(model_folder(source, Path(beside)), order, paint, private, revision, written))
