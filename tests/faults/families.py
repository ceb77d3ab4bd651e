"""What can be wrong, by family: files of a model, its config, a recipe, a Hub, a request to the studio."""

import asyncio
import copy
import hashlib
import json
import random
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import safetensors.torch
import torch
import yaml
from jsonargparse import ArgumentError

from ediffi.cli.recipes import path_of
from ediffi.hub.models import SHIPPED
from ediffi.io import hub_client, plain_yaml
from ediffi.io.recipes import one_sentence, recipe_parser
from ediffi.pipeline.cascade import Cascade
from ediffi.studio.gallery import Gallery
from ediffi.studio.guard import Guard
from ediffi.training.estimate.params import count
from tests.faults.harness import Attempt, Family

MODEL = SHIPPED / "toybox"
PROMPT = "a large red circle and a small blue square"
ODD: list[Any] = [True, None, -1, 0, 10**19, 1e300, float("nan"), float("inf"), "", "x", "x" * 10**5, [], {}, [[]]]
ODD += [{"a": 1}, [10**400], "\ud800", -(10**9), "../x", "/etc/passwd", 0.5, [1, "a"], list(range(10**5))]
FAMILIES: dict[str, Family] = {}


def family(function: Family) -> Family:
    FAMILIES[function.__name__.replace("_", " ")] = function
    return function


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


def damage(rng: random.Random, path: Path, kind: str) -> None:
    content = bytearray(path.read_bytes())
    if kind == "bits":
        for _ in range(rng.choice([1, 1, 8])):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del content[rng.randrange(len(content)) :]
    elif kind == "zeros":
        start = rng.randrange(len(content))
        content[start : start + rng.randrange(1, 4096)] = bytes(len(content[start : start + 4096]))
    path.unlink()
    path.write_bytes(content)


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


# The config


def places(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    pairs = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in pairs:
        yield (*path, key)
        yield from places(value, (*path, key))


def changed(rng: random.Random, config: Any, remove: bool = False) -> Any:
    config = copy.deepcopy(config)
    *path, last = rng.choice(list(places(config)))
    inside = config
    for key in path:
        inside = inside[key]
    if remove:
        del inside[last]
    else:
        inside[last] = rng.choice([odd for odd in ODD if type(odd) is not type(inside[last])])
    return config


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


# Recipes


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


# A server of the Hub, and the studio


def _answer(headers: dict[str, str], method: str = "HEAD", path: str = "/a/b/resolve/main/config.json") -> Any:
    return httpx.Response(200, headers=headers, request=httpx.Request(method, f"http://hub{path}"), stream=None)


@family
def hub_headers(rng: random.Random, scratch: Path) -> Attempt:
    target = scratch.parent / "written"
    ups = ["../" * rng.randrange(1, 9) + "x", str(target), "a/b", "..", ".", "a\\b", "x" * 999, "", " ", "%2e%2e%2fx"]
    name = rng.choice(["etag", "x-linked-etag", "x-repo-commit", "content-length", "x-linked-size"])
    lies = ["-1", "1e9", str(10**15), str(hub_client.CONFIG + 1)] if name.endswith(("length", "size")) else ups
    answer = _answer({name: rng.choice(lies)})

    def attempt() -> str:
        hub_client._check_response(answer)
        return "it was taken"

    return attempt


@family
def studio_requests(rng: random.Random, scratch: Path) -> Attempt:
    (scratch / "secret.png").write_bytes(b"secret")
    guard = Guard(_application, Gallery(scratch / "images"), "127.0.0.1", 7860)
    good = {"host": "127.0.0.1:7860", "cookie": f"{guard.cookie}={guard.token}", "origin": "http://127.0.0.1:7860"}
    wrong = [{"host": f"evil{rng.randrange(99)}.com"}, {"origin": f"http://127.0.0.1:{rng.randrange(1, 7000)}"}]
    wrong += [{"origin": "null"}, {"cookie": ""}, {"cookie": f"{guard.cookie}=x"}, {"sec-fetch-site": "cross-site"}]
    files = [
        "/gallery/../secret.png",
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/proxy=http://a",
        "/gallery/%2e%2e/a",
    ]
    if rng.random() < 0.5:
        headers, path = {**good, **rng.choice(wrong)}, rng.choice(["/config", "/gradio_api/queue/join", *files])
    else:
        headers, path = good, rng.choice(files)

    def attempt() -> Any:
        status: list[int] = []

        async def send(message: Any) -> None:
            status.extend([message["status"]] if "status" in message else [])

        async def receive() -> Any:
            await asyncio.sleep(60)

        fields = [(name.encode(), value.encode()) for name, value in headers.items()]
        asyncio.run(guard({"type": "http", "method": "POST", "path": path, "headers": fields}, receive, send))
        if status[0] in (403, 404):
            raise ValueError(f"refused with {status[0]}")
        return f"{path} was answered with {status[0]}"

    return attempt


async def _application(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
