"""`ediffi params` and `ediffi plan`: parameters, memory, time and storage of a training, estimated before it starts."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from ediffi.cli.parser import UsageError, check_positive
from ediffi.cli.recipes import find

if TYPE_CHECKING:
    from ediffi.data.index import Index
    from ediffi.training.estimate.devices import Accelerator
    from ediffi.training.estimate.params import EncoderParameters, NetworkParameters
    from ediffi.training.estimate.plan import NetworkCost, TrainingPlan

PAPER = {
    "unet_base64": ("2048", "256 A100", "1,900,000 (table 5: shared 500,000, then 40,000 to 190,000 a node)"),
    "efficient_sr256": ("2048", "128 A100", "2,000,000"),
    "efficient_sr1024": ("2048", "128 A100", "1,700,000"),
}
"""Samples a step, devices and steps: eDiff-I, tables 7 and 5. The paper gives no hours."""
SHARD_SAMPLES = 10_000
"""Of a shard as img2dataset writes it."""
PAPER_SAMPLES = 1_000_000_000
PAPER_EACH = {
    "unet_base64": "950 to 1,050 M: half of D - B in table 1, as each of the two has an expert more",
    "efficient_sr256": "200 to 400 M: B - A in table 1",
}
"""Parameters of one network, from table 1 of eDiff-I: its configurations differ by experts, rounded to 0.1 B."""
PAPER_TOTALS = {(1, 1, 1): ("A", 6.8), (1, 2, 1): ("B", 7.1), (2, 2, 1): ("C", 8.1), (3, 2, 1): ("D", 9.1)}
"""Table 1 of eDiff-I: configuration and billions of parameters, by experts of base, first and last super-resolution."""
STAGES = ("unet_base64", "efficient_sr256", "efficient_sr1024")
DAY, HOUR = 86400.0, 3600.0


class Machine(NamedTuple):
    """Devices that train, images in a batch of each, and batches of each in a step."""

    kind: "Accelerator"
    devices: int
    batch_size: int
    batches: int


def params(recipe: list[str], /) -> None:
    """Count the parameters that recipes build, on the meta device: nothing is loaded and nothing takes memory.

    A recipe of `ediffi fit` has a network, a growth schedule its experts, a recipe of `ediffi compose` the encoders.
    The total counts text encoders, as table 1 of the paper does, and not the CLIP that reads images.

    Args:
        recipe: files, or names as in ediffi recipes ls
    """
    paths = {name: find(name) for name in recipe}
    if len({path.resolve() for path in paths.values()}) < len(recipe):
        raise UsageError("the same recipe is given twice")
    from ediffi.training.estimate.params import EncoderParameters, NetworkParameters, count

    counted = {name: count(path) for name, path in paths.items()}
    networks = {name: one for name, one in counted.items() if isinstance(one, NetworkParameters)}
    encoders = {name: one for name, one in counted.items() if isinstance(one, EncoderParameters)}
    blocks = [
        _networks(name, networks[name]) if name in networks else _encoders(name, encoders[name]) for name in paths
    ]
    print("\n\n".join("\n".join(block) for block in [*blocks, _sums(networks, encoders)] if block))


def _networks(name: str, one: "NetworkParameters") -> list[str]:
    parts = [_row(f"  {part}", number) for part, number in one.parts.items()]
    paper = f"  paper: {PAPER_EACH[one.denoiser]}" if one.denoiser in PAPER_EACH else ""
    if not one.experts:
        return [f"{name}: {one.denoiser}", *parts, _row("  all parts", one.each) + paper]
    many = f"{len(one.experts)} experts"
    heading = f"{name}: {one.denoiser}, {many}: {'; '.join(one.experts)}"
    return [heading, *parts, _row("  one expert", one.each) + paper, _row(f"  {many}", one.total)]


def _encoders(name: str, one: "EncoderParameters") -> list[str]:
    rows = [_row(f"  {encoder}", number) for encoder, number in one.texts]
    rows += [_row(f"  {encoder}", number) + "  not counted" for encoder, number in one.images]
    return [f"{name}: encoders", *rows, _row("  text encoders", one.total)]


def _sums(networks: Mapping[str, "NetworkParameters"], encoders: Mapping[str, "EncoderParameters"]) -> list[str]:
    trained, read = (sum(one.total for one in some.values()) for some in (networks, encoders))
    rows = [_row("all networks", trained)] if len(networks) > 1 or (networks and encoders) else []
    if networks and encoders:
        rows.append(_row("text encoders", read))
        rows.append(_row("total", trained + read) + "  counted as in table 1 of the paper: with text encoders")
        experts = {one.denoiser: max(1, len(one.experts)) for one in networks.values()}
        base, first, last = (experts.get(stage, 0) for stage in STAGES)
        if paper := PAPER_TOTALS.get((base, first, last)):
            rows.append(f"{'paper':<20}{1e3 * paper[1]:>10,.0f} M  configuration {paper[0]}, to 0.1 B")
    made = {one.run for one in networks.values()}
    stages = [(name, stage, run) for name, one in encoders.items() for stage, runs in one.runs.items() for run in runs]
    return rows + [
        f"without stage {stage} of {name}: no recipe here makes {run}" for name, stage, run in stages if run not in made
    ]


def _row(label: str, number: int) -> str:
    return f"{label:<20}{readable(number):>12}"


def readable(number: int) -> str:
    """A number of parameters in millions, or in thousands where it is smaller: 715.3 M, 7.2 K."""
    return f"{number / 1e6:,.1f} M" if number >= 1e6 else f"{number / 1e3:.1f} K"


def plan(
    recipe: str,
    devices: int | None = None,
    device_type: str = "a100-80",
    utilisation: float = 0.6,
    batch_size: int | None = None,
    measured: bool = False,
    samples: int | None = None,
) -> None:
    """Estimate parameters, memory, time and storage of a training recipe or growth schedule.

    Operations, memory traffic, kernels and activations of one step are counted, without weights or data, at captions of
    full length. The time is an estimate from them: products at a share of the device's peak, the rest at its bandwidth,
    no faster than the host launches kernels, then the optimiser and what is not hidden of summing gradients. Data
    loading and validation are not in it.

    Args:
        recipe: a file, or a name as in ediffi recipes ls.
        devices: number of devices; the recipe's by default.
        device_type: a100-80, h100-80, ...; `ediffi plan RECIPE --device-type list` lists all.
        utilisation: share of the peak that convolutions and matrix products reach while they run.
        batch_size: images in a batch of a device; the recipe's by default, or fewer if more devices share a step.
        measured: time a few batches on this machine instead, and plan for such devices.
        samples: images of the dataset, for its storage; by default as in its index, or the paper's billion.
    """
    from ediffi.training.estimate.devices import DEVICES, device
    from ediffi.training.estimate.plan import accumulation, measure, network_cost, read

    if device_type == "list":
        for name, one in DEVICES.items():
            print(f"{name:<10} {one.memory / 1e9:>4.0f} GB {one.peak / 1e12:>6.0f} TFLOP/s  {one.title}")
        return
    if not 0 < utilisation <= 1:
        raise ValueError(f"utilisation must be in (0, 1], got {utilisation}")
    check_positive(devices=devices, batch_size=batch_size, samples=samples)
    kind, path = device(device_type), find(recipe)
    job = read(path)
    many = devices or job.devices
    each = batch_size or max(1, min(job.batch_size, job.samples // many))
    machine = Machine(kind, many, each, accumulation(job, many, each))
    network = network_cost(path, job)
    seconds = measure(path, job, each) if measured else None
    lines = [*_network(recipe, job, network), "", *_memory(job, network, machine), ""]
    lines += [*_time(job, network, machine, utilisation, seconds), "", _loader(job, network, machine), ""]
    print(*lines, *_storage(job, network, samples or _samples(job)), sep="\n")


def _network(recipe: str, job: "TrainingPlan", network: "NetworkCost") -> Iterator[str]:
    yield f"{recipe}: {job.denoiser}, {network.parameters / 1e6:,.1f} M parameters, trained on {job.size}² images"
    if job.denoiser in PAPER_EACH:
        yield f"  parameters of the paper's: {PAPER_EACH[job.denoiser]}"
    paper = PAPER.get(job.denoiser, ("", "", ""))
    ours = (("samples a step", job.samples), ("devices", job.devices), ("steps", job.all_steps))
    yield f"  {'':<16}{'recipe':>12}" + ("    paper, table 7" if paper[0] else "")
    for (name, number), theirs in zip(ours, paper, strict=True):
        yield f"  {name:<16}{number:>12,}    {theirs}".rstrip()
    if len(job.steps) > 1:
        yield f"  {len(job.steps)} runs: " + ", ".join(f"{name} {steps:,}" for name, steps in job.steps)


def _memory(job: "TrainingPlan", network: "NetworkCost", machine: Machine) -> Iterator[str]:
    from ediffi.training.estimate.plan import memory

    kind, devices, batch_size, _ = machine
    yield f"memory of a device, batches of {batch_size}, {'sharded over' if job.sharded else 'the same on'} {devices}"
    plain, checkpointed = (memory(job, network, devices, batch_size, checkpointing=on) for on in (False, True))
    yield f"  {'GB':<20}{'plain':>10}{'checkpointing':>16}{'   the recipe checkpoints' if job.checkpointing else ''}"
    for part in plain:
        yield f"  {part:<20}{plain[part] / 1e9:>10.2f}{checkpointed[part] / 1e9:>16.2f}"
    sums = sum(plain.values()), sum(checkpointed.values())
    yield f"  {'together':<20}{sums[0] / 1e9:>10.2f}{sums[1] / 1e9:>16.2f}"
    chosen = sums[job.checkpointing]
    # The allocator wastes some memory, so a training that fills the last tenth may not run.
    verdict = "fits" if chosen < 0.9 * kind.memory else "is tight" if chosen < kind.memory else "does not fit"
    yield f"  as the recipe trains, that {verdict} in the {kind.memory / 1e9:.0f} GB of {kind.title}"


def _time(
    job: "TrainingPlan", network: "NetworkCost", machine: Machine, utilisation: float, measured: float | None
) -> Iterator[str]:
    """Time of a step and of all; `measured` is the time of a batch in seconds."""
    from ediffi.training.estimate.plan import step_time

    kind, devices, batch_size, batches = machine
    work = (network.checkpointed if job.checkpointing else network.plain).step
    yield f"time on {devices} devices, {batches} batch{'es' if batches > 1 else ''} of {batch_size} a step"
    yield f"  operations           {work / 1e12:.3g} TFLOP an image, {work * job.samples / 1e15:.3g} PFLOP a step"
    if measured is not None:
        seconds = measured * batches
        speed = f"{work * batch_size / measured / 1e12:.3g} TFLOP/s"
        yield f"  measured here        {seconds:.3g} s a step, {speed}, without data and other devices"
    else:
        if not job.low_precision:
            yield "  the recipe trains in float32; what follows is for --trainer.precision bf16-mixed"
        parts = step_time(job, network, kind, devices, batch_size, utilisation)
        seconds = sum(parts)
        yield f"  on {kind.title}, {'compiled' if job.compiled else 'eager'}: {seconds:.3g} s a step"
        yield "    " + ", ".join(f"{part} {1e3 * value:.3g} ms" for part, value in parts._asdict().items())
        reached = network.plain.step * batch_size * batches / seconds / kind.peak
        yield f"    {reached:.2f} of the peak's {kind.peak / 1e12:.0f} TFLOP/s, without what checkpointing repeats"
    whole = seconds * job.all_steps
    duration = f"{whole / DAY:,.1f} days" if whole >= DAY else f"{whole / HOUR:,.2f} hours"
    yield f"  all {job.all_steps:,} steps: {duration}, {whole * devices / HOUR:,.0f} device-hours"


def _loader(job: "TrainingPlan", network: "NetworkCost", machine: Machine) -> str:
    """The shards that the loader of a process holds in memory, of the size in the index of the data."""
    data = job.settings.get("data") or {}
    if (index := _index(job)) is not None:
        size, told = max(shard.bytes or 0 for shard in index.shards), "as its index says"
    if index is None or not size:
        size, told = int(SHARD_SAMPLES * (network.image + network.embeddings)), f"{SHARD_SAMPLES:,} samples each"
    lanes, workers = data.get("lanes", 1), max(1, data.get("num_workers", 0))
    each = lanes // (machine.devices * workers) if lanes % (machine.devices * workers) == 0 else lanes
    ahead = ", and the next of each" if data.get("read_ahead", True) else ""
    held = each * workers * (2 if ahead else 1)
    what = f"one shard of each of {each * workers} lanes{ahead}"
    shared = "" if each < lanes or lanes == 1 else "; lanes that are a multiple of devices times workers need less"
    return f"memory of a process's loader: at most {held * size / 1e9:.3g} GB, {what} ({told}){shared}"


def _index(job: "TrainingPlan") -> "Index | None":
    from ediffi.data.index import Index

    with suppress(OSError, ValueError, KeyError):
        return Index.read(str(job.settings["data"]["train"]))
    return None


def _storage(job: "TrainingPlan", network: "NetworkCost", samples: int) -> Iterator[str]:
    seen = job.samples * job.all_steps
    yield f"storage of {samples:,} samples, of which the steps read {seen:,}: {seen / samples:,.2f} times each"
    for name, each in (("images (JPEG)", network.image), ("embeddings (bf16)", network.embeddings)):
        size = each * samples
        total = f"{size / 1e12:,.1f} TB" if size >= 1e12 else f"{size / 1e9:,.1f} GB"
        yield f"  {name:<20} {total}, {each / 1e3:.3g} kB each"


def _samples(job: "TrainingPlan") -> int:
    """Samples of the dataset: as in its index; without one, as in the paper, or as the steps read."""
    if (index := _index(job)) is not None:
        return index.samples
    return PAPER_SAMPLES if job.denoiser in PAPER else job.samples * job.all_steps
