"""Accelerators by name: memory, its bandwidth, and peak speed in bfloat16 without sparsity, from their datasheets."""

from typing import NamedTuple

from ediffi.registry.core import UnknownNameError


class Accelerator(NamedTuple):
    """Its memory in bytes, bandwidth in bytes a second, peak in operations a second: bfloat16 (float16 where there is
    none), float32 sums."""

    title: str
    memory: float
    bandwidth: float
    peak: float


DEVICES = {
    "v100-32": Accelerator("NVIDIA V100 32GB (float16)", 32e9, 900e9, 125e12),
    "a10": Accelerator("NVIDIA A10", 24e9, 600e9, 125e12),
    "l4": Accelerator("NVIDIA L4", 24e9, 300e9, 121e12),
    "l40s": Accelerator("NVIDIA L40S", 48e9, 864e9, 362e12),
    "rtx-3090": Accelerator("NVIDIA GeForce RTX 3090", 24e9, 936e9, 71e12),
    "rtx-4090": Accelerator("NVIDIA GeForce RTX 4090", 24e9, 1008e9, 165e12),
    "a100-40": Accelerator("NVIDIA A100 40GB", 40e9, 1555e9, 312e12),
    "a100-80": Accelerator("NVIDIA A100 80GB", 80e9, 2039e9, 312e12),
    "h100-80": Accelerator("NVIDIA H100 SXM 80GB", 80e9, 3350e9, 989e12),
    "h200": Accelerator("NVIDIA H200 SXM", 141e9, 4800e9, 989e12),
    "b200": Accelerator("NVIDIA B200", 180e9, 8000e9, 2250e12),
    "mi250x": Accelerator("AMD Instinct MI250X", 128e9, 3277e9, 383e12),
    "mi300x": Accelerator("AMD Instinct MI300X", 192e9, 5300e9, 1307e12),
}


def device(name: str) -> Accelerator:
    """The accelerator of that name; UnknownNameError lists the near names."""
    if name not in DEVICES:
        raise UnknownNameError.among(DEVICES, "device type", name)
    return DEVICES[name]
