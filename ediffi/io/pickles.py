"""Files of `torch.save`, read without running code: tensors and plain values, or an error in one sentence.

A pickle is a program. `torch.load(weights_only=True)` runs only the few calls that make tensors and plain values. Its
own error message explains how to run the rest anyway, which is no advice for a file from an unknown source.
"""

import re
import warnings
from pathlib import Path
from typing import Any

import torch

ZIP = b"PK\x03\x04"
ONLY = "only tensors and plain values are read; no code was run"
CODE = re.compile(r"GLOBAL (\S+)|(?:function|class) (\S+)")


def read(path: Path) -> Any:
    """The content of a file of `torch.save`, on the CPU, its tensors memory-mapped where the format allows. ValueError:
    it is broken, or holds code; the message names the file and the code."""
    with path.open("rb") as file:
        mapped = file.read(len(ZIP)) == ZIP  # torch's older format cannot be mapped
    try:
        with warnings.catch_warnings(action="ignore"):  # about pickles that torch did not write
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except OSError:
        raise
    except Exception as error:  # the unpickler and the archive reader raise errors of many types
        raise ValueError(refusal(path, error)) from None


def refusal(path: Path | str, error: Exception) -> str:
    """Why `torch.load(weights_only=True)` refused a file, in one sentence."""
    text = str(error)
    if "TorchScript" in text:
        return f"{path} is a TorchScript archive, which is a program: {ONLY}"
    if found := CODE.search(text):
        return f"{path} holds code ({(found[1] or found[2])[:80]!r}): {ONLY}"
    reason = f" ({text.partition('. ')[0].splitlines()[0]})" if text and type(error) is RuntimeError else ""
    return f"{path} is broken, or not a file of torch.save{reason}"
