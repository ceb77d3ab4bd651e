"""Calling a function with the arguments that a recipe, a YAML file, and options on the command line give it."""

from collections.abc import Callable
from typing import Any

from ediffi.cli import UsageError


def run_recipe(
    function: Callable[..., Any], argv: list[str], name: str, text: str, skip: set[str | int] | None = None
) -> Any:
    """Call `function` with the arguments of `--config RECIPE` and of the options after it.

    Args:
        function: its signature is the recipe's.
        argv: the arguments after the command's name.
        name: of the command.
        text: its help.
        skip: parameters that are not for the command line.

    Raises:
        UsageError: the recipe or an option does not fit the signature.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(prog=f"ediffi {name}", description=text, exit_on_error=False)
    parser.add_argument("--config", action="config", help="a recipe")
    parser.add_function_arguments(function, skip=skip)
    try:
        values = parser.parse_args(argv)
    except ArgumentError as error:
        raise UsageError(" ".join(str(error).split())) from None
    arguments = parser.instantiate(values).as_dict()
    arguments.pop("config")
    return function(**arguments)
