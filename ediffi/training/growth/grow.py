"""Growing a stage into experts: a declared schedule of nodes, one training run each (eDiff-I, section 4.1 and table 5).

A node starts from its parent's averaged weights and trains on its own noise. Each node is a run of `ediffi fit` in a
separate process or process group, from a recipe that is written into its run directory. Finished nodes are skipped, an
interrupted one resumes from its checkpoint, and the experts of the leaves become a stage.
"""

import copy
import dataclasses
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml

from ediffi.hub.finding import CONFIG
from ediffi.io import locks
from ediffi.io.distributed import global_rank, rendezvous
from ediffi.io.recipes import import_beside
from ediffi.pipeline.trained_stage import is_saved, save_cascade
from ediffi.training import resume
from ediffi.training.class_paths import read_recipe
from ediffi.training.finished_run import RECIPE
from ediffi.training.growth.compose import StageRecipe, trained_stage
from ediffi.training.growth.networks import check_networks
from ediffi.training.growth.rehearsal import check_settings
from ediffi.training.growth.schedule import GrowthNode, GrowthSchedule, TrunkStage

logger = logging.getLogger(__name__)
FIT = {"model", "data", "trainer"}
"""Keys of a recipe of `ediffi fit`."""
NODE = "node.yaml"
"""The recipe of a node as the schedule gives it; beside it the run writes `RECIPE`, with all defaults."""
SCHEDULE_BAR = "ediffi.training.callbacks.schedule_bar.ScheduleBar"
PLACES = ("start.", "model.interval")
"""Settings of a node that its checkpoint is compared by; the file of first weights may have moved."""
STOPPED = tuple(128 + number for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1))
"""Exit codes of a node that has saved its step after a signal."""
PASSED_ON = (signal.SIGTERM, signal.SIGUSR1)
RunNode = Callable[[Sequence[str]], int]
"""Runs `ediffi` with these arguments and returns its exit code."""


def grow(
    output: Path,
    recipe: Path,
    nodes: list[GrowthNode],
    stage: StageRecipe,
    trunk: TrunkStage | None = None,
    overrides: dict[str, Any] | None = None,
    dry_run: bool | Literal["json"] = False,
    node: str | None = None,
    run_node: RunNode | None = None,
) -> Path | list[dict[str, Any]] | None:
    """Run a growth schedule and compose its leaves to `output/stage`, a model folder of one stage.

    The leaves are the nodes that are no node's parent. Experts of a published trunk whose noise no leaf trains on are
    copied byte for byte: so one expert of an ensemble can be fine-tuned alone.

    Args:
        output: folder of the run directories, one a node, and of the composed stage.
        recipe: of `ediffi fit`, that trains a node.
        nodes: in the order of their training, parents first.
        stage: name, resolution and sampling of the composed stage.
        trunk: published stage that nodes without a parent start from; random weights by default.
        overrides: settings of the recipe to change in every node, by dotted name (numbers count list items).
        dry_run: only report which nodes are done and which are to do; "json" returns them with what each waits for.
        node: run this node only, "LEVEL,INDEX" or the name of its directory, and compose nothing; its parent must be
            done. So a scheduler can run independent nodes side by side.
        run_node: runs `ediffi`; in a separate process by default.

    Returns:
        The folder of the stage; None of a dry run, if one node was run, and on all processes but the first
        (of torchrun, srun, or `NODE_RANK`).

    Raises:
        ValueError: the schedule is no tree, its leaves overlap or leave a gap, a directory has another node's run,
            there is no such `node`, its parent is not done, or goes on after it has begun; or nodes have other networks
            than their parents, or leaves than each other.
        ChildProcessError: a node failed; the same command resumes it from its last checkpoint.
    """
    schedule, shared = GrowthSchedule(output, nodes, trunk), read_node_recipe(recipe)
    import_beside(recipe)
    runs = [node_settings(shared, schedule, node, overrides) for node in nodes]
    check_seeds(nodes, runs)
    check_networks(schedule, runs)
    check_settings(nodes, runs)
    steps = {node.interval: schedule.steps_done(node) for node in reversed(nodes)}  # a parent may end meanwhile
    reached = [steps[node.interval] for node in nodes]
    schedule.check_begun(reached)
    if dry_run == "json":
        return graph(schedule, runs, reached)
    chosen = nodes if node is None else [schedule.named(node)]
    for number, (one, settings, done) in enumerate(zip(nodes, runs, reached, strict=True), 1):
        label = f"{one.interval}, node {number} of {len(nodes)}"
        state = "done" if done == one.steps else f"at step {done}" if done else "to do"
        origin = f"{one.parent or trunk or 'random weights'}, seed {_seeds(settings)['data.seed']}"
        logger.info("%s: %d steps from %s, %s", label, one.steps, origin, state)
        if done == one.steps:
            tell_changes(schedule.run(one), settings)
        if not dry_run and done < one.steps and one in chosen:
            schedule.check_parent(one)
            if settings["trainer"].get("enable_progress_bar") is not False:  # one bar over all nodes
                before = sum(other.steps for other in nodes[: number - 1])
                bar = {"node": label, "before": before, "total": sum(other.steps for other in nodes)}
                settings["trainer"].setdefault("callbacks", []).append({"class_path": SCHEDULE_BAR, "init_args": bar})
            words = ["fit", "--config", str(_write_recipe(schedule.run(one), settings))]
            words += ["--ckpt_path", str(schedule.checkpoint(one))] if done else []
            with rendezvous(number):
                code = (run_node or _process)(words)
            if code in STOPPED:
                raise SystemExit(code)  # the node has said it
            if code or schedule.steps_done(one) != one.steps:
                raise ChildProcessError(f"{label} ended with code {code} (see above); the same command resumes it")
    if dry_run or node is not None or global_rank() != 0:  # of several processes, the first composes
        return None
    return _compose(schedule, stage)


def _compose(schedule: GrowthSchedule, stage: StageRecipe) -> Path:
    """The folder of the stage, written unless it is there already, with the leaves as they are."""
    place = schedule.output / "stage"
    with locks.try_hold(schedule.output / "stage.lock", wait=True):
        composed = trained_stage(
            dataclasses.replace(stage, run=[schedule.run(leaf) for leaf in schedule.leaves]), schedule.kept()
        )
        newest = max(schedule.checkpoint(leaf).stat().st_mtime for leaf in schedule.leaves)
        config = place / CONFIG
        if config.is_file() and config.stat().st_mtime > newest and is_saved(place, composed):
            logger.info("%s has these experts already", place)
            return place
        shutil.rmtree(place, ignore_errors=True)
        return save_cascade(place, stage.name, {}, None, [composed])


def graph(schedule: GrowthSchedule, runs: Sequence[Mapping[str, Any]], reached: Sequence[int]) -> list[dict[str, Any]]:
    """The nodes for a scheduler, and the composition as the last: its name, steps, what is done, what it waits for."""
    nodes = [
        {
            "node": node.interval.label,
            "after": [] if node.parent is None else [node.parent.label],
            "steps": node.steps,
            "steps_done": done,
            "run": str(schedule.run(node)),
            "devices": settings["trainer"].get("devices"),
            "num_nodes": settings["trainer"].get("num_nodes", 1),
        }
        for node, settings, done in zip(schedule.nodes, runs, reached, strict=True)
    ]
    leaves = [leaf.interval.label for leaf in schedule.leaves]
    return [*nodes, {"node": None, "after": leaves, "run": str(schedule.output / "stage")}]


def node_settings(
    recipe: Mapping[str, Any], schedule: GrowthSchedule, node: GrowthNode, overrides: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The settings of `ediffi fit` for a node: the recipe with its noise, seed, steps, first weights and directories.

    ValueError if the recipe lacks what an override changes, would not save the last step, or draws its seed by chance.
    """
    settings, run = copy.deepcopy(dict(recipe)), schedule.run(node)
    settings["model"]["interval"] = dataclasses.asdict(node.interval)
    for name, value in (overrides or {}).items():
        _set(settings, name, value)
    for name, seed in _seeds(settings).items():
        if isinstance(seed, bool):
            raise ValueError(f"seed_everything of a growth schedule must be a number, got {seed}")
        _set(settings, name, schedule.seed(node, seed))
    if start := schedule.start(node):  # instead of the weights that the recipe starts from; an adapter stays
        settings["start"] = {name: value for name, value in settings.get("start", {}).items() if name == "lora"}
    for name, value in node.overrides.items():
        _set(settings, name, value)
    settings["start"] = {**settings.get("start", {}), **start}
    trainer = settings["trainer"]
    trainer |= {"max_steps": node.steps, "default_root_dir": str(run)}
    scheduler = (settings["model"].get("lr_scheduler") or {}).get("init_args", {})
    if "total_steps" in scheduler:
        scheduler["total_steps"] = node.steps
    if isinstance(trainer.get("logger"), dict):
        trainer["logger"]["init_args"] |= {"save_dir": str(run.parent), "name": run.name, "version": ""}
    callbacks = [c for c in trainer.get("callbacks") or [] if isinstance(c, dict)]
    savers = [c["init_args"] for c in callbacks if c.get("class_path", "").endswith(".ModelCheckpoint")]
    if not any(saver.get("save_last") for saver in savers):
        raise ValueError("the recipe needs a ModelCheckpoint with save_last: true, or no node could be resumed")
    for saver in savers:
        saver["dirpath"] = str(run / "checkpoints")
        if (every := saver.get("every_n_train_steps", 1)) == 0:
            raise ValueError("every_n_train_steps of the recipe's ModelCheckpoint must be at least 1, got 0")
        if isinstance(every, int) and node.steps % every:
            rule = f"must be a multiple of the recipe's every_n_train_steps ({every}), or the last ones are not saved"
            raise ValueError(f"steps of node {node.interval} {rule}; got {node.steps}")
    return settings


def tell_changes(run: Path, settings: Mapping[str, Any]) -> None:
    """Warn of a finished node that was trained with other settings than the schedule has now, or had before."""
    if not (run / RECIPE).is_file():
        return
    plain = yaml.safe_load(yaml.safe_dump(dict(settings)))
    before = read_recipe(run / NODE) if (run / NODE).is_file() else {}
    said = {key for recipe in (plain, before) for key, _ in resume.settings(recipe)}  # the others are defaults
    changed = {k: pair for k, pair in resume.changes(read_recipe(run / RECIPE), plain).items() if k in said}
    names = sorted(changed, key=lambda name: not name.startswith(PLACES))
    told = [
        f"{k} {changed[k][0]}, not {changed[k][1]}" for k in names if not k.startswith(PLACES) or None in changed[k]
    ]
    if told:
        more = f" and {len(told) - 1} more" if len(told) > 1 else ""
        logger.warning("%s is done, with %s%s: remove the run to train it again", run, told[0], more)


def check_seeds(nodes: Sequence[GrowthNode], runs: Sequence[Mapping[str, Any]]) -> None:
    """ValueError if two nodes would see the same samples, or draw the same noise: by overrides, or by chance."""
    for name in ("model.seed", "data.seed"):
        seen: dict[int, GrowthNode] = {}
        for node, settings in zip(nodes, runs, strict=True):
            other = seen.setdefault(seed := _seeds(settings)[name], node)
            if other is not node:
                raise ValueError(f"nodes {other.interval} and {node.interval} have the same {name}, {seed}")


def _seeds(settings: Mapping[str, Any]) -> dict[str, int]:
    """By name, the seeds of a recipe: those that it does not give are `seed_everything`, which is 0 by default."""
    shared = settings.get("seed_everything", 0)
    given = {f"{part}.seed": settings[part].get("seed") for part in ("model", "data")}
    return {"seed_everything": shared} | {name: shared if seed is None else seed for name, seed in given.items()}


def _set(settings: Any, name: str, value: Any) -> None:
    """Change the setting with a dotted name; numbers count list items."""
    *path, last = name.split(".")
    try:
        for key in path:
            settings = settings[int(key) if isinstance(settings, list) else key]
        settings[int(last) if isinstance(settings, list) else last] = value
    except (KeyError, IndexError, TypeError, ValueError):
        raise ValueError(f"override {name!r} is not in the recipe") from None


def read_node_recipe(path: Path) -> dict[str, Any]:
    """The recipe of `ediffi fit` that trains the nodes."""
    if not path.is_file():
        raise FileNotFoundError(f"the recipe of the nodes does not exist: {path} (ediffi recipes cp copies one)")
    recipe = read_recipe(path)
    if not recipe.keys() >= FIT:
        raise ValueError(f"{path} is not a recipe of ediffi fit: it needs model, data and trainer")
    return recipe


def _write_recipe(run: Path, settings: Mapping[str, Any]) -> Path:
    """Write `NODE` under a name of this process, then rename it: several machines write and read it."""
    run.mkdir(parents=True, exist_ok=True)
    path, scratch = run / NODE, run / f"node-{socket.gethostname()}-{os.getpid()}.tmp"
    scratch.write_text(yaml.safe_dump(settings, sort_keys=False))
    scratch.replace(path)
    return path


def _process(argv: Sequence[str]) -> int:
    """Run `ediffi`; signals that end a run, or requeue it, are its own to answer, so they are passed on."""
    with subprocess.Popen([sys.executable, "-m", "ediffi", *argv]) as process:
        main, kept = threading.current_thread() is threading.main_thread(), {}
        try:
            for number in PASSED_ON if main else ():
                kept[number] = signal.signal(number, lambda number, _: process.send_signal(number))
            while True:
                try:
                    return process.wait()
                except KeyboardInterrupt:  # the node has got Ctrl-C too, and saves its step
                    continue
        finally:
            for number, handler in kept.items():
                signal.signal(number, handler)
