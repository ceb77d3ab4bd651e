"""`ediffi env` and the version: true, and nothing in it that a bug report should not have."""

import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import ediffi
from ediffi import cli
from ediffi.cli import env as environment

ROOT = Path(__file__).resolve().parents[2]


def rows(text: str) -> dict[str, str]:
    return {name: value.strip() for name, _, value in (line.partition(": ") for line in text.splitlines())}


def test_it_tells_what_is_installed(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    assert cli.main(["env"]) == 0
    found = rows(capsys.readouterr().out)
    assert found["ediffi"] == ediffi.__version__
    assert found["python"].startswith(platform.python_version())
    for name in environment.PACKAGES:
        assert found[name] == version(name)
    assert "eval" in found["extras"]
    assert found["system"].startswith(platform.system())
    assert torch.backends.cpu.get_cpu_capability() in found["cpu"]
    assert found["bfloat16"] in ("yes", "emulated")


def test_nothing_private_is_in_it(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_notforyoureyes")
    monkeypatch.setenv("EDIFFI_MODELS", "/secret/models.yaml")
    assert cli.main(["env"]) == 0
    text = capsys.readouterr().out
    private = ["hf_notforyoureyes", "/secret", str(Path.home()), sys.prefix, str(ROOT), os.getcwd()]
    private += [platform.node()] if len(platform.node()) > 3 else []
    assert not [word for word in private if word in text]
    assert rows(text)["switches set"].endswith("EDIFFI_MODELS")


def test_a_plugin_is_told_and_not_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    information = tmp_path / "crayon_box-2.1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: crayon-box\nVersion: 2.1\n")
    (information / "entry_points.txt").write_text("[ediffi.samplers]\nslow = no_such_module:slow\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert cli.main(["env"]) == 0
    assert "slow (sampler, crayon-box 2.1)" in rows(capsys.readouterr().out)["plug-ins"]


@pytest.mark.parametrize("code", ["raise OSError('libcuda is broken')", "raise RuntimeError('no')", "x = 1"])
def test_a_broken_torch_is_told_and_no_error(tmp_path: Path, code: str) -> None:
    (tmp_path / "torch.py").write_text(code)
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-m", "ediffi", "env"], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1].startswith("torch:            cannot be used (")


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_version", lambda name: "not installed" if name == "peft" else "1")
    extras = environment.software()["extras"]
    assert "lora (without peft)" in extras
    assert "eval," in extras


def test_the_version_is_said_once() -> None:
    from hatchling.metadata.core import ProjectMetadata
    from hatchling.plugin.manager import PluginManager

    built = ProjectMetadata(str(ROOT), PluginManager())
    assert built.version == ediffi.__version__
    assert "version" not in built.config["project"]
    said = f'"{ediffi.__version__}"'
    files = [path for room in ("ediffi", "registry", "evaluation") for path in (ROOT / room).rglob("*.py")]
    assert [path.relative_to(ROOT).as_posix() for path in files if said in path.read_text(encoding="utf-8")] == [
        "ediffi/__init__.py"
    ]
