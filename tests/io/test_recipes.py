"""What a recipe may import, and how large it may be: refused before anything is imported, built or unfolded."""

import re
from pathlib import Path

import jsonargparse._common
import pytest
import yaml

from ediffi.cli import main
from ediffi.cli.fit import QUIET
from ediffi.cli.recipes import path_of
from ediffi.io import plain_yaml

pytestmark = [pytest.mark.filterwarnings(f"ignore:{message}") for message in QUIET]
LAUGHS = "\n".join(["a0: &a0 [x, x]", *(f"a{k}: &a{k} [*a{k - 1}, *a{k - 1}]" for k in range(1, 40))])
CYCLE = "recipe: &a\n  nodes: [*a]\n"
DEEP = "a: " + "[" * 2000 + "]" * 2000


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (LAUGHS, "more than 100000 values"),
        (CYCLE, r"\*a in line 2 contains itself"),
        (DEEP, "more than 50 levels"),
        ("a: &x {<<: *x}", "contains itself"),
        ("a: " + "x" * 2_000_000, "2000003 characters"),
    ],
)
def test_what_grows_without_end_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        plain_yaml.load(text)


def test_aliases_within_the_limits_are_values() -> None:
    assert plain_yaml.load("a: &x [1, 2]\nb: [*x, *x]\nc: &y 3\nd: *y") == {
        "a": [1, 2],
        "b": [[1, 2], [1, 2]],
        "c": 3,
        "d": 3,
    }


@pytest.mark.parametrize("text", [LAUGHS, CYCLE, DEEP], ids=["laughs", "cycle", "deep"])
@pytest.mark.parametrize(
    "command",
    [
        ["fit", "--config"],
        ["compose", "--output", "out", "--config"],
        ["grow", "--config"],
        ["params"],
        ["data", "filter", "in.tar", "--output", "out", "--config"],
        ["evaluate", "--model", "toybox", "--suite"],
        ["reproduce", "--budget"],
    ],
    ids=lambda words: words[0],
)
def test_every_command_refuses_it(
    command: list[str], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(text)
    assert main([*command, "r.yaml"]) in (1, 2)
    error = capsys.readouterr().err
    assert error.startswith("ediffi: error: ")
    assert error.count("\n") == 1
    assert any(reason in error for reason in ("more than", "contains itself"))
    assert [path.name for path in tmp_path.iterdir()] == ["r.yaml"]


# Imports


@pytest.fixture
def working(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a module that leaves a mark when it is imported, and when its class is built."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("canary.py").write_text(
        "from torch.optim import SGD\nfrom pathlib import Path\nPath('imported').touch()\n"
        "class Mine(SGD):\n    pass\ndef call(*_, **__):\n"
        "    Path('called').touch()\n"
    )
    return tmp_path


def fitted(part: str, value: object, capsys: pytest.CaptureFixture[str]) -> str:
    """The error of `ediffi fit` with a setting of the base recipe replaced."""
    recipe = yaml.safe_load(path_of("toybox/base").read_text())
    *path, last = part.split(".")
    inside = recipe
    for key in path:
        inside = inside[key]
    inside[last] = value
    Path("r.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["fit", "--config", "r.yaml"]) in (1, 2)
    error = capsys.readouterr().err.strip().splitlines()[-1]  # Lightning has logged before
    assert error.startswith("ediffi: error: ")
    return error


SYSTEM = {"class_path": "os.system", "init_args": {"command": "touch called"}}
MINE = {"class_path": "canary.Mine"}
HUB = {"class_path": "torch.hub.load", "init_args": {"repo_or_dir": "a/b", "model": "c"}}


def by_lambda(function: str) -> dict[str, object]:
    return {"class_path": "torch.optim.lr_scheduler.LambdaLR", "init_args": {"lr_lambda": function}}


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("model.optimizer", SYSTEM),
        ("model.optimizer", "os.system"),
        ("model.lr_scheduler", SYSTEM),
        ("model.denoiser", SYSTEM),
        ("trainer.callbacks", [SYSTEM]),
        ("trainer.logger", SYSTEM),
        ("trainer.strategy", SYSTEM),
        ("model.optimizer", MINE),
        ("model.optimizer", {"class_path": "canary.call"}),
        ("model.optimizer", "canary.call"),
        ("trainer.callbacks", [MINE]),
        (
            "model.lr_scheduler",
            by_lambda("canary.call"),
        ),
        (
            "model.optimizer",
            SYSTEM | {"class_path": "ediffi.training.resume.os.system"},
        ),
    ],
)
def test_nothing_else_is_imported_or_called(
    part: str, value: object, working: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = fitted(part, value, capsys)
    assert "may not import" in error or "has no attribute" in error, error
    assert sorted(path.name for path in working.iterdir()) == ["canary.py", "r.yaml"]


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("model.optimizer", HUB, "function torch.hub.load"),
        (
            "model.optimizer",
            {"class_path": "ediffi.training.lightning_module.torch.compile"},
            "function torch.compile",
        ),
        ("model.lr_scheduler", by_lambda("torch.hub.list"), "function torch.hub.list"),
        ("model.optimizer", {"class_path": "torch.nn.Linear"}, "subclass of .*Optimizer"),
        ("model.lr_scheduler", {"class_path": "torch.optim.AdamW"}, "subclass of .*LRScheduler"),
    ],
)
def test_only_classes_of_the_expected_kind_are_taken(
    part: str, value: object, message: str, working: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = fitted(part, value, capsys)
    assert re.search(message, error), error


def test_a_package_of_ones_own_is_named_in_the_environment(
    working: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(jsonargparse._common.parsing_settings, "import_path_verdicts", {})
    monkeypatch.setenv("EDIFFI_IMPORTS", "elsewhere, canary")
    assert "write the shards first" in fitted("model.optimizer", MINE, capsys)
    assert (working / "imported").exists()
