"""What can be wrong in a recipe: what it imports, its values, YAML that does not end."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError

from ediffi.cli.recipes import path_of
from ediffi.io import plain_yaml
from ediffi.io.recipes import one_sentence, recipe_parser
from ediffi.training.estimate.params import count
from tests.faults.harness import Attempt, family
from tests.faults.mutations import changed


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
