"""Devices and number formats: where `device`, `dtype` and `compile` are checked, whoever names them."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

DType = Literal["float32", "bfloat16", "float16"]
"""The formats that networks run in."""
DTYPES: tuple[DType, ...] = ("float32", "bfloat16", "float16")

log = logging.getLogger(__name__)


def find_device(device: "str | torch.device" = "auto") -> "torch.device":
    """The device of this name; "auto" is a CUDA GPU if there is one, else the CPU. ValueError: there is none such.

    Our choice: "auto" takes no other accelerator, since none was tested.
    """
    import torch

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        raise ValueError(f"device is {device!r}; it must be auto, cpu, cuda or one GPU, such as cuda:1") from None
    if found.type == "cpu":
        return torch.device("cpu")
    kind = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    here = [] if kind is None else [f"{kind.type}:{index}" for index in range(torch.accelerator.device_count())]
    if f"{found.type}:{found.index or 0}" not in here:
        only = ", ".join(["cpu", *here])
        raise ValueError(f"device is {str(device)!r}, but this machine has only {only} (ediffi env says more)")
    return found


def find_dtype(dtype: "str | torch.dtype", device: "torch.device") -> "torch.dtype":
    """The format of this name, for networks on `device`; ValueError for another, and for float16 on a CPU.

    A warning tells of bfloat16 where it is emulated.
    """
    import torch

    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise ValueError(f"dtype is {name!r}; it must be one of {', '.join(DTYPES)}")
    if name == "float16" and device.type == "cpu":
        raise ValueError("dtype float16 needs a GPU: on a CPU it is slow and overflows; take bfloat16 or float32")
    if name == "bfloat16":
        warn_if_emulated(device, "dtype float32")
    found: torch.dtype = getattr(torch, name)
    return found


@cache
def computes_bfloat16(device: "torch.device") -> bool:
    """Whether a CPU or CUDA GPU computes in bfloat16 itself; else torch emulates it, many times slower than float32."""
    import torch

    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type != "cpu" or (
        torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def warn_if_emulated(device: "torch.device", instead: str) -> None:
    """Log a warning if bfloat16 is emulated on the device; `instead` is the option that is faster there."""
    if not computes_bfloat16(device):
        log.warning("this %s emulates bfloat16, many times slower than float32; %s is faster", device.type, instead)


def check_processes(count: int, device: str) -> None:
    """ValueError if more processes than this machine can run at once are asked for on its CPU; of GPUs, whoever starts
    the processes counts them."""
    most = max(16, 2 * (os.cpu_count() or 1))
    if device == "cpu" and count > most:
        raise ValueError(f"{count} processes on this machine's CPU are too many: at most {most}")


@cache
def check_compile(device: "torch.device") -> None:
    """Compile and run one operation; ValueError says why torch.compile does not work here."""
    import torch

    try:
        torch.compile(lambda x: x + 1)(torch.zeros(2, device=device))
    except Exception as error:  # of dynamo, inductor, triton or a missing compiler: each has its own class
        reason = str(error.__cause__ or error).partition("Set TORCHDYNAMO_VERBOSE")[0]  # for who debugs torch
        why = " ".join(reason.split())[:200]
        raise ValueError(f"torch.compile does not work on this machine's {device.type}: {why}") from None


@contextmanager
def out_of_memory(what: str, advice: str) -> Iterator[None]:
    """Turn an allocation that fails into a ValueError: `what` ran out of memory, and which options lower it."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ValueError(f"{what} ran out of GPU memory; {advice} ({str(error).split('. ')[0]})") from None
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):  # the CPU's allocator has no class of its own
            raise
        raise ValueError(f"{what} ran out of memory; {advice}") from None
