"""Faults, injected by family, each with a verdict; `make faults` runs many, a test a few of each family.

    python tests/faults --count 40 --seed 1 --output build/faults-1.jsonl

An injection changes one thing in a copy of a model folder, a run, shards, an evaluation, a recipe, a layout, an answer
of a server, a request or a command line, or it kills the process or fills the disk; then what reads it is called. Its
verdict is one of `VERDICTS`; only the first two are good. The same command goes on where it was interrupted.

Mutations walk over all values of what is there (a config, a recipe, an index, a checkpoint, the signature of a
command), so that a new field is covered. Injections run in a forked process, which is renewed every `RENEWED`: what
would kill the interpreter, or does not end, is a verdict, too.
"""

import argparse
import json
import logging
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from typing import Any

VERDICTS = ("refused", "same", "silent", "traceback", "hang", "leak")
"""One sentence; the result of an undamaged input; another result; an error that is none for a user, or a process that
died; no end within `SECONDS` of its CPU time or `WAIT` of any, or more than `MEMORY`; a file outside the folder of the
injection, or code that ran."""
SECONDS, WAIT = 30, 120
MEMORY = 3 << 30
RENEWED = 1000
SLOW = ("while training", "checkpoint", "data exchanged", "streamed", "recipe settings")
"""In the names of families that train a run, or load a model twice: they have every fourth injection."""
Attempt = Callable[[], Any]
Family = Callable[[random.Random, Path], Attempt]
"""Prepares a fault in a scratch folder; the attempt returns None for the undamaged result, else what it got."""
FAMILIES: dict[str, Family] = {}


def family(function: Family) -> Family:
    """Add a family by the name of its function."""
    FAMILIES[function.__name__.replace("_", " ")] = function
    return function


class HangError(BaseException):
    """The attempt does not end."""


@contextmanager
def alarm(seconds: int, wait: int) -> Iterator[None]:
    """HangError after so many seconds of this process's CPU time, or of waiting: other work of a machine is no hang."""

    def ring(*_: Any) -> None:
        raise HangError

    before = [signal.signal(one, ring) for one in (signal.SIGPROF, signal.SIGALRM)]
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.alarm(wait)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        for one, handler in zip((signal.SIGPROF, signal.SIGALRM), before, strict=True):
            signal.signal(one, handler)


def verdict(family: Family, seed: str) -> tuple[str, str]:
    """The verdict of one injection, and what was said."""
    with tempfile.TemporaryDirectory(prefix="faults-") as place:
        outside = Path(place)
        scratch = outside / "inside" / "scratch"
        scratch.mkdir(parents=True)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            with alarm(SECONDS, WAIT):
                attempt = family(random.Random(seed), scratch)
                found = attempt()
            told = ("same", "") if found is None else ("silent", str(found)[:200])
        except HangError:
            told = ("hang", f"no end in {SECONDS} s of CPU time, or {WAIT} s")
        except (ValueError, OSError) as error:
            text = str(error).strip()
            several = not text or "\n" in text
            told = ("traceback", f"several lines: {text[:200]!r}") if several else ("refused", text[:300])
        except (Exception, SystemExit) as error:
            told = ("traceback", f"{type(error).__name__}: {error}"[:300])
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
        told = ("hang", f"{grown / 1e9:.1f} GB of memory") if grown > MEMORY else told
        left = [path.name for path in (*outside.iterdir(), *(outside / "inside").iterdir())]
        if sorted(left) != ["inside", "scratch"] or (scratch / "canary").exists():
            told = ("leak", ", ".join(left))
        shutil.rmtree(scratch, ignore_errors=True)
        return told


def command(*words: Any) -> None:
    """`ediffi WORDS` in this process. ValueError: what it says on its last line, if it ends with 1 or 2 and nothing
    else than that line and notices before; RuntimeError for a stack trace."""
    from ediffi.cli import main

    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as errors:
        try:
            code = main([str(word) for word in words])
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
    said = errors.getvalue().strip().splitlines()
    if "Traceback" in errors.getvalue() + out.getvalue():
        raise RuntimeError(f"a stack trace: {said[-1:]}")
    if code in (1, 2):
        raise ValueError(said[-1] if said else "")
    if code:
        raise RuntimeError(f"exit code {code}: {said[-1:]}")


class Worker:
    """A forked process that gives verdicts, and a folder for what it keeps of its families, which goes with it."""

    def __init__(self) -> None:
        self.ours, theirs = multiprocessing.Pipe()
        self.place = tempfile.mkdtemp(prefix="faults-worker-")
        sys.stdout.flush()
        self.pid = os.fork()
        self.left = RENEWED
        if self.pid == 0:
            self.ours.close()  # so that it ends with its parent
            os.setpgid(0, 0)
            tempfile.tempdir = self.place
            try:
                while True:
                    name, seed = theirs.recv()
                    theirs.send(verdict(FAMILIES[name], seed))
            finally:
                os._exit(0)
        theirs.close()

    def ask(self, name: str, seed: str) -> tuple[str, str]:
        """The verdict of an injection, also of one that ends the process."""
        self.left -= 1
        self.ours.send((name, seed))
        try:
            if self.ours.poll(2 * WAIT):
                told: tuple[str, str] = self.ours.recv()
                return told
            self.left, told = 0, ("hang", f"no end in {2 * WAIT} s, and no signal helped")
        except (EOFError, ConnectionError):
            self.left, told = 0, ("traceback", "the process died")
        return told

    def end(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.ours.close()
        shutil.rmtree(self.place, ignore_errors=True)


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
    import tests.faults.families  # noqa: F401  (fills FAMILIES)

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=40, help="injections of each family; of a slow one a quarter")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**6)
    parser.add_argument("--output", type=Path, required=True, help="a line for each injection; kept, and completed")
    parser.add_argument("--only", default="", help="families whose name has this text")
    options = parser.parse_args(argv)
    logging.disable(logging.WARNING)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    lines = options.output.read_text().splitlines() if options.output.is_file() else []
    rows = [json.loads(line) for line in lines if line.endswith("}")]
    done = {(row["family"], row["seed"]) for row in rows}
    chosen = [name for name in FAMILIES if options.only in name]
    print(f"seed {options.seed}, {len(chosen)} families, {options.count} injections of each, {len(done)} done before")
    worker = Worker()
    with options.output.open("a") as log:
        for number in range(options.count):
            for name in chosen:
                seed = f"{options.seed}/{name}/{number}"
                slow = any(text in name for text in SLOW)
                if (name, seed) in done or (slow and number % 4):
                    continue
                if not worker.left:
                    worker.end()
                    worker = Worker()
                begun = time.monotonic()
                result, said = worker.ask(name, seed)
                spent = round(time.monotonic() - begun, 2)
                rows.append({"family": name, "seed": seed, "verdict": result, "said": said, "seconds": spent})
                log.write(json.dumps(rows[-1]) + "\n")
                log.flush()
    worker.end()
    bad = [row for row in rows if row["verdict"] not in VERDICTS[:2]]
    print(table(rows))
    for row in bad:
        print(f"{row['verdict']}: {row['seed']}: {row['said']}", file=sys.stderr)
    return int(bool(bad))
