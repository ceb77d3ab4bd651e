"""Numbers of a reproduction in texts: written by this, never by hand.

A text has `<!-- model/oracle/everything:.3f -->0.957<!-- / -->`: the item, the path into its numbers, and how it is
shown. In Markdown only the number is seen, in the cell of a table too. `python -m reproduction.quoted docs/results.md`
brings a text up to date with `docs/reproduction/results.json`; a test holds that it is.
"""

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RESULTS = Path("docs/reproduction/results.json")
QUOTE = re.compile(r"<!-- (?P<path>[^:|>]+):(?P<spec>[^:|>]*) -->(?P<shown>[^<]*)<!-- / -->")


def quoted(text: str, results: Mapping[str, Any]) -> str:
    """The text with every quoted number as the results have it.

    Raises:
        ValueError: the results have no such number.
    """

    def show(match: re.Match[str]) -> str:
        value = format(number(results, match["path"]), match["spec"])
        return f"<!-- {match['path']}:{match['spec']} -->{value}<!-- / -->"

    return QUOTE.sub(show, text)


def number(results: Mapping[str, Any], path: str) -> float:
    """The number at a path, "table1/means/D/frechet_clip/0".

    Raises:
        ValueError: there is none.
    """
    name, *keys = path.split("/")
    value: Any = results["items"].get(name, {}).get("numbers")
    try:
        for key in keys:
            value = value[int(key)] if isinstance(value, list) else value[key]
        return float(value)
    except (KeyError, IndexError, TypeError, ValueError):
        raise ValueError(f"the results have no number {path!r}") from None


def main(files: list[str]) -> None:
    """Bring texts up to date."""
    results = json.loads(RESULTS.read_text())
    for file in map(Path, files):
        file.write_text(quoted(file.read_text(), results))


if __name__ == "__main__":
    main(sys.argv[1:])
