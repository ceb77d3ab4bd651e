"""`benchmarks/gpu.py` runs without a GPU: the code that measures one, at tiny sizes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def lines(*words: str) -> tuple[int, list[dict[str, Any]]]:
    """The exit code and the lines of a run."""
    command = [sys.executable, "benchmarks/gpu.py", *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1000)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def test_every_check_runs_and_says_what_it_measured() -> None:
    code, found = lines("--dry", "--seconds", "1000", "--each", "1000")
    assert [line.get("error") for line in found] == [None] * len(found)
    assert code == 0
    wanted = ["machine", "base64", "sr256", "sr1024", "picture", "paint", "load", "toybox", "peers"]
    wanted += ["stream", "forward", "right", "eager", "eager_picture"]
    assert list(dict.fromkeys(line["check"] for line in found)) == wanted
    assert all({"name", "value", "unit", "target", "pass", "device", "torch"} <= set(line) for line in found)
    assert {line["pass"] for line in found} == {None}, "tiny sizes on a CPU have no targets"
    values = {line["name"]: line["value"] for line in found}
    assert values["streamed image equals resident"] == 1
    assert values["Toybox, device against CPU"] == 0
    assert values["base64, MFU"] > 0
    targets = {line["name"]: line["target"] for line in found if line["target"]}
    assert (
        targets.items()
        >= {
            "base64, MFU": ">= 0.4",
            "sr256, MFU": ">= 0.35",
            "sr1024, MFU": ">= 0.35",
            "base64, MFU ours / peer": ">= 1.5",
            "1024² image": "<= 4",
            "load the cascade": "<= 3",
            "toybox base, training": ">= 15000",
        }.items()
    )


def test_what_comes_too_late_is_a_line_and_the_rest_too() -> None:
    code, found = lines("--dry", "--seconds", "0.05", "--only", "base64", "sr256")
    assert code == 1
    late = [line for line in found if "error" in line]
    assert [line["check"] for line in late] == ["base64", "sr256"]
    assert all(line["error"] == "TimeoutError: not finished when the time was over" for line in late)
    assert all(line["pass"] is False for line in late)
