"""Time and memory of loading a cascade of six networks on a CPU, with this checkout's code or another's.

    python benchmarks/loading.py FOLDER                                     writes the cascade if it is not there
    PYTHONPATH=OTHER_CHECKOUT python benchmarks/loading.py FOLDER           the same cascade, loaded by other code

Three experts of an ADM U-Net, two of an Efficient U-Net and one of another, 880 MB of random weights in bfloat16. Each
line is a process of its own: seconds, CPU seconds of all threads, MB of weights, and by how many MB the process grew at
its peak.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

import ediffi
from ediffi.diffusion.experts import Expert
from ediffi.diffusion.noise import ROOT, Complement, Interval, LogNormal
from ediffi.hub.config import Part
from ediffi.pipeline.checkpoint import build_denoiser, load_cascade
from ediffi.pipeline.stage import Sampling
from ediffi.pipeline.trained_stage import TrainedExpert, TrainedStage, save_cascade

BASE = Part("unet_base64", {"channels": 96, "tokens": {"t5": 128}, "pooled": {}})
SMALL = {"channels": 40, "head_channels": 40, "norm_groups": 8, "tokens": {"t5": 128}, "pooled": {}}
LOW, HIGH = Interval(2, 0), Interval(2, 3)
STAGES = {
    "base": (BASE, 64, (LOW, Complement((LOW, HIGH)), HIGH)),
    "sr256": (Part("efficient_sr256", SMALL), 256, (Interval(1, 0), Interval(1, 1))),
    "sr1024": (Part("efficient_sr1024", SMALL), 1024, (ROOT,)),
}


def write(folder: Path) -> None:
    """Write the cascade."""
    torch.manual_seed(0)
    stages = []
    for name, (part, side, regions) in STAGES.items():
        trained = []
        for region in regions:
            network = build_denoiser(part)
            for parameter in network.parameters():
                nn.init.normal_(parameter, std=0.02)
            trained.append(TrainedExpert(Expert(region), network.state_dict()))
        aug_level = None if name == "base" else 0.0
        stages.append(TrainedStage(name, side, part, LogNormal(), trained, Sampling("euler", 2), aug_level))
    save_cascade(folder, "six networks", {}, None, stages)


def memory(field: str) -> float:
    """Memory of this process in MB, from Linux: VmRSS is now, VmHWM the peak since the last reset."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[field].split()[0]) / 1024


def measure(folder: Path, residency: Any, dtype: str) -> dict[str, Any]:
    """Load once, in this process."""
    torch.rand(8, 8) @ torch.rand(8, 8)
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    started, cpu = time.perf_counter(), time.process_time()
    stages = load_cascade(folder, "cpu", residency, dtype=getattr(torch, dtype)).stages
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    weights = sum(p.numel() * p.element_size() for stage in stages for p in stage.denoiser.parameters()) / 2**20
    row = {"residency": residency, "dtype": dtype, "seconds": seconds, "CPU seconds": cpu}
    return row | {"weights": weights, "growth": memory("VmHWM") - before}


def main() -> None:
    """Write the cascade if need be, and print a line a way to load it: the best of a few processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measure(args.folder, *args.child)))
        return
    if not args.folder.exists():
        write(args.folder)
    print(f"ediffi of {Path(ediffi.__file__).parent.parent}")
    for dtype in ("float32", "bfloat16"):
        for residency in ("resident", "stream"):
            words = [sys.executable, __file__, str(args.folder), "--child", residency, dtype]
            done = [subprocess.run(words, capture_output=True, text=True, check=True) for _ in range(args.repeats)]
            rows = [json.loads(one.stdout) for one in done]
            best = {
                key: value if isinstance(value, str) else min(row[key] for row in rows)
                for key, value in rows[0].items()
            }
            print(
                json.dumps({key: v if isinstance(v, str) else float(f"{v:.3g}") for key, v in best.items()}), flush=True
            )


if __name__ == "__main__":
    main()
