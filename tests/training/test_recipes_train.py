"""Every recipe that ships, at small size: the commands of its header run, from shards to a cascade.

Each recipe is copied with sizes and counts changed, nothing else, into a folder that has the data it asks for. There
its header's own commands are given, so names, folders and the order of things are the recipe's.
"""

import copy
import os
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from ediffi.cli import main, recipes
from ediffi.cli.fit import QUIET
from ediffi.data.shards import Sample, write_shards
from ediffi.hub.config import read_config
from ediffi.pipeline.checkpoint import find_stage
from ediffi.training import checkpoint as checkpoints

TOP = recipes.folder().parent
STEPS = 2
EMBEDDINGS = {
    "paper": {
        "t5.tokens": (3, 4096),
        "clip_text.tokens": (4, 768),
        "clip_text.pooled": (768,),
        "clip_image.tokens": (1, 768),
        "clip_image.pooled": (768,),
    },
    "emoji": {
        "t5.tokens": (3, 384),
        "t5.pooled": (384,),
        "clip_text.tokens": (4, 128),
        "clip_text.pooled": (128,),
        "clip_image.tokens": (1, 128),
        "clip_image.pooled": (128,),
    },
    "own": {"t5.tokens": (3, 384), "t5.pooled": (384,)},
}
"""Shapes of the embeddings in the shards that a folder of recipes trains on; Toybox's are of its own encoders."""

FIT = {
    "model.compile": False,
    "data.batch_size": 2,
    "data.val_batches": 1,
    "data.num_workers": 0,
    "data.lanes": 1,
    "data.chunk": 2,
    "trainer.accelerator": "cpu",
    "trainer.max_steps": STEPS,
    "trainer.val_check_interval": STEPS,
    "trainer.log_every_n_steps": 1,
    "trainer.enable_progress_bar": False,
    "trainer.enable_model_summary": False,
}
ONE_DEVICE = {
    "data.step_size": 2,
    "trainer.devices": 1,
    "trainer.num_nodes": 1,
    "trainer.strategy": "auto",
    "trainer.precision": "32-true",  # not a size; but bfloat16 is slow where a processor lacks it
}
NETWORK = {
    "unet_toybox": {"channels": 16, "head_channels": 16},
    "efficient_toybox64": {"channels": 24, "head_channels": 16},
    "efficient_toybox256": {"channels": 16},
    "unet_base64": {"channels": 32, "head_channels": 32, "channel_mults": [1, 1, 1, 1], "num_res_blocks": 1},
    "efficient_sr256": {
        "channels": 32,
        "head_channels": 32,
        "channel_mults": [1, 1, 1, 1],
        "num_res_blocks": [1, 1, 1, 1],
    },
    "efficient_sr1024": {
        "channels": 32,
        "head_channels": 32,
        "channel_mults": [1, 1, 1, 1],
        "num_res_blocks": [1, 1, 1, 1],
    },
}
PICTURE = {16: (16, None), 32: (16, None), 64: (16, None), 256: (16, None), 1024: (32, 16)}
"""The side of the pictures, and of their crops, of the small recipe, by that of the recipe."""

pytestmark = [pytest.mark.filterwarnings(f"ignore:{m}") for m in (*QUIET, ".*Checkpoint directory.*")]
Content = dict[str, Any]
Run = Callable[[str], Path]


def content(name: str) -> Content:
    loaded = yaml.safe_load(recipes.path_of(name).read_text())
    assert isinstance(loaded, dict)
    return loaded


@cache
def of_kind(*keys: str) -> list[str]:
    """Names of the recipes that have all of these settings at their top."""
    return [name for name in recipes.names() if set(keys) <= content(name).keys()]


def stages() -> list[str]:
    return [name for name in of_kind("model", "data", "trainer") if "class_path" not in content(name)["model"]]


def modules() -> list[str]:
    """Recipes that name the class of their model, as encoders' do; tests/training/test_train_encoders.py runs them."""
    return [name for name in of_kind("model", "data", "trainer") if "class_path" in content(name)["model"]]


def quick_first(kind: str) -> list[Any]:
    """Recipes of a kind; the paper's have many nodes, and are for another day."""
    names = sorted(of_kind(kind), key=lambda name: name.startswith("paper/"))
    return [pytest.param(name, marks=[pytest.mark.slow] if name.startswith("paper/") else []) for name in names]


def commands(name: str) -> list[list[str]]:
    """The commands of a recipe's header, as words after `ediffi`."""
    lines = recipes.path_of(name).read_text().splitlines()
    return [line.removeprefix("#   ediffi ").split() for line in lines if line.startswith("#   ediffi ")]


def command(name: str) -> list[str]:
    """The first of them that runs the recipe itself."""
    runs = [words for words in commands(name) if words[0] in ("fit", "grow", "compose") and "--dry-run" not in words]
    return next(words for words in runs if f"recipes/{name}.yaml" in words)


def change(settings: Content, changes: Mapping[str, Any]) -> Content:
    """The settings with some of them changed, by dotted name; numbers count list items."""
    settings = copy.deepcopy(settings)
    for name, value in changes.items():
        *path, last = name.split(".")
        place: Any = settings
        for key in path:
            place = place[int(key) if isinstance(place, list) else key]
        place[last] = value
    return settings


def small_stage(name: str) -> Content:
    """A recipe of `ediffi fit` with its sizes and counts made small."""
    recipe = content(name)
    changes = dict(FIT)
    part = recipe["model"]["denoiser"]
    for key, value in NETWORK[part["class_path"].rpartition(".")[2]].items():
        changes[f"model.denoiser.init_args.{key}"] = value
    if "image_size" in recipe["data"]:
        size, crop = PICTURE[recipe["data"]["image_size"]]
        if recipe["data"].get("crop_size") == 64:
            size, crop = 32, 16
        changes |= {"data.image_size": size, "data.crop_size": crop}
    if "devices" in recipe["trainer"]:
        changes |= ONE_DEVICE
    for index, callback in enumerate(recipe["trainer"]["callbacks"]):
        arguments = f"trainer.callbacks.{index}.init_args"
        if callback["class_path"].endswith("ModelCheckpoint"):
            changes[f"{arguments}.every_n_train_steps"] = STEPS
        if callback["class_path"].endswith("SampleGrid"):
            changes[f"{arguments}.sampling.num_inference_steps"] = 2
    return change(recipe, changes)


def small_schedule(name: str) -> Content:
    """A growth schedule of one step a node; the node that is another recipe's run has that one's steps."""
    recipe = content(name)
    each_step = "trainer.callbacks.1.init_args.every_n_train_steps"
    for node in recipe["nodes"]:
        node["steps"] = STEPS if "run" in node else 1
        node["overrides"] = node.get("overrides", {}) | {"trainer.val_check_interval": 1, "data.batch_size": 2}
        node["overrides"][each_step] = 1
    return recipe


@pytest.fixture(scope="module")
def world(shard_folder: Path, new_folder: Callable[[str], Path]) -> Path:
    """A folder as a checkout of small recipes, with data where they look for it."""
    top = new_folder("world")
    shards = {"toybox": shard_folder} | {kind: top / f"{kind}-shards" for kind in EMBEDDINGS}
    for kind in EMBEDDINGS:
        write_shards(shards[kind], (grey_sample(kind, number) for number in range(8)), 4, {"dataset": "random"})
    for name in recipes.names():
        recipe = content(name)
        if name in stages():
            recipe = small_stage(name)
            for key in ("train", "val"):
                place = top / recipe["data"][key]
                place.parent.mkdir(parents=True, exist_ok=True)
                if not place.exists():
                    place.symlink_to(shards[name.partition("/")[0]])
        if "nodes" in recipe:
            recipe = small_schedule(name)
        path = top / "recipes" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    (top / "ediffi").symlink_to(TOP / "ediffi")
    for run in ("emoji/clip", "emoji/clip_style", "emoji-gpu/clip", "emoji-gpu/clip_style"):
        clip = top / "runs" / run / "encoder"  # what the recipe of a CLIP leaves
        clip.parent.mkdir(parents=True)
        clip.symlink_to(TOP / "ediffi/weights/toybox/encoders/clip")
    return top


def grey_sample(kind: str, number: int) -> Sample:
    """A grey picture of 64², and noise in the shapes of a kind's encoders."""
    generator = torch.Generator().manual_seed(number)
    shapes = EMBEDDINGS[kind].items()
    embeddings = {key: torch.randn(*shape, generator=generator).bfloat16() for key, shape in shapes}
    return Sample(f"{number:04d}", Image.new("RGB", (64, 64), (number, number, number)), "grey", embeddings, {})


@pytest.fixture(scope="module")
def run(world: Path) -> Run:
    """Runs a recipe by its own command, after those whose runs it begins with, each once; returns what it made."""

    @cache
    def run(name: str) -> Path:
        for needed in before(name):
            run(needed)
        words = command(name)
        assert main(words) == 0, name
        recipe = yaml.safe_load((world / "recipes" / f"{name}.yaml").read_text())
        if words[0] == "fit":
            return world / recipe["trainer"]["default_root_dir"]
        return world / (f"{recipe['output']}/stage" if words[0] == "grow" else words[words.index("--output") + 1])

    return run


def made_by() -> dict[str, str]:
    """The recipe that makes a run or a stage, by its folder."""
    runs = {content(name)["trainer"]["default_root_dir"]: name for name in stages()}
    return runs | {f"{content(name)['output']}/stage": name for name in of_kind("nodes")}


def before(name: str) -> list[str]:
    """The recipes whose runs a recipe begins with."""
    recipe = content(name)
    places = [recipe.get("start", {}).get("checkpoint", "").removesuffix("/checkpoints/last.ckpt")]
    places += [part["run"] for part in recipe.get("nodes", []) + recipe.get("stages", []) if "run" in part]
    return [made_by()[place] for place in places if place]


@pytest.fixture(autouse=True)
def _there(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world)
    monkeypatch.setattr("ediffi.training.growth.grow._process", main)  # the nodes' commands, without a process for each


def test_every_recipe_is_of_a_kind_that_is_tried_here() -> None:
    kinds = [stages(), modules(), of_kind("nodes"), of_kind("encoder_parts"), of_kind("keep")]
    known = [name for kind in kinds for name in kind]
    assert sorted(known) == sorted(set(known)), "of one kind each"
    assert set(
        recipes.names("toybox/*") + recipes.names("paper/*") + recipes.names("emoji/*") + recipes.names("own/*")
    ) <= set(known)
    assert len(stages()) >= 10


@pytest.mark.parametrize("name", stages())
def test_a_stage_trains_two_steps(name: str, run: Run) -> None:
    trained = checkpoints.read(run(name) / "checkpoints" / "last.ckpt")
    assert trained.expert.steps == STEPS
    assert all(torch.isfinite(weight).all() for weight in trained.weights.values())


@pytest.mark.parametrize("name", quick_first("nodes"))
def test_a_schedule_grows_its_experts(name: str, run: Run) -> None:
    stage = content(name)["stage"]
    ((_, entry),) = [find_stage(run(name))]
    assert (entry["name"], entry["resolution"]) == (stage["name"], stage["resolution"])
    parents = [node.get("parent") for node in content(name)["nodes"]]
    leaves = [node["interval"] for node in content(name)["nodes"] if node["interval"] not in parents]
    grown = [expert["interval"] for expert in entry["experts"]]
    assert sorted(map(str, grown)) == sorted(map(str, leaves))


def test_a_node_s_rate_and_steps_are_its_schedule_s(run: Run, world: Path) -> None:
    """An override of the optimizer's rate is all that a branch needs to say."""
    run("toybox/experts_sr64")
    node = content("toybox/experts_sr64")["nodes"][1]
    place = world / content("toybox/experts_sr64")["output"] / "1-0" / "checkpoints" / "last.ckpt"
    state = torch.load(place, weights_only=True)
    (schedule,), (group,) = state["lr_schedulers"], state["optimizer_states"][0]["param_groups"]
    assert (schedule["total_steps"], group["max_lr"]) == (1, node["overrides"]["model.optimizer.init_args.lr"])


@pytest.mark.parametrize("name", quick_first("encoder_parts"))
def test_the_runs_become_a_cascade(name: str, run: Run) -> None:
    config = read_config(run(name))
    recipe = content(name)
    assert config["name"] == recipe["name"]
    assert [stage["name"] for stage in config["stages"]] == [stage["name"] for stage in recipe["stages"]]
    assert {source: part["name"] for source, part in config["encoders"].items()} == {
        source: part["name"] for source, part in recipe["encoder_parts"].items()
    }
    assert os.path.samefile(run(name).parent, Path.cwd())
