"""The script of a shell completes what the commands take."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ediffi import cli
from ediffi.cli import recipes
from ediffi.cli.parser import command_parser

pytest.importorskip("shtab")

TRY = """
source ./script
COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); COMPREPLY=()
_shtab_ediffi ediffi "${{COMP_WORDS[COMP_CWORD]}}" "${{COMP_WORDS[COMP_CWORD-1]}}"
echo "${{COMPREPLY[@]}}"
"""


@pytest.fixture(scope="module")
def folder(new_folder: Callable[[str], Path]) -> Path:
    folder = new_folder("completion")
    with pytest.MonkeyPatch.context() as patch:
        written: list[str] = []
        patch.setattr("builtins.print", lambda text, **_: written.append(text))
        assert cli.main(["completion", "bash"]) == 0
    (folder / "script").write_text("\n".join(written))
    (folder / "mine.yaml").touch()
    return folder


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("ediffi sam", "sample"),
        ("ediffi data imp", "import"),
        ("ediffi data import --image-", "--image-column --image-size"),
        ("ediffi sample x --dtype bf", "bfloat16"),
        ("ediffi fit --model.den", "--model.denoiser"),
        ("ediffi fit --trainer.max_st", "--trainer.max_steps"),
        ("ediffi grow --dry", "--dry-run"),
        ("ediffi evaluate pa", "pair"),
        ("ediffi evaluate --su", "--suite"),
        ("ediffi fit --config min", "mine.yaml"),
        ("ediffi fit --config own/", " ".join(recipes.names("own/*"))),
        ("ediffi embed --encoders own/c", "own/cascade"),
    ],
)
def test_bash_completes(words: str, found: str, folder: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", TRY.format(words=words)], cwd=folder, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == found


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_have_every_command(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for name in (name for group in cli.COMMANDS.values() for name in group):
        assert name in script
    from ediffi.cli.images import sample

    for action in command_parser(sample, "sample")._actions:
        for option in action.option_strings:
            assert option.endswith("+") or option.removeprefix("--") in script


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("ediffi.cli.completion.find_spec", lambda name: None)
    assert cli.main(["completion", "bash"]) == 1
    assert "pip install 'ediffi[completion]'" in capsys.readouterr().err
    assert cli.main(["completion", "csh"]) == 2
    assert "SHELL expects one of bash, zsh, fish, got 'csh'" in capsys.readouterr().err
