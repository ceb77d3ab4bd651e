"""`ediffi compose`: finished training runs become a cascade folder."""

from ediffi.cli.recipe import run_recipe


def main(argv: list[str]) -> int:
    """Write a cascade folder: `ediffi compose --config recipes/toybox/cascade.yaml --output DIR`."""
    from ediffi.training.growth.compose import compose

    print(run_recipe(compose, argv, "compose", main.__doc__ or ""))
    return 0
