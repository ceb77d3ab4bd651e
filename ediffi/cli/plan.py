"""`ediffi plan`: memory, time and storage of a training, estimated before it starts."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ediffi.cli.params import find
from ediffi.cli.parser import check_positive

if TYPE_CHECKING:
    from ediffi.training.estimate.plan import NetworkCost, TrainingPlan

PAPER = {
    "unet_base64": ("2048", "256 A100", "1,900,000 (table 5: shared 500,000, then 40,000 to 190,000 a node)"),
    "efficient_sr256": ("2048", "128 A100", "2,000,000"),
    "efficient_sr1024": ("2048", "128 A100", "1,700,000"),
}
"""Samples a step, devices and steps: eDiff-I, tables 7 and 5. The paper gives no hours."""
PAPER_SAMPLES = 1_000_000_000
DAY, HOUR = 86400.0, 3600.0


def plan(
    recipe: str,
    devices: int | None = None,
    device_type: str = "a100-80",
    utilisation: float = 0.4,
    batch_size: int | None = None,
    measured: bool = False,
    samples: int | None = None,
) -> None:
    """Estimate parameters, memory, time and storage of a training recipe or growth schedule.

    Operations and activations of one step are counted, without weights or data, at captions of full length. The time is
    an estimate: those operations, and the ones that checkpointing repeats, at a share of the device's peak. The share
    includes data loading, validation and communication.

    Args:
        recipe: a file, or a name as in ediffi recipes ls.
        devices: number of devices; the recipe's by default.
        device_type: a100-80, h100-80, ...; `ediffi plan RECIPE --device-type list` lists all.
        utilisation: share of the peak that training reaches; 0.3 to 0.5 is usual for such networks.
        batch_size: images in a batch of a device; the recipe's by default, or fewer if more devices share a step.
        measured: time a few batches on this machine instead, and plan for such devices.
        samples: images of the dataset, for its storage; by default as in its index, or the paper's billion.
    """
    from ediffi.training.estimate.devices import DEVICES, device
    from ediffi.training.estimate.plan import accumulation, network_cost, read

    if device_type == "list":
        for name, one in DEVICES.items():
            print(f"{name:<10} {one.memory / 1e9:>4.0f} GB {one.peak / 1e12:>6.0f} TFLOP/s  {one.title}")
        return
    if not 0 < utilisation <= 1:
        raise ValueError(f"utilisation must be in (0, 1], got {utilisation}")
    check_positive(devices=devices, batch_size=batch_size, samples=samples)
    device(device_type)
    path = find(recipe)
    job = read(path)
    many = devices or job.devices
    each = batch_size or max(1, min(job.batch_size, job.samples // many))
    accumulation(job, many, each)
    network = network_cost(path, job)
    lines = [*_network(recipe, job, network), ""]
    lines += [*_memory(job, network, many, each, device_type), ""]
    lines += [*_time(path, job, network, many, each, None if measured else (device_type, utilisation)), ""]
    lines += _storage(job, network, samples or _samples(job))
    print("\n".join(lines))


def _network(recipe: str, job: "TrainingPlan", network: "NetworkCost") -> Iterator[str]:
    yield f"{recipe}: {job.denoiser}, {network.parameters / 1e6:,.1f} M parameters, trained on {job.size}² images"
    paper = PAPER.get(job.denoiser, ("", "", ""))
    ours = (("samples a step", job.samples), ("devices", job.devices), ("steps", job.all_steps))
    yield f"  {'':<16}{'recipe':>12}" + ("    paper, table 7" if paper[0] else "")
    for (name, number), theirs in zip(ours, paper, strict=True):
        yield f"  {name:<16}{number:>12,}    {theirs}".rstrip()
    if len(job.steps) > 1:
        yield f"  {len(job.steps)} runs: " + ", ".join(f"{name} {steps:,}" for name, steps in job.steps)


def _memory(
    job: "TrainingPlan", network: "NetworkCost", devices: int, batch_size: int, device_type: str
) -> Iterator[str]:
    from ediffi.training.estimate.devices import device
    from ediffi.training.estimate.plan import memory

    yield f"memory of a device, batches of {batch_size}, {'sharded over' if job.sharded else 'the same on'} {devices}"
    kinds = {name: memory(job, network, devices, batch_size, ck) for name, ck in (("plain", False), ("ckpt", True))}
    yield f"  {'GB':<20}{'plain':>10}{'checkpointing':>16}{'   the recipe checkpoints' if job.checkpointing else ''}"
    for part in kinds["plain"]:
        yield f"  {part:<20}{kinds['plain'][part] / 1e9:>10.2f}{kinds['ckpt'][part] / 1e9:>16.2f}"
    sums = {name: sum(parts.values()) for name, parts in kinds.items()}
    yield f"  {'together':<20}{sums['plain'] / 1e9:>10.2f}{sums['ckpt'] / 1e9:>16.2f}"
    chosen, room = sums["ckpt" if job.checkpointing else "plain"], device(device_type)
    verdict = "fits" if chosen < 0.9 * room.memory else "is tight" if chosen < room.memory else "does not fit"
    yield f"  as the recipe trains, that {verdict} in the {room.memory / 1e9:.0f} GB of {room.title}"


def _time(
    path: Path,
    job: "TrainingPlan",
    network: "NetworkCost",
    devices: int,
    batch_size: int,
    assumed: tuple[str, float] | None,
) -> Iterator[str]:
    from ediffi.training.estimate.devices import device
    from ediffi.training.estimate.plan import accumulation, measure

    accumulated = accumulation(job, devices, batch_size)
    work = network.checkpointed if job.checkpointing else network.plain
    yield f"time on {devices} devices, {accumulated} batch{'es' if accumulated > 1 else ''} of {batch_size} a step"
    all_of_it = work.step * job.samples
    yield f"  operations           {work.step / 1e12:.3g} TFLOP an image, {all_of_it / 1e15:.3g} PFLOP a step"
    if assumed is None:
        seconds = measure(path, job, batch_size) * accumulated
        speed = f"{work.step * batch_size * accumulated / seconds / 1e12:.3g} TFLOP/s"
        yield f"  measured here        {seconds:.3g} s a step, {speed}, without data and other devices"
    else:
        if not job.low_precision:
            yield "  the recipe trains in float32; what follows is for --trainer.precision bf16-mixed"
        kind = device(assumed[0])
        seconds = work.step * batch_size * accumulated / (kind.peak * assumed[1])
        of = f"{kind.peak / 1e12:.0f} TFLOP/s ({kind.title})"
        yield f"  at {assumed[1]:.0%} utilisation   {seconds:.3g} s a step, of {of}"
    whole = seconds * job.all_steps
    yield f"  all {job.all_steps:,} steps: {_duration(whole)}, {whole * devices / HOUR:,.0f} device-hours"


def _storage(job: "TrainingPlan", network: "NetworkCost", samples: int) -> Iterator[str]:
    seen = job.samples * job.all_steps
    yield f"storage of {samples:,} samples, of which the steps read {seen:,}: {seen / samples:,.2f} times each"
    for name, each in (("images (JPEG)", network.image), ("embeddings (bf16)", network.embeddings)):
        yield f"  {name:<20} {_bytes(each * samples)}, {each / 1e3:.3g} kB each"


def _samples(job: "TrainingPlan") -> int:
    """Samples of the dataset: as in its index; without one, as in the paper, or as the steps read."""
    from ediffi.data.index import Index

    with suppress(OSError, ValueError, KeyError):
        return sum(shard.samples for shard in Index.read(str(job.settings["data"]["train"])).shards)
    return PAPER_SAMPLES if job.denoiser in PAPER else job.samples * job.all_steps


def _duration(seconds: float) -> str:
    return f"{seconds / DAY:,.1f} days" if seconds >= DAY else f"{seconds / HOUR:,.2f} hours"


def _bytes(number: float) -> str:
    return f"{number / 1e12:,.1f} TB" if number >= 1e12 else f"{number / 1e9:,.1f} GB"
