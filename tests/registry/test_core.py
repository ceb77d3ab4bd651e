"""The registry: a factory's name is its name; what is unknown, taken or mistyped is refused in words."""

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jsonargparse import ArgumentError, ArgumentParser

from ediffi.registry.core import Registry, UnknownNameError, variant


def crimson(strength: float = 1.0) -> str:
    """A deep red."""
    return f"crimson x {strength}"


def scarlet(strength: float = 1.0, *, hue: str = "orange") -> str:
    return f"scarlet x {strength}, {hue}"


def anything(**settings: object) -> str:
    return repr(settings)


@pytest.fixture
def colours() -> Registry[str]:
    registry = Registry[str]("colours")
    for factory in (scarlet, crimson, anything):
        registry.register(factory)
    return registry


def test_registering_returns_the_factory_itself(colours: Registry[str]) -> None:
    assert colours.register(crimson) is crimson
    assert colours.factory("crimson") is crimson


def test_create_is_the_call(colours: Registry[str]) -> None:
    assert colours.create("crimson") == crimson()
    assert colours.create("scarlet", strength=2.0, hue="pink") == scarlet(2.0, hue="pink")
    assert colours.create("anything", name="x") == anything(name="x")


def test_names_are_sorted_and_take_wildcards(colours: Registry[str]) -> None:
    assert colours.names() == list(colours) == ["anything", "crimson", "scarlet"]
    assert colours.names("*c*r*") == ["crimson", "scarlet"]
    assert colours.names("C*") == []
    assert "crimson" in colours
    assert "crim" not in colours
    assert 7 not in colours


@given(st.sets(st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)))
def test_every_registered_name_is_found_again(names: set[str]) -> None:
    registry = Registry[str]("words")
    for name in names:
        factory = lambda name=name: name  # noqa: E731
        factory.__name__ = name
        registry.register(factory)
    assert registry.names() == sorted(names)
    assert all(name in registry and registry.create(name) == name for name in names)


def test_a_taken_name_is_refused_and_the_first_stays(colours: Registry[str]) -> None:
    def impostor() -> str:
        return "not crimson"

    impostor.__name__ = "crimson"
    with pytest.raises(ValueError, match=rf"colours: 'crimson' is already registered by {__name__}\.crimson"):
        colours.register(impostor)
    assert colours.factory("crimson") is crimson


def test_an_unknown_name_lists_the_near_ones(colours: Registry[str]) -> None:
    with pytest.raises(UnknownNameError, match=r"^no colour named 'crimsn'; did you mean crimson\?$"):
        colours.create("crimsn")


def test_a_far_name_lists_all(colours: Registry[str]) -> None:
    with pytest.raises(UnknownNameError, match=r"known: anything, crimson, scarlet$"):
        colours.describe("0")
    with pytest.raises(UnknownNameError, match=r"known: none$"):
        Registry[str]("colours").factory("0")


def test_an_argument_the_factory_lacks_is_refused(colours: Registry[str]) -> None:
    with pytest.raises(ValueError, match="crimson takes no argument 'strenght'; it takes strength"):
        colours.create("crimson", strenght=2.0)


def test_describe_tells_source_arguments_and_purpose(colours: Registry[str]) -> None:
    text = colours.describe("crimson")
    assert text.splitlines()[0] == f"crimson (colours, from {__name__})"
    assert "  strength: float = 1.0" in text.splitlines()
    assert text.endswith("A deep red.")
    assert colours.describe("anything").endswith("(no description)")


# Plug-ins: another distribution names its factory in the entry-point group `ediffi.<kind>`.


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """Install a distribution with one module, `paint_plugin`, and one entry point in `ediffi.colours`."""

    def write(code: str, entry_point: str) -> None:
        (tmp_path / "paint_plugin.py").write_text(code)
        information = tmp_path / "paint_plugin-1.0.dist-info"
        information.mkdir()
        (information / "METADATA").write_text("Metadata-Version: 2.1\nName: paint-plugin\nVersion: 1.0\n")
        (information / "entry_points.txt").write_text(f"[ediffi.colours]\n{entry_point}\n")
        monkeypatch.syspath_prepend(tmp_path)
        importlib.invalidate_caches()

    yield write
    sys.modules.pop("paint_plugin", None)


def test_a_plugin_is_picked_up_at_the_first_look_up(install: Callable[[str, str], None]) -> None:
    install("def teal(depth: int = 1):\n    return 'teal' * depth\n", "teal = paint_plugin:teal")
    registry = Registry[str]("colours")
    assert "paint_plugin" not in sys.modules
    assert registry.names() == ["teal"]
    assert registry.create("teal", depth=2) == "tealteal"
    assert Registry[str]("sounds").names() == []


def test_a_plugin_may_look_names_up_and_register_itself(
    install: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry[str]("colours")
    monkeypatch.setattr(sys.modules[__name__], "PAINTS", registry, raising=False)
    monkeypatch.setitem(sys.modules, "the_menu", sys.modules[__name__])
    code = "from the_menu import PAINTS\nBEFORE = PAINTS.names()\n@PAINTS.register\ndef teal():\n    return BEFORE\n"
    install(code, "teal = paint_plugin:teal")
    assert registry.create("teal") == []


@pytest.mark.parametrize(
    ("code", "entry_point", "message"),
    [
        ("def teal(): ...", "blue = paint_plugin:teal", "'blue' .*a factory named 'teal'; the two names must be"),
        ("teal = 3", "teal = paint_plugin:teal", "a factory named None"),
        (
            "import no_such_thing",
            "teal = paint_plugin:teal",
            "cannot be loaded: ModuleNotFoundError: .*no_such_thing",
        ),
        ("import registry.denoisers", "teal = paint_plugin:teal", "cannot be loaded: .*imported as ediffi.registry"),
        ("", "teal = paint_plugin:teal", "cannot be loaded: AttributeError"),
    ],
)
def test_a_broken_plugin_is_named_each_time(
    install: Callable[[str, str], None], code: str, entry_point: str, message: str
) -> None:
    install(code, entry_point)
    registry = Registry[str]("colours")
    for _ in range(2):
        with pytest.raises(ValueError, match=message):
            registry.names()


def test_a_plugin_cannot_take_a_name(install: Callable[[str, str], None], colours: Registry[str]) -> None:
    install("def crimson(): ...", "crimson = paint_plugin:crimson")
    with pytest.raises(ValueError, match="'crimson' is already registered"):
        colours.names()


# YAML: a registered factory is addressed by its path, and its arguments are checked before anything is built.


class Stage(torch.nn.Module):
    """What a recipe describes: an object that receives built parts."""

    def __init__(self, denoiser: torch.nn.Module, learning_rate: float = 1e-4) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.learning_rate = learning_rate


def parse(tmp_path: Path, init_args: str, class_path: str = "ediffi.registry.denoisers.unet_toybox") -> Stage:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"stage:\n  denoiser:\n    class_path: {class_path}\n    init_args: {init_args}\n")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(Stage, "stage")
    return parser.instantiate(parser.parse_args([f"--config={recipe}"])).stage


def test_a_registered_factory_is_built_from_yaml(tmp_path: Path) -> None:
    from ediffi.registry import denoisers

    stage = parse(tmp_path, "{channels: 32, head_channels: 16}")
    twin = denoisers.create("unet_toybox", channels=32, head_channels=16)
    assert type(stage.denoiser) is type(twin)
    assert [p.shape for p in stage.denoiser.parameters()] == [p.shape for p in twin.parameters()]


@pytest.mark.parametrize(
    ("init_args", "message"),
    [
        ("{chanels: 32}", "'chanels' is not accepted"),
        ("{channels: many}", "Expected a <class 'int'>. Got value: many"),
        ("{attention_levels: [one]}", "one"),
    ],
)
def test_a_wrong_option_is_refused_at_parse_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, init_args: str, message: str
) -> None:
    built = []
    monkeypatch.setattr(torch.nn.Module, "__init__", lambda *_: built.append(1))
    with pytest.raises(ArgumentError, match=message):
        parse(tmp_path, init_args)
    assert not built


def test_an_unknown_part_is_refused_at_parse_time(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="unet_toybx"):
        parse(tmp_path, "{}", "ediffi.registry.denoisers.unet_toybx")


# Variants


def parent(size: int = 1, depth: int = 2, *, name: str = "p") -> tuple[Any, ...]:
    """A parent."""
    return size, depth, name


@variant(parent, size=5)
def child(**arguments: Any) -> tuple[Any, ...]:
    """A child."""
    return parent(**arguments)


@variant(child, without=["depth"], name="g")
def grandchild(**arguments: Any) -> tuple[Any, ...]:
    """Its child."""
    return child(depth=0, **arguments)


def test_a_variant_is_its_parent_with_other_defaults() -> None:
    assert (
        str(inspect.signature(child)) == "(size: int = 5, depth: int = 2, *, name: str = 'p') -> tuple[typing.Any, ...]"
    )
    assert str(inspect.signature(grandchild)) == "(size: int = 5, *, name: str = 'g') -> tuple[typing.Any, ...]"
    assert (child(), child(7, name="x"), grandchild(), grandchild(3)) == (
        (5, 2, "p"),
        (7, 2, "x"),
        (5, 0, "g"),
        (3, 0, "g"),
    )
    assert (child.__name__, child.__doc__) == ("child", "A child.")
    with pytest.raises(TypeError, match="depth"):
        grandchild(depth=1)


def test_a_variant_of_an_argument_that_is_not_there() -> None:
    for arguments in ({"dept": 1}, {"without": ["dept"]}):
        with pytest.raises(TypeError, match="parent has no argument 'dept'"):
            variant(parent, **arguments)  # type: ignore[arg-type]
