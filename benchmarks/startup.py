"""How fast the command line answers, in parts of the time that a plain LightningCLI takes for its `--help`.

    python benchmarks/startup.py [--rounds 5]

In every round each contestant runs once, in a process of its own, in turn; medians of the rounds are told. The aim is
0.1 of the LightningCLI at most. The command line is the installed `ediffi`, beside the interpreter that runs this.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

PLAIN = "from lightning.pytorch.cli import LightningCLI\nLightningCLI(args=['--help'])"
AIM = 0.1


def contestants(folder: Path) -> dict[str, list[str]]:
    """What is called, by what is printed of it."""
    recipe = Path(__file__).resolve().parent.parent / "recipes" / "toybox" / "base.yaml"
    misspelt = folder / "misspelt.yaml"
    misspelt.write_text(recipe.read_text().replace("batch_size:", "batch_sise:"))
    assert "batch_sise" in misspelt.read_text(), "a whole recipe would begin a training"
    ediffi = str(Path(sys.executable).with_name("ediffi"))
    return {
        "LightningCLI --help": [sys.executable, "-c", PLAIN],
        "ediffi --help": [ediffi, "--help"],
        "ediffi --version": [ediffi, "--version"],
        "ediffi recipes ls": [ediffi, "recipes", "ls"],
        "a misspelt setting": [ediffi, "fit", "--config", str(misspelt)],
        "a missing recipe": [ediffi, "fit", "--config", str(folder / "none.yaml")],
    }


def seconds(command: list[str], folder: Path) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    subprocess.run(command, cwd=folder, capture_output=True, timeout=120)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        calls = contestants(folder)
        for command in calls.values():  # once, so that files are in the system's cache
            seconds(command, folder)
        taken = [{name: seconds(command, folder) for name, command in calls.items()} for _ in range(rounds)]
    first = next(iter(calls))
    for name in calls:
        ratio = median(one[name] / one[first] for one in taken)
        verdict = "" if name == first else "  ok" if ratio <= AIM else f"  above {AIM}"
        print(f"{name:<22}{median(one[name] for one in taken):8.2f} s{ratio:8.3f}{verdict}")


if __name__ == "__main__":
    main()
