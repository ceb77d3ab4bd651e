"""Every option of every command, its type and default, as tests/cli/options.txt lists them.

After a deliberate change: PYTHONPATH=. python tests/cli/test_options.py > tests/cli/options.txt
"""

import re
from argparse import SUPPRESS, Action
from collections.abc import Iterator
from pathlib import Path

from docs.command_lines import LIGHTNING, PLACES, parsers
from ediffi.cli import recipe_check

FILE = Path(__file__).with_name("options.txt")
ASIDE = ("help", "print_config", "print_shtab")


def lines() -> Iterator[str]:
    for name in PLACES:
        if name in LIGHTNING:
            yield f"ediffi {name}"
            groups = {
                group: recipe_check.parameters(*recipe_check.GROUPS[group]) for group in ("model", "data", "start")
            }
            yield from (f"  --{group}.{option}" for group, of in groups.items() for option in sorted(of or ()))
            continue
        for parser in parsers(name):
            yield parser.prog
            shown = [action for action in parser._actions if action.dest.rpartition(".")[2] not in ASIDE]
            yield from (f"  {line(action)}" for action in shown if action.default != SUPPRESS)


def line(action: Action) -> str:
    names = [name for name in action.option_strings if not name.endswith("+")] or [
        f"{action.metavar}{action.nargs or ''}"
    ]
    hint = getattr(action, "_typehint", None) or action.type
    kind = hint.__name__ if isinstance(hint, type) else re.sub(r"[\w.]+\.(?=\w)", "", str(hint))
    flag = type(action).__name__ == "ActionYesNo"
    return f"{', '.join(names)}: {'flag' if flag else kind} {'required' if action.required else f'= {action.default}'}"


def test_the_options_are_those_in_the_file() -> None:
    assert list(lines()) == FILE.read_text(encoding="utf-8").splitlines()


if __name__ == "__main__":
    print("\n".join(lines()))
