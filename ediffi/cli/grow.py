"""`ediffi grow` and `ediffi compose`: a stage branches into experts; finished stages become a cascade."""

from ediffi.cli.parser import run_recipe


def grow(argv: list[str]) -> None:
    """Run a growth schedule: `ediffi grow --config recipes/toybox/experts_base.yaml`.

    Finished runs are skipped and interrupted ones are resumed; `--plan true` only lists them.
    """
    from ediffi.training.growth import grow as growth

    if (stage := run_recipe(growth.grow, argv, "grow", grow.__doc__ or "", skip={"run_node"})) is not None:
        print(stage)


def compose(argv: list[str]) -> None:
    """Write a cascade folder: `ediffi compose --config recipes/toybox/cascade.yaml --output DIR`."""
    from ediffi.training.growth import compose as composition

    print(run_recipe(composition.compose, argv, "compose", compose.__doc__ or ""))
