"""What can be wrong in a recipe: what it imports, its values, YAML that does not end."""

import copy
import json
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError

from ediffi.cli.recipes import path_of
from ediffi.io import plain_yaml
from ediffi.io.recipes import one_sentence, recipe_parser
from ediffi.training.estimate.params import count
from tests.faults import runs
from tests.faults.harness import Attempt, command, family
from tests.faults.mutations import ODD, changed, places


@family
def recipe_imports(rng: random.Random, scratch: Path) -> Attempt:
    (scratch / "canary_module.py").write_text(f"open({str(scratch / 'canary')!r}, 'w')\nclass Mine: pass\n")
    paths = ["os.system", "subprocess.run", "builtins.exec", "canary_module.Mine", "shutil.rmtree", "posix.system"]
    paths += [
        "runpy.run_path",
        "importlib.import_module",
        "pickle.load",
        "ctypes.CDLL",
        "webbrowser.open",
        "code.interact",
    ]
    recipe = yaml.safe_load(path_of("toybox/base").read_text())
    touch = {"command": f"touch {scratch / 'canary'}"}
    recipe["model"]["denoiser"] = {"class_path": rng.choice(paths), "init_args": touch}
    path = scratch / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return lambda: count(path) and "it was imported"


@family
def recipe_values(rng: random.Random, scratch: Path) -> Attempt:
    recipe = yaml.safe_load(path_of("toybox/base").read_text())
    recipe["model"] = {"denoiser": changed(rng, recipe["model"]["denoiser"])}
    path = scratch / "recipe.yaml"
    path.write_text(json.dumps(recipe))

    def attempt() -> None:
        count(path)

    return attempt


@family
def yaml_without_an_end(rng: random.Random, scratch: Path) -> Attempt:
    width, depth = rng.randrange(2, 9), rng.randrange(20, 60)
    laughs = "\n".join(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * width) if k else 'x'}]" for k in range(depth))
    text = rng.choice([laughs, "&a [*a]", "a: &a {b: *a}", "[" * rng.randrange(60, 10**4), "a: " + "x" * (2 << 20)])
    reading = [plain_yaml.load, lambda text: recipe_parser().parse_string(text)]
    read: Callable[[str], Any] = rng.choice(reading)

    def attempt() -> Any:
        try:
            return read(text) and "it was read"
        except ArgumentError as error:  # the commands print it like this
            raise ValueError(one_sentence(error)) from None

    return attempt


FREE = {"max_steps", "max_epochs", "num_nodes", "accumulate_grad_batches", "default_root_dir", "dirpath"}
FREE |= {"train", "val"}
"""Settings of which any value is what the user asked for: a run that does not end, or waits for machines; a folder."""


@cache
def settings() -> dict[str, Any]:
    """A recipe of one step, with its defaults that users change."""
    recipe = yaml.safe_load(path_of("toybox/base").read_text())
    shards = str(runs.shards())
    network = {"channels": 8, "head_channels": 8, "norm_groups": 4, "context_width": 8, "tokens": {"t5": runs.WIDTH}}
    recipe["model"]["denoiser"]["init_args"] |= {**network, "pooled": {}}
    recipe["model"] |= {"dropout": {"t5": 0.1}, "compile": False, "seed": 1}
    recipe["model"]["lr_scheduler"]["init_args"]["total_steps"] = 10
    recipe["data"] |= {"train": shards, "val": shards, "image_size": runs.SIZE, "crop_size": None, "batch_size": 2}
    recipe["data"] |= {"val_batches": 1, "num_workers": 0, "lanes": 1, "max_skipped": 0.1, "background": "white"}
    recipe["trainer"] |= {"max_steps": 1, "limit_val_batches": 1, "precision": "32-true", "devices": 1, "num_nodes": 1}
    recipe["trainer"] |= {"accelerator": "cpu", "strategy": "auto", "gradient_clip_val": 1.0, "logger": False}
    recipe["trainer"] |= {"enable_progress_bar": False, "val_check_interval": 1, "log_every_n_steps": 1}
    recipe["trainer"]["callbacks"] = recipe["trainer"]["callbacks"][:2]
    return dict(recipe)


@family
def recipe_settings(rng: random.Random, scratch: Path) -> Attempt:
    """One value of a whole recipe is of another type, or a number far away, and a step is trained."""
    recipe = copy.deepcopy(settings())
    recipe["trainer"]["default_root_dir"] = str(scratch / "run")
    recipe["trainer"]["callbacks"][1]["init_args"] |= {"dirpath": str(scratch / "run"), "every_n_train_steps": 1}
    chosen = rng.choice([path for path in places(recipe) if not FREE & set(path)])
    inside = recipe
    for key in chosen[:-1]:
        inside = inside[key]
    value = inside[chosen[-1]]
    far = [99, 10**9, -(10**9)] if isinstance(value, int | float) and not isinstance(value, bool) else []
    inside[chosen[-1]] = rng.choice([*far, *(odd for odd in ODD if type(odd) is not type(value))])
    path = scratch / "recipe.yaml"
    path.write_text(json.dumps(recipe))

    def attempt() -> None:  # another valid setting is another run
        command("fit", "--config", path)

    return attempt
