"""What can be wrong in a model folder: its weights, its encoders' files, its config."""

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from ediffi.hub.models import SHIPPED
from ediffi.pipeline.cascade import Cascade
from tests.faults.harness import FAMILIES, Attempt, Family, family
from tests.faults.mutations import changed, damage

MODEL = SHIPPED / "toybox"
PROMPT = "a large red circle and a small blue square"


def model(scratch: Path) -> Path:
    """A copy of the shipped model with one stage, whose files are copied when they are changed."""
    folder = scratch / "model"
    shutil.copytree(MODEL, folder, ignore=shutil.ignore_patterns("sr*", "*.png", "training.json"))
    for place in (MODEL / "encoders").rglob("training.json"):
        shutil.copy(place, folder / place.relative_to(MODEL))
    config = json.loads((MODEL / "config.json").read_text())
    config["stages"] = config["stages"][:1]
    write(folder, config)
    return folder


def write(folder: Path, config: Any) -> None:
    (folder / "config.json").write_text(json.dumps(config, default=str))


def paint(folder: Path, residency: Any = "resident") -> bytes:
    cascade = Cascade.from_pretrained(folder, expert_residency=residency)
    return cascade(PROMPT, seed=1, num_inference_steps=2).images[0].tobytes()


@cache
def painted() -> bytes:
    return Cascade.from_pretrained(MODEL, stages=["base"])(PROMPT, seed=1, num_inference_steps=2).images[0].tobytes()


def compared(folder: Path, residency: Any = "resident") -> Attempt:
    expected = painted()
    return lambda: None if paint(folder, residency) == expected else "another picture"


def weights(folder: Path) -> Path:
    return next(folder.glob("*.safetensors"))


def encoder_file(rng: random.Random, folder: Path, suffix: str = "") -> Path:
    listed = json.loads((folder / "config.json").read_text())["files"]
    return folder / rng.choice(sorted(name for name in listed if name.endswith(suffix)))


def listed_again(folder: Path, path: Path) -> None:
    """The config lists the bytes that are there: whoever made the model lies, and consistently."""
    config = json.loads((folder / "config.json").read_text())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    name = path.relative_to(folder).as_posix()
    if name in config["files"]:
        config["files"][name] = digest
    for row in config["stages"][0]["experts"]:
        row["sha256"] = digest if row["file"] == name else row["sha256"]
    write(folder, config)


def _damaged(which: Callable[[random.Random, Path], Path], kind: str) -> Family:
    def prepare(rng: random.Random, scratch: Path) -> Attempt:
        folder = model(scratch)
        damage(rng, which(rng, folder), kind)
        return compared(folder, rng.choice(["resident", "stream"]))

    return prepare


for _kind in ("bits", "cut", "zeros"):
    FAMILIES[f"weights {_kind}"] = _damaged(lambda rng, folder: weights(folder), _kind)
    FAMILIES[f"encoder {_kind}"] = _damaged(encoder_file, _kind)


def _tensors(change: Callable[[random.Random, dict[str, torch.Tensor], str], None], suffix: str) -> Family:
    """A change of one tensor under a hash that is right again."""

    def prepare(rng: random.Random, scratch: Path) -> Attempt:
        folder = model(scratch)
        path = encoder_file(rng, folder, ".safetensors") if suffix == "encoder" else weights(folder)
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata()
        state = safetensors.torch.load(path.read_bytes())
        change(rng, state, rng.choice(sorted(state)))
        path.unlink()
        safetensors.torch.save_file({key: value.contiguous() for key, value in state.items()}, path, metadata)
        listed_again(folder, path)
        return compared(folder)

    return prepare


def _value(rng: random.Random, state: dict[str, torch.Tensor], key: str) -> None:
    state[key] = state[key].clone().float()
    flat = state[key].view(-1)
    flat[rng.randrange(len(flat))] = rng.choice([float("nan"), float("inf"), -float("inf"), 1e30])


def _dtype(rng: random.Random, state: dict[str, torch.Tensor], key: str) -> None:
    state[key] = (
        state[key].float().to(rng.choice([torch.int8, torch.uint8, torch.bool, torch.int64, torch.float8_e4m3fn]))
    )


def _shape(rng: random.Random, state: dict[str, torch.Tensor], key: str) -> None:
    whole = state[key].reshape(-1)
    state[key] = rng.choice([whole[:-1], whole[None, None], torch.cat([whole, whole]), whole[:0]])


def _missing(rng: random.Random, state: dict[str, torch.Tensor], key: str) -> None:
    value = state.pop(key)
    if rng.random() < 0.5:
        state[f"{key}.more"] = value


for _name, _change in {"value": _value, "dtype": _dtype, "shape": _shape, "missing": _missing}.items():
    FAMILIES[f"weights {_name}, listed"] = _tensors(_change, "")
FAMILIES["encoder missing tensor, listed"] = _tensors(_missing, "encoder")


@family
def encoder_file_removed(rng: random.Random, scratch: Path) -> Attempt:
    folder = model(scratch)
    encoder_file(rng, folder).unlink()
    return compared(folder)


@family
def encoder_file_added(rng: random.Random, scratch: Path) -> Attempt:
    folder = model(scratch)
    names = ["adapter_config.json", "adapter_model.safetensors", "special_tokens_map.json", "pytorch_model.bin", "a.py"]
    names += ["merges.txt", "chat.jinja"]
    (folder / "encoders" / rng.choice(["t5", "clip"]) / rng.choice(names)).write_text("{}")
    return compared(folder)


@family
def streamed_file_overwritten(rng: random.Random, scratch: Path) -> Attempt:
    folder = scratch / "model"
    shutil.copytree(MODEL, folder)
    cascade = Cascade.from_pretrained(folder, expert_residency="stream", stages=["base", "sr64"])
    call = {"seed": 1, "num_inference_steps": [2, 2]}
    expected = cascade(PROMPT, **call).images[0].tobytes()
    damage(rng, rng.choice(sorted(folder.glob("sr64*.safetensors"))), rng.choice(["bits", "cut"]))
    return lambda: None if cascade(PROMPT, **call).images[0].tobytes() == expected else "another picture"


def _config(remove: bool) -> Family:
    def prepare(rng: random.Random, scratch: Path) -> Attempt:
        folder = model(scratch)
        write(folder, changed(rng, json.loads((folder / "config.json").read_text()), remove))

        def attempt() -> None:  # a value that the schema takes is another model, and no fault
            paint(folder)

        return attempt

    return prepare


FAMILIES["config types"], FAMILIES["config missing"] = _config(False), _config(True)


@family
def config_text(rng: random.Random, scratch: Path) -> Attempt:
    folder = model(scratch)
    text = (folder / "config.json").read_text()
    start = rng.randrange(len(text))
    worse = [text[:start], "[" * 10**5, text + text, text.replace(":", "", 1), "\ufeff" + text, "", "null", "[]", "\0"]
    (folder / "config.json").write_text(rng.choice(worse))
    return compared(folder)
