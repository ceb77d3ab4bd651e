"""`device`, `dtype` and `compile`: what is found, and one sentence for what is not."""

import re

import pytest
import torch

from ediffi.io import devices
from ediffi.io.devices import check_compile, find_device, find_dtype, out_of_memory

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def pretend(monkeypatch: pytest.MonkeyPatch, gpus: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: CUDA)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: gpus)


def test_auto_is_a_gpu_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, 0)
    assert find_device() == find_device("cpu") == find_device(CPU) == CPU
    pretend(monkeypatch, 2)
    assert find_device() == find_device("cuda") == CUDA
    assert find_device("cuda:1") == torch.device("cuda", 1)
    assert find_device("cpu") == CPU


@pytest.mark.parametrize(
    ("gpus", "device", "message"),
    [
        (0, "cuda", "device is 'cuda', but this machine has only cpu (ediffi env says more)"),
        (0, CUDA, "device is 'cuda', but this machine has only cpu (ediffi env says more)"),
        (2, "cuda:2", "device is 'cuda:2', but this machine has only cpu, cuda:0, cuda:1 (ediffi env says more)"),
        (1, "meta", "device is 'meta', but this machine has only cpu, cuda:0"),
        (0, "gpu", "device is 'gpu'; it must be auto, cpu, cuda or one GPU, such as cuda:1"),
        (0, "", "device is ''; it must be"),
        (0, "cuda:x", "device is 'cuda:x'; it must be"),
    ],
)
def test_other_devices_are_refused(
    monkeypatch: pytest.MonkeyPatch, gpus: int, device: str | torch.device, message: str
) -> None:
    pretend(monkeypatch, gpus)
    with pytest.raises(ValueError, match=re.escape(message)):
        find_device(device)


def test_formats() -> None:
    assert find_dtype("bfloat16", CPU) == find_dtype(torch.bfloat16, CPU) == torch.bfloat16
    assert find_dtype("float16", CUDA) == torch.float16
    with pytest.raises(ValueError, match="dtype float16 needs a GPU"):
        find_dtype("float16", CPU)
    for wrong in ("half", "int8", torch.float64):
        with pytest.raises(ValueError, match=r"dtype is '\w+'; it must be one of float32, bfloat16, float16"):
            find_dtype(wrong, CPU)


@pytest.mark.parametrize("native", [True, False])
def test_emulated_bfloat16_is_told(
    native: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(devices, "computes_bfloat16", lambda device: native)
    find_dtype("float32", CPU)
    assert not caplog.messages
    find_dtype("bfloat16", CPU)
    told = ["this cpu emulates bfloat16, many times slower than float32; dtype float32 is faster"]
    assert caplog.messages == ([] if native else told)


def test_a_machine_without_a_compiler_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    hint = "Set TORCHDYNAMO_VERBOSE=1 for the internal stack trace (please do this especially if you report a bug)"

    def broken(function: object) -> object:
        raise RuntimeError("backend='inductor' raised") from OSError("no C++ compiler,\n install one\n\n" + hint)

    check_compile.cache_clear()
    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(
        ValueError, match=r"torch\.compile does not work on this machine's cpu: no C\+\+ compiler, install one$"
    ):
        devices.check_compile(CPU)


def test_memory_that_runs_out_names_who_and_what_helps() -> None:
    gpu = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB. And more.")
    with (
        pytest.raises(ValueError, match=r"^stage 'base' ran out of GPU memory; wait \(CUDA out of memory\)$"),
        out_of_memory("stage 'base'", "wait"),
    ):
        raise gpu
    huge = 1 << 60
    with pytest.raises(ValueError, match=r"^the test ran out of memory; wait$"), out_of_memory("the test", "wait"):
        torch.empty(huge)
    with pytest.raises(RuntimeError, match="other"), out_of_memory("the test", "wait"):
        raise RuntimeError("other")
