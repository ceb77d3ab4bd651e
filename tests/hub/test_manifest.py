"""Every value of a config is of its type and in its range, or refused in one sentence before anything is built."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ediffi.hub import manifest
from ediffi.hub.config import read_config
from ediffi.hub.models import SHIPPED

CONFIG = json.loads((SHIPPED / "toybox" / "config.json").read_text())
FREE = ("arguments", "packages", "files", "encoders")
"""Mappings whose keys are names, so that any may be left out."""


def places(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value."""
    yield path
    pairs = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in pairs:
        yield from places(value, (*path, key))


def replaced(path: tuple[Any, ...], value: Any) -> Any:
    config = copy.deepcopy(CONFIG)
    inside = config
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = value
    return config


def refused(config: Any) -> bool:
    message = ""
    try:
        manifest.check(config, "config.json")
    except ValueError as error:
        message = str(error)
    assert "\n" not in message
    assert len(message) < 400
    return bool(message)


TYPED = [path for path in places(CONFIG) if path and not set(path[:-1]) & {"arguments", "packages"}]
ODD: list[Any] = [True, float("nan"), float("inf"), 10**19, -1e30, [], {"a": 1}, "x" * 100_000, object]


def test_the_shipped_config_is_complete() -> None:
    manifest.check(CONFIG, "config.json")
    assert len(TYPED) > 100


@pytest.mark.parametrize("path", TYPED, ids=lambda path: ".".join(map(str, path)))
def test_no_value_of_another_type_is_taken(path: tuple[Any, ...]) -> None:
    here: Any = CONFIG
    for key in path:
        here = here[key]
    allowed = [[]] if isinstance(here, list) and not here else []
    allowed += [{"a": 1}] if path[-1] == "arguments" else []
    for odd in ODD:
        if odd not in allowed:
            assert refused(replaced(path, odd)), (path, odd)


@pytest.mark.parametrize("path", TYPED, ids=lambda path: ".".join(map(str, path)))
def test_a_missing_value_is_named(path: tuple[Any, ...]) -> None:
    config = copy.deepcopy(CONFIG)
    inside = config
    for key in path[:-1]:
        inside = inside[key]
    del inside[path[-1]]
    optional = {"guidance_interval", "dynamic_threshold", "paint_weight", "grid", "files", "packages"}
    several = isinstance(inside, list) and inside
    named = len(path) > 1 and path[-2] in FREE
    sampling = path[-1] == "arguments" and path[-2] == "sampling"
    assert refused(config) == (not (path[-1] in optional or several or named or sampling))


OBJECTS = [(), ("stages", 0)]
OBJECTS += [("stages", 0, name) for name in ("denoiser", "noise", "sampling")] + [("stages", 0, "experts", 0)]


@pytest.mark.parametrize("path", OBJECTS, ids=lambda path: ".".join(map(str, path)))
def test_a_key_that_is_not_known_is_refused(path: tuple[Any, ...]) -> None:
    config = copy.deepcopy(CONFIG)
    inside = config
    for key in path:
        inside = inside[key]
    inside["more"] = 1
    assert refused(config)


@pytest.mark.parametrize("odd", [float("nan"), 10**19, "x" * 100_000, [[[[[[[[1]]]]]]]], list(range(5000))])
def test_arguments_are_bounded(odd: Any) -> None:
    assert refused(replaced(("stages", 0, "denoiser", "arguments", "channels"), odd))
    assert refused(replaced(("stages", 0, "sampling", "arguments", "order"), odd))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 5000, "nested too deeply"),
        ('{"format": "ediffi-cascade-2", "format": "ediffi-cascade-2"}', "there twice"),
        ('{"format": ' + "9" * 5000 + "}", "is not JSON"),
        ('{"format": "ediffi-cascade-2"}', "name: Field required"),
        (" " * (11 << 20), "at most"),
        ("\ufeff{}", "is not JSON"),
    ],
)
def test_a_file_that_is_no_config_is_said(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_config(tmp_path)


@pytest.mark.parametrize("name", ["sigma_data", "head_channels", "norm_groups"])
def test_an_argument_that_no_shape_tells_has_no_default(tmp_path: Path, name: str) -> None:
    config = copy.deepcopy(CONFIG)
    del config["stages"][0]["denoiser"]["arguments"][name]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=f"unet_toybox has no {name}"):
        read_config(tmp_path)
