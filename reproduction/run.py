"""A reproduction from end to end: every item made once, then results.json and the report."""

import json
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import date
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

import ediffi
from ediffi.io.files import replace
from ediffi.io.progress import Progress
from ediffi.registry.core import UnknownNameError
from reproduction import page
from reproduction.directory import FORMAT, ReproductionDirectory
from reproduction.items import ITEMS, ReproductionItem
from reproduction.outcome import Outcome

RESULTS = "results.json"
LIBRARIES = ("torch", "lightning", "transformers", "open_clip_torch", "torch-fidelity", "numpy", "scipy")
EXTRAS = {"matplotlib": "plots", "torch_fidelity": "eval"}


def reproduce(repro: ReproductionDirectory, only: Sequence[str], progress: Callable[[str], None]) -> Path:
    """Make what is missing, and write the report on everything that is made.

    Args:
        repro: the directory, with its budget.
        only: names of items; all if it is empty.
        progress: called with a line about each finished item.

    Returns:
        The report.

    Raises:
        UnknownNameError: there is no such item.
        ValueError: an optional library is missing, or a part cannot be made.
        ChildProcessError: a training failed.
    """
    chosen = {name: item(name) for name in only or ITEMS}
    for module, extra in EXTRAS.items():
        if find_spec(module) is None:
            raise ValueError(f"a reproduction needs {module}: pip install 'ediffi[{extra}]'")
    bar = Progress(chosen.items(), desc="reproduction", unit="item")
    for name, one in bar:
        bar.set_postfix_str(name)
        outcome = repro.outcome(name, partial(timed, name=name, make=one.make))
        bar.clear()
        progress(f"{name}: {outcome.here}")
    return write(repro)


def item(name: str) -> ReproductionItem:
    """The item called `name`; raises UnknownNameError."""
    if name not in ITEMS:
        raise UnknownNameError.among(ITEMS, "item of a reproduction", name)
    return ITEMS[name]


def timed(repro: ReproductionDirectory, name: str, make: Callable[[ReproductionDirectory], Outcome]) -> Outcome:
    """Make an item, and note how long it took; what was made before it was cut is not in it."""
    began = time.perf_counter()
    outcome = make(repro)
    repro.cached(f"minutes-{name}", lambda: round((time.perf_counter() - began) / 60, 2))
    return outcome


def write(repro: ReproductionDirectory) -> Path:
    """Write `results.json` and `report.html` of what is made so far."""
    made = {name: outcome for name in ITEMS if (outcome := repro.finished(name)) is not None}
    minutes = {name: repro.cached(f"minutes-{name}", lambda: None) for name in made}
    results: dict[str, Any] = {
        "format": FORMAT,
        "ediffi": ediffi.__version__,
        "date": date.today().isoformat(),
        "budget": asdict(repro.budget),
        "machine": machine(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
        "minutes": minutes,
        "items": {
            name: {"title": ITEMS[name].title, "paper": ITEMS[name].paper, **outcome.plain()}
            for name, outcome in made.items()
        },
    }
    text = json.dumps(json.loads(json.dumps(results), parse_constant=lambda _: None), indent=1, ensure_ascii=False)
    replace(repro.path(RESULTS), (text + "\n").encode())
    missing = [ITEMS[name].title for name in ITEMS if name not in made]
    return page.write(results, missing, repro.path("figures"), repro.path("report.html"))


def machine() -> str:
    """The kind of machine: processor, its vectors, threads, accelerator."""
    accelerator = torch.cuda.get_device_name() if torch.cuda.is_available() else "no accelerator"
    vectors = torch.backends.cpu.get_cpu_capability()
    return f"{platform.machine()}, {vectors}, {torch.get_num_threads()} threads a process, {accelerator}"
