"""`ediffi grow`: a stage branches into experts, node by node, as a schedule says."""

from ediffi.cli.recipe import run_recipe


def main(argv: list[str]) -> int:
    """Run a growth schedule: `ediffi grow --config recipes/toybox/experts_base.yaml`.

    What is finished is skipped and what was cut goes on; `--plan true` only says which is which.
    """
    from ediffi.training.growth.grow import grow

    if (stage := run_recipe(grow, argv, "grow", main.__doc__ or "", skip={"run_node"})) is not None:
        print(stage)
    return 0
