"""`ediffi env`: what is installed and what it runs on, for bug reports: no path, no host, no secret, and no failure."""

import os
import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, distribution, entry_points, version
from pathlib import Path

import ediffi
from ediffi.io.devices import computes_bfloat16

PACKAGES = ("torch", "torchvision", "lightning", "transformers", "open_clip_torch", "huggingface_hub", "safetensors")
KINDS = ("encoders", "denoisers", "samplers")
SWITCHES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "EDIFFI_MODELS")
"""Environment variables that change the behaviour; only whether they are set is printed."""


def env() -> None:
    """Print what is installed and what it runs on: versions, extras, plug-ins, processor, devices.

    For bug reports: the output contains no path, no host name and no secret.
    """
    _print(software())  # before torch, which may crash
    _print(devices())


def software() -> dict[str, str]:
    """Versions, extras, plug-ins, environment variables, system and processor; no package is imported."""
    threads = os.cpu_count() or 0
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else threads
    return {
        "ediffi": ediffi.__version__,
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        **{name: _version(name) for name in PACKAGES},
        "extras": ", ".join(_extras()) or "none known",
        "plug-ins": ", ".join(_plugins()) or "none",
        "switches set": ", ".join(name for name in SWITCHES if os.environ.get(name)) or "none",
        "system": f"{platform.system()} {platform.release()} ({platform.machine()})",
        "processor": f"{_processor()}, {usable} of {threads} threads",
    }


def devices() -> dict[str, str]:
    """The devices of torch and whether they compute in bfloat16; the error if torch cannot be imported."""
    try:
        import torch

        rows = {"cpu": f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"}
        if torch.cuda.is_available():
            rows["cuda"] = f"{torch.version.cuda or torch.version.hip}, cuDNN {torch.backends.cudnn.version()}"
            for index in range(torch.cuda.device_count()):
                card = torch.cuda.get_device_properties(index)
                memory, capability = f"{card.total_memory / 2**30:.0f} GiB", f"{card.major}.{card.minor}"
                rows[f"cuda:{index}"] = f"{card.name}, {memory}, compute capability {capability}"
            rows["bfloat16"] = "yes" if computes_bfloat16(torch.device("cuda")) else "emulated"
        elif torch.backends.mps.is_available():
            rows["mps"] = "yes"
        else:
            rows["bfloat16"] = "yes" if computes_bfloat16(torch.device("cpu")) else "emulated"
        return rows
    except Exception as error:  # a broken torch is what a bug report may be about
        return {"torch": f"cannot be used ({type(error).__name__})"}


def _print(rows: Mapping[str, str]) -> None:
    print(*(f"{name + ':':<17} {text}" for name, text in rows.items()), sep="\n", flush=True)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _extras() -> Iterator[str]:
    """Each extra of this package, with the requirements that are missing."""
    try:
        from packaging.requirements import Requirement

        own = distribution("ediffi")
        wanted = [Requirement(text) for text in own.requires or []]
        for extra in own.metadata.get_all("Provides-Extra") or []:
            named = [one.name for one in wanted if one.marker and one.marker.evaluate({"extra": extra})]
            plain = [one.name for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]
            missing = [name for name in named if name not in plain and _version(name) == "not installed"]
            yield f"{extra} (without {', '.join(missing)})" if missing else extra
    except (ImportError, PackageNotFoundError, ValueError):
        return


def _plugins() -> Iterator[str]:
    """The parts of other packages, by entry point; none is loaded."""
    for kind in KINDS:
        for point in entry_points(group=f"ediffi.{kind}"):
            package = f"{point.dist.name} {point.dist.version}" if point.dist is not None else "unknown"
            yield f"{point.name} ({kind.removesuffix('s')}, {package})"


def _processor() -> str:
    """The name of the processor; of its architecture, where the system gives no name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()
