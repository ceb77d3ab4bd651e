"""`ediffi compose`: finished training runs become a cascade folder."""

from ediffi.cli import UsageError


def main(argv: list[str]) -> int:
    """Write a cascade folder: `ediffi compose --config recipes/toybox/cascade.yaml --output DIR`."""
    from jsonargparse import ArgumentError, ArgumentParser

    from ediffi.compose import compose

    parser = ArgumentParser(prog="ediffi compose", description=main.__doc__, exit_on_error=False)
    parser.add_argument("--config", action="config", help="a recipe")
    parser.add_function_arguments(compose)
    try:
        values = parser.parse_args(argv)
    except ArgumentError as error:
        raise UsageError(" ".join(str(error).split())) from None
    arguments = parser.instantiate(values).as_dict()
    arguments.pop("config")
    print(compose(**arguments))
    return 0
