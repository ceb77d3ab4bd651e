"""Faults, injected by family, each with a verdict; `make faults` runs many, a test a few of each family.

    python tests/faults --count 40 --seed 1 --output build/faults-1.jsonl

An injection changes one thing in a copy of a model folder, a recipe, an answer of a server or a request, and then
loads, paints, parses or asks. Its verdict is one of `VERDICTS`; only the first two are good. The same command goes on
where it was interrupted. Mutations walk over all values of a config or a recipe, so that a new field is covered.
"""

import argparse
import json
import logging
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

VERDICTS = ("refused", "same", "silent", "traceback", "hang", "leak")
"""One sentence; the result of an undamaged input; another result; an error that is none for a user; no end within
`SECONDS`; a file outside the folder of the injection, or code that ran."""
SECONDS = 30
Attempt = Callable[[], Any]
Family = Callable[[random.Random, Path], Attempt]
"""Prepares a fault in a scratch folder; the attempt returns None for the undamaged result, else what it got."""


class HangError(BaseException):
    """The attempt does not end."""


@contextmanager
def alarm(seconds: int) -> Iterator[None]:
    def ring(*_: Any) -> None:
        raise HangError

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def verdict(family: Family, seed: str) -> tuple[str, str]:
    """The verdict of one injection, and what was said."""
    with tempfile.TemporaryDirectory(prefix="faults-") as place:
        outside = Path(place)
        scratch = outside / "inside" / "scratch"
        scratch.mkdir(parents=True)
        try:
            with alarm(SECONDS):
                attempt = family(random.Random(seed), scratch)
                found = attempt()
            told = ("same", "") if found is None else ("silent", str(found)[:200])
        except HangError:
            told = ("hang", f"no end in {SECONDS} s")
        except (ValueError, OSError) as error:
            text = str(error).strip()
            told = (
                ("refused", text[:300]) if text and "\n" not in text else ("traceback", f"several lines: {text[:200]}")
            )
        except Exception as error:
            told = ("traceback", f"{type(error).__name__}: {error}"[:300])
        except SystemExit as error:
            told = ("traceback", f"SystemExit {error.code}")
        left = [path.name for path in (*outside.iterdir(), *(outside / "inside").iterdir())]
        if sorted(left) != ["inside", "scratch"] or (scratch / "canary").exists():
            told = ("leak", ", ".join(left))
        shutil.rmtree(scratch, ignore_errors=True)
        return told


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Families and the numbers of their verdicts, as Markdown."""
    families = sorted({row["family"] for row in rows})
    counts = Counter((row["family"], row["verdict"]) for row in rows)
    lines = ["| family | " + " | ".join(VERDICTS) + " |", "|---|" + "---:|" * len(VERDICTS)]
    for family in families:
        lines.append(f"| {family} | " + " | ".join(str(counts[family, one]) for one in VERDICTS) + " |")
    totals = [sum(counts[family, one] for family in families) for one in VERDICTS]
    return "\n".join([*lines, "| **all** | " + " | ".join(map(str, totals)) + " |"])


def main(argv: Sequence[str] | None = None) -> int:
    """Run, or go on with, the injections of a seed; 1 if a verdict is a bad one."""
    from tests.faults.families import FAMILIES

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=40, help="injections of each family")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**6)
    parser.add_argument("--output", type=Path, required=True, help="a line for each injection; kept, and completed")
    options = parser.parse_args(argv)
    logging.disable(logging.WARNING)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    lines = options.output.read_text().splitlines() if options.output.is_file() else []
    rows = [json.loads(line) for line in lines if line.endswith("}")]
    done = {(row["family"], row["seed"]) for row in rows}
    print(f"seed {options.seed}, {len(FAMILIES)} families, {options.count} injections of each, {len(done)} done before")
    with options.output.open("a") as log:
        for number in range(options.count):
            for name, family in FAMILIES.items():
                seed = f"{options.seed}/{name}/{number}"
                if (name, seed) not in done:
                    result, said = verdict(family, seed)
                    rows.append({"family": name, "seed": seed, "verdict": result, "said": said})
                    log.write(json.dumps(rows[-1]) + "\n")
                    log.flush()
    bad = [row for row in rows if row["verdict"] not in VERDICTS[:2]]
    print(table(rows))
    for row in bad:
        print(f"{row['verdict']}: {row['seed']}: {row['said']}", file=sys.stderr)
    return int(bool(bad))
