"""The command line: light, typed by signatures, and one clear line for every wrong input."""

import ast
import logging
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest

import ediffi
from ediffi import cli
from ediffi.cli import recipes
from ediffi.cli.parser import UsageError, call, command_parser, run
from ediffi.hub import models

ROOT = Path(__file__).resolve().parents[2]
ALL = {name: place for group in cli.COMMANDS.values() for name, place in group.items()}


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The only thing printed: one line that begins as all errors do."""
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("ediffi: error: ")
    assert printed.err.count("\n") == 1
    return printed.err.removeprefix("ediffi: error: ").rstrip("\n")


# The overview


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    printed = capsys.readouterr().out
    for name, (_, text) in ALL.items():
        assert any(line.split(maxsplit=1) == [name, text] for line in printed.splitlines())
    assert cli.main([]) == 0
    assert capsys.readouterr().out == printed


def test_help_of_a_command_by_word(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    overview = capsys.readouterr().out
    assert cli.main(["help"]) == 0
    assert capsys.readouterr().out == overview
    assert cli.main(["help", "data"]) == 0
    assert capsys.readouterr().out.startswith("usage: ediffi data COMMAND")
    with pytest.raises(SystemExit) as stop:
        cli.main(["help", "data", "import"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith("usage: ediffi data import")
    assert cli.main(["hlep"]) == 2
    assert error_line(capsys) == "no command named 'hlep'; did you mean help?"
    assert cli.main(["help", "imprt"]) == 2
    assert error_line(capsys).startswith("no command named 'imprt'")


@pytest.mark.parametrize(
    ("words", "near"),
    [
        ("compose --config toybox/cascade --outpt x", "no setting named 'outpt'; did you mean output"),
        ("compose --config aug.yaml --output x", "no setting named 'aug_levl'; did you mean aug_level"),
        ("compose --config guidance.yaml --output x", "no setting named 'guidance_scal'; did you mean guidance_scale"),
        ("compose --config toybox/cascad --output x", "no recipe named 'toybox/cascad'; did you mean toybox/cascade"),
        ("grow --config toybox/experts_base --nodez 1", "no setting named 'nodez'; did you mean node"),
        ("grow --config toybox/experts_base --dry-run jsn", "--dry-run is given alone, or with json, got 'jsn'"),
        ("params toybox/bse", "no file or recipe named 'toybox/bse'; did you mean toybox/base"),
        (
            "fit --config toybox/base --trainer.callbacks.init_args.num_imags 3",
            "did you mean trainer.callbacks.init_args.num_images",
        ),
        ("fit --config toybox/base --trainer.max_step 3", "'trainer.max_step'; did you mean trainer.max_steps"),
    ],
)
def test_near_names_at_any_depth(
    words: str, near: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    cascade = recipes.path_of("toybox/cascade").read_text(encoding="utf-8")
    Path("aug.yaml").write_text(cascade.replace("aug_level", "aug_levl"))
    Path("guidance.yaml").write_text(cascade.replace("guidance_scale", "guidance_scal"))
    assert cli.main(words.split()) in (1, 2)
    assert near in error_line(capsys)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"ediffi {ediffi.__version__}\n"


def test_every_command_is_there_and_every_module_is_a_command() -> None:
    for place, _ in ALL.values():
        module, _, attribute = place.partition(":")
        place_of = ROOT.joinpath(*module.split("."))
        path = place_of / "__init__.py" if place_of.is_dir() else place_of.with_suffix(".py")
        tree = ast.parse(path.read_text(encoding="utf-8"))
        bound = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        bound |= {ast.unparse(node.targets[0]) for node in tree.body if isinstance(node, ast.Assign)}
        assert attribute in bound, place
    found = {path.stem for path in (ROOT / "ediffi" / "cli").iterdir() if path.suffix == ".py" or path.is_dir()}
    modules = found - {"__init__", "__pycache__", "parser", "recipe_check"}
    assert modules == {place.partition(":")[0].rpartition(".")[2] for place, _ in ALL.values()}


def test_only_the_module_of_the_command_is_imported() -> None:
    code = (
        "import sys; from ediffi import cli; cli.main(['recipes', 'ls'])\n"
        "print([name for name in sys.modules if name.startswith('ediffi.')], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = [name for name in ast.literal_eval(done.stderr) if name.startswith("ediffi.cli")]
    assert loaded == ["ediffi.cli.parser", "ediffi.cli", "ediffi.cli.recipes"]


def test_what_lists_say_of_recipes_and_models_are_whole_sentences() -> None:
    said = {name: recipes.path_of(name).read_text(encoding="utf-8").partition("\n")[0] for name in recipes.names()}
    said |= {name: model.description for name in models.names() if (model := models.find(name))}
    assert {name for name, line in said.items() if not line.endswith(".")} == set()


def test_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["smaple"]) == 2
    assert error_line(capsys) == "no command named 'smaple'; did you mean sample or completion?"


# A function's signature as a command


calls: list[tuple[object, ...]] = []


def paint(
    prompt: str,
    *,
    output: Path = Path("out.png"),
    num_images: int = 1,
    guidance_scale: float | None = None,
    sampler: Literal["euler", "heun"] = "heun",
    quiet: bool = False,
    steps: list[int] | None = None,
) -> None:
    """Paint 100 % of a picture.

    Args:
        prompt: what to
            paint
        num_images: how many, all 100 % fresh
    """
    calls.append((prompt, output, num_images, guidance_scale, sampler, quiet, steps))


@pytest.fixture(autouse=True)
def _no_calls_yet() -> None:
    calls.clear()


DEFAULTS = ("a cat", Path("out.png"), 1, None, "heun", False, None)


@pytest.mark.parametrize(
    ("argv", "changed"),
    [
        ([], {}),
        (["--num-images", "3"], {2: 3}),
        (["--num_images=3"], {2: 3}),
        (["-o", "a_b.png"], {1: Path("a_b.png")}),
        (["--output=a_b.png"], {1: Path("a_b.png")}),
        (["--guidance-scale", "7"], {3: 7.0}),
        (["--guidance-scale", "-7.5"], {3: -7.5}),
        (["--sampler", "euler"], {4: "euler"}),
        (["--quiet"], {5: True}),
        (["--steps", "20"], {6: [20]}),
        (["--steps", "[20, 10]"], {6: [20, 10]}),
        (["--quiet", "--no-quiet"], {}),
    ],
)
def test_options_come_from_the_signature(argv: list[str], changed: dict[int, object]) -> None:
    assert run(paint, ["a cat", *argv], "paint") == 0
    assert calls == [tuple(changed.get(index, value) for index, value in enumerate(DEFAULTS))]


@pytest.mark.parametrize("prompt", ["12", "null", "a: b", "[1, 2", "{}", "", "x" * 10_000, "ünï ☃"])
def test_a_prompt_is_taken_literally(prompt: str) -> None:
    run(paint, [prompt], "paint")
    assert calls[0][0] == prompt


@pytest.mark.parametrize("text", ["null", "~", "&a", "*a", "true", "5", "[1, 2"])
def test_a_text_that_may_be_left_out_is_taken_literally_too(text: str) -> None:
    def command(prompt: str | None = None, /, negative_prompt: str | None = None) -> None:
        found.append((prompt, negative_prompt))

    found: list[tuple[str | None, str | None]] = []
    for argv in ([text, "--negative-prompt", text], []):
        run(command, argv, "command")
    assert found == [(text, text), (None, None)]


def test_after_two_dashes_nothing_is_an_option() -> None:
    run(paint, ["--quiet", "--", "--num_images"], "paint")
    assert calls == [("--num_images", *DEFAULTS[1:5], True, None)]


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ([], "missing: PROMPT"),
        (["x", "--num-images", "three"], "--num-images expects int, got 'three'"),
        (["x", "--num-images", "2.5"], "--num-images expects int, got '2.5'"),
        (["x", "--num-images"], "argument --num-images: expected one argument"),
        (["x", "--guidance-scale", "high"], "--guidance-scale expects float, got 'high'"),
        (["x", "--steps", "few"], "--steps expects int or [int,...], got 'few'"),
        (["x", "--steps", "[1, few]"], "--steps expects int or [int,...], got "),
        (["x", "--sampler", "hoin"], "--sampler expects one of euler, heun, got 'hoin'"),
        (["x", "--num-image", "3"], "no option named '--num-image'; did you mean --num-images"),
        (["red", "circle", "left"], "unexpected argument 'circle left'; quote"),
    ],
)
def test_a_wrong_option_is_one_sentence(argv: list[str], sentence: str) -> None:
    with pytest.raises(UsageError) as error:
        run(paint, argv, "paint")
    assert str(error.value).startswith(sentence)
    assert str(error.value).endswith(" (see ediffi paint --help)")
    assert "\n" not in str(error.value)
    assert not calls


def test_the_docstring_is_the_help() -> None:
    text = command_parser(paint, "paint").format_help()
    assert "usage: ediffi paint" in text
    assert "Paint 100 % of a picture." in text
    assert "what to paint" in " ".join(text.split())
    assert "how many, all 100 % fresh (default: 1)" in " ".join(text.split())
    assert "-o PATH, --output PATH" in text
    assert "_" not in text


def test_help_of_one_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        run(paint, ["--help"], "paint")
    assert left.value.code == 0
    assert capsys.readouterr().out == command_parser(paint, "paint").format_help()


def test_the_code_a_command_returns_is_the_exit_code() -> None:
    def three() -> int:
        return 3

    assert run(three, [], "three") == 3


def test_a_group_names_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert call((paint,), [], "pictures") == 0
    assert "  paint      Paint 100 % of a picture." in capsys.readouterr().out
    with pytest.raises(UsageError, match="no command of ediffi pictures named 'pant'; did you mean paint"):
        call((paint,), ["pant"], "pictures")
    with pytest.raises(UsageError, match=r"see ediffi pictures paint --help"):
        call((paint,), ["paint"], "pictures")


# What a command raises


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ValueError("steps must be\n  above 0"), 1, "steps must be above 0"),
        (FileNotFoundError(2, "No such file or directory", "model/config.json"), 1, "model/config.json: No such file"),
        (PermissionError(13, "Permission denied", "/out.png"), 1, "/out.png: Permission denied"),
        (FileExistsError("out.png is there already"), 1, "out.png is there already"),
        (OSError(28, "No space left on device"), 1, "[Errno 28] No space left on device"),
        (UsageError("no such option"), 2, "no such option"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_bad_input_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, line: str
) -> None:
    def fail(argv: list[str]) -> int:
        raise error

    monkeypatch.setattr(recipes, "COMMANDS", fail)
    assert cli.main(["recipes"]) == code
    assert error_line(capsys).startswith(line)


def test_a_programmer_s_error_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(argv: list[str]) -> int:
        raise TypeError("a bug")

    monkeypatch.setattr(recipes, "COMMANDS", fail)
    with pytest.raises(TypeError, match="a bug"):
        cli.main(["recipes"])


def test_what_the_package_logs_is_printed_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = logging.getLogger("ediffi.training.anything")

    def log(argv: list[str]) -> int:
        logger.debug("too much")
        logger.info("step %d", 3)
        logger.warning("cut")
        return cli.main(["registry"]) if not argv else 0  # a command that runs a command

    monkeypatch.setattr(recipes, "COMMANDS", log)
    monkeypatch.setattr("ediffi.cli.registry.registry", lambda argv: log(["inner"]))
    before = logging.getLogger("ediffi").handlers, logging.getLogger("ediffi").level
    assert cli.main(["recipes"]) == 0
    assert capsys.readouterr() == ("step 3\nstep 3\n", "cut\ncut\n")
    assert (logging.getLogger("ediffi").handlers, logging.getLogger("ediffi").level) == before


def test_a_reader_who_leaves_early_is_no_error() -> None:
    script = f"{sys.executable} -c \"import sys; from ediffi import cli; sys.exit(cli.main(['--help']))\" | true"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; sleep 0.2 | {script}"], capture_output=True, text=True)
    assert done.stderr == ""


# ediffi recipes


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "recipes"
    (folder / "toybox").mkdir(parents=True)
    (folder / "paper").mkdir()
    for name in ("toybox/base", "toybox/sr64", "paper/base64"):
        (folder / f"{name}.yaml").write_text(f"# About {name}.\nseed: 1\n")
    monkeypatch.setattr(recipes, "folder", lambda: folder)
    kitchen = tmp_path / "kitchen"
    kitchen.mkdir()
    monkeypatch.chdir(kitchen)
    return folder


def test_the_recipes_of_the_checkout_are_found() -> None:
    assert recipes.folder() == Path(__file__).resolve().parents[2] / "recipes"


@pytest.mark.usefixtures("shelf")
def test_recipes_ls(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["recipes", "ls"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(maxsplit=1) for line in lines] == [
        ["paper/base64", "About paper/base64."],
        ["toybox/base", "About toybox/base."],
        ["toybox/sr64", "About toybox/sr64."],
    ]
    assert cli.main(["recipes", "ls", "toybox/*"]) == 0
    assert capsys.readouterr().out.splitlines() == lines[1:]
    assert cli.main(["recipes", "ls", "paint*"]) == 1
    assert error_line(capsys).startswith("no recipe named 'paint*'; ")


@pytest.mark.usefixtures("shelf")
@pytest.mark.parametrize("name", ["toybox/base", "toybox/base.yaml"])
def test_recipes_show(capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert cli.main(["recipes", "show", name]) == 0
    assert capsys.readouterr().out == "# About toybox/base.\nseed: 1\n"


@pytest.mark.usefixtures("shelf")
def test_recipes_unknown_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["recipes", "show", "toybox/bas"]) == 1
    assert error_line(capsys).startswith("no recipe named 'toybox/bas'; did you mean toybox/base")
    assert cli.main(["recipes", "cp", "../kitchen"]) == 1
    assert error_line(capsys).startswith("no recipe named '../kitchen'")


@pytest.mark.usefixtures("shelf")
def test_recipes_cp(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["recipes", "cp", "toybox/base"]) == 0
    assert capsys.readouterr().out == "base.yaml\n"
    assert Path("base.yaml").read_text() == "# About toybox/base.\nseed: 1\n"

    Path("base.yaml").write_text("mine")
    assert cli.main(["recipes", "cp", "toybox/base"]) == 1
    assert error_line(capsys) == "base.yaml exists; --force overwrites it"
    assert Path("base.yaml").read_text() == "mine"

    assert cli.main(["recipes", "cp", "toybox/base", "--force"]) == 0
    assert Path("base.yaml").read_text() == "# About toybox/base.\nseed: 1\n"
    assert cli.main(["recipes", "cp", "toybox/sr64", "other.yaml"]) == 0
    assert Path("other.yaml").read_text() == "# About toybox/sr64.\nseed: 1\n"
    assert cli.main(["recipes", "cp", "toybox/sr64", "no/such/folder.yaml"]) == 1


# ediffi registry


def test_registry_lists_and_describes(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["registry", "unet*"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert listed[1:] == ["unet_adm64", "unet_base64", "unet_toybox"]
    assert cli.main(["registry", "unet_toybox"]) == 0
    assert capsys.readouterr().out.startswith("unet_toybox (denoisers, from ")
    assert cli.main(["registry", "unet_toybx"]) == 1
    assert error_line(capsys).startswith("no part named 'unet_toybx'; did you mean unet_toybox")


# ediffi reproduce


def test_a_checkout_reproduces_with_its_own_code(tmp_path: Path) -> None:
    (tmp_path / "reproduction").mkdir()
    (tmp_path / "reproduction" / "__init__.py").write_text("raise SystemExit('the wrong module was imported')")
    command = [sys.executable, "-m", "ediffi", "reproduce", "--only", "table7"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert "table7" in done.stderr
    assert "table1" in done.stderr
