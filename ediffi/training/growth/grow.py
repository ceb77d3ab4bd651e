"""Growing a stage into experts: a declared schedule of nodes, one training run each (eDiff-I, section 4.1 and table 5).

A node starts from its parent's averaged weights and trains on its own noise. Every node is a run of `ediffi fit` in a
process (or a process group) of its own, from a config file that stands in its folder. Nodes that are finished are
skipped, one that was cut goes on from its checkpoint, and the experts of the leaves become a stage.
"""

import copy
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from ediffi.pipeline import folder
from ediffi.pipeline.manifest import TrainedStage
from ediffi.training.growth.compose import StageRecipe, read_run, same_model
from ediffi.training.growth.schedule import GrowthNode, GrowthSchedule, TrunkStage

SCHEDULE_BAR = "ediffi.training.callbacks.schedule_bar.ScheduleBar"
RunNode = Callable[[Sequence[str]], int]
"""Runs `ediffi` with these arguments and returns its exit code."""


def grow(
    output: Path,
    recipe: Path,
    nodes: list[GrowthNode],
    stage: StageRecipe,
    trunk: TrunkStage | None = None,
    overrides: dict[str, Any] | None = None,
    plan: bool = False,
    run_node: RunNode | None = None,
) -> Path | None:
    """Run a growth schedule and compose its leaves to a stage: `output/stage`, a model folder of one stage.

    The leaves are the nodes that are no node's parent. With a published trunk, its experts that no leaf touches are
    kept, byte for byte: so one expert of an ensemble is fine-tuned without the others.

    Args:
        output: folder of the runs, one a node, and of the composed stage.
        recipe: of `ediffi fit`, that trains a node.
        nodes: in the order of their training, parents first.
        stage: name, resolution and sampling of the composed stage.
        trunk: published stage that nodes without a parent start from; random weights by default.
        overrides: settings of the recipe to change in every node, by dotted name (numbers count list items).
        plan: only say what is done and what there is to do.
        run_node: runs `ediffi`; in a process of its own by default.

    Returns:
        The folder of the stage; None if only planned, and on all machines but the first (`NODE_RANK`).

    Raises:
        FileNotFoundError: the recipe or the trunk is missing.
        ValueError: the schedule is no tree, its leaves overlap or leave a gap, or a folder holds another node's run.
        ChildProcessError: a node failed; the same command goes on from its last checkpoint.
    """
    schedule = GrowthSchedule(output, nodes, trunk)
    settings_of_all = _read_recipe(recipe)
    total = sum(node.steps for node in nodes)
    for number, node in enumerate(nodes, 1):
        label, done = f"{node.interval}, node {number} of {len(nodes)}", schedule.steps_done(node)
        state = "done" if done == node.steps else f"cut at {done}" if done else "to do"
        print(f"{label}: {node.steps} steps from {node.parent or trunk or 'random weights'}, {state}", flush=True)
        if plan or done == node.steps:
            continue
        run, before = schedule.run(node), sum(other.steps for other in nodes[: number - 1])
        settings = node_settings(
            settings_of_all, node, run, schedule.start(node), {**(overrides or {}), **node.overrides}
        )
        if settings["trainer"].get("enable_progress_bar") is not False:
            bar = {"node": label, "before": before, "total": total}
            settings["trainer"].setdefault("callbacks", []).append({"class_path": SCHEDULE_BAR, "init_args": bar})
        run.mkdir(parents=True, exist_ok=True)
        _write(run / "node.yaml", yaml.safe_dump(settings, sort_keys=False))
        words = ["fit", "--config", str(run / "node.yaml")]
        code = (run_node or _process)([*words, "--ckpt_path", str(schedule.checkpoint(node))] if done else words)
        if code or schedule.steps_done(node) != node.steps:
            raise ChildProcessError(f"{label} ended with code {code} (see above); the same command goes on from there")
    if plan or os.environ.get("NODE_RANK", "0") != "0":  # of several machines, the first composes
        return None
    return _compose(schedule, stage)


def node_settings(
    recipe: Mapping[str, Any], node: GrowthNode, run: Path, start: Mapping[str, Any], overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """The settings of `ediffi fit` for a node: the recipe with its noise, steps, start and folders.

    Raises:
        ValueError: an override names nothing in the recipe, or the last step would not be saved.
    """
    settings = copy.deepcopy(dict(recipe))
    settings["model"]["interval"] = asdict(node.interval)
    for name, value in overrides.items():
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
        if node.steps % (every := saver.get("every_n_train_steps", 1)):
            raise ValueError(
                f"steps of node {node.interval} must be a multiple of the recipe's every_n_train_steps ({every}), or "
                f"the last ones would not be saved; got {node.steps}"
            )
    return settings


def _set(settings: Any, name: str, value: Any) -> None:
    """Change the setting with a dotted name; numbers count list items."""
    *path, last = name.split(".")
    try:
        for key in path:
            settings = settings[int(key) if isinstance(settings, list) else key]
        settings[int(last) if isinstance(settings, list) else last] = value
    except (KeyError, IndexError, TypeError, ValueError):
        raise ValueError(f"override {name!r} is not in the recipe") from None


def _read_recipe(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(
            f"the recipe of the nodes does not exist: {path} (ediffi recipes cp copies those that ship)"
        )
    try:
        recipe = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from None
    if not isinstance(recipe, dict) or not {"model", "data", "trainer"} <= set(recipe):
        raise ValueError(f"{path} is not a recipe of ediffi fit: it needs model, data and trainer")
    return recipe


def _write(path: Path, text: str) -> None:
    """Write beside and rename: several machines write the same settings, and one may read them already."""
    beside = path.with_suffix(f".{os.getpid()}.tmp")
    beside.write_text(text)
    os.replace(beside, path)


def _process(argv: Sequence[str]) -> int:
    return subprocess.run([sys.executable, "-m", "ediffi", *argv]).returncode


def _compose(schedule: GrowthSchedule, stage: StageRecipe) -> Path:
    runs = [schedule.run(leaf) for leaf in schedule.leaves]
    trained = [read_run(run) for run in runs]
    part, noise = same_model(trained, runs)
    experts = [expert for expert, _, _ in trained] + schedule.kept()
    whole = TrainedStage(stage.name, stage.resolution, part, noise, experts, stage.sampling, stage.aug_level)
    place = schedule.output / "stage"
    with suppress(FileNotFoundError):
        shutil.rmtree(place)
    return folder.save(place, stage.name, {}, None, [whole])
