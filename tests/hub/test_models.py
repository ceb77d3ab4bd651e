"""Models by name: those that ship, those of a team's lists, and how the command line shows them."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ediffi import cli
from ediffi.hub import models
from ediffi.hub.models import NamedModel
from ediffi.io import plain_yaml

Lists = Callable[..., Path]


@pytest.fixture
def listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lists:
    """Writes list files and names all of them in the environment."""

    def write(*texts: str) -> Path:
        files = [tmp_path / f"list{index}.yaml" for index in range(len(texts))]
        for file, text in zip(files, texts, strict=True):
            file.write_text(text)
        monkeypatch.setenv(models.LISTS, ":".join(map(str, files)))
        return files[0]

    monkeypatch.delenv(models.LISTS, raising=False)
    return write


BIRDS = "birds: {place: our-lab/birds, revision: v1.2, description: finches and wrens}\n"


@pytest.mark.usefixtures("listed")
def test_what_ships_is_found_and_nothing_else() -> None:
    toybox = models.find("toybox")
    assert toybox is not None
    assert (toybox.name, toybox.revision) == ("toybox", None)
    assert (Path(toybox.place) / "config.json").is_file()
    assert toybox.description.startswith("The cascade that ships")
    assert models.names() == ["emoji", "toybox"]
    assert models.find("toybx") is None


def test_lists_add_repositories_and_folders(listed: Lists, tmp_path: Path) -> None:
    (tmp_path / "runs" / "red").mkdir(parents=True)
    listed(BIRDS, "red: {place: runs/red}\nfar: {place: ../far/away}\nhub: {place: 'hf://a/b', revision: '7f3a'}\n", "")
    assert models.find("birds") == NamedModel("birds", "our-lab/birds", "v1.2", "finches and wrens")
    assert models.find("red") == NamedModel("red", str(tmp_path / "runs" / "red"), None, "")
    assert models.find("far") == NamedModel("far", str(tmp_path.parent / "far" / "away"), None, "")
    assert models.find("hub") == NamedModel("hub", "a/b", "7f3a", "")
    assert models.names() == ["birds", "emoji", "far", "hub", "red", "toybox"]
    assert models.names("*r*") == ["birds", "far", "red"]


@pytest.mark.parametrize(
    ("texts", "sentence"),
    [
        (["birds: {place: our-lab/birds}"], "the repository 'our-lab/birds' needs a revision"),
        (["birds: {place: 'hf://our-lab/birds'}"], "needs a revision"),
        (["birds: {place: our-lab/birds, revision: main}"], "the revision 'main' changes with every upload"),
        (["birds: {place: our-lab/birds, revision: 1234567}"], "revision must be text"),
        (["birds: {place: /models/birds, revision: v1}"], "only a repository ORG/REPO has a revision"),
        (["birds: {revision: v1}"], "model 'birds': it needs a place"),
        (["birds: {place: a/b, revison: v1}"], "unknown key 'revison'; allowed are place, revision, description"),
        (["birds: {place: ''}"], "place must be text"),
        (["birds: our-lab/birds"], "model 'birds': it needs a place"),
        (["our birds: {place: .}"], "the name of a model must be letters"),
        (["3: {place: .}"], "the name of a model must be letters, digits and ._- , got 3"),
        (["[birds]"], "it holds a list, not names with a place"),
        (["birds: {place: ["], "in line 1"),
        (["birds: {place: .}\nbirds: {place: ..}"], "'birds' is there twice in line 2"),
        ([BIRDS, BIRDS], "the name 'birds' is taken by a model of "),
        (["toybox: {place: .}"], "the name 'toybox' is taken by a model of this package"),
    ],
)
def test_a_wrong_list_is_one_sentence(listed: Lists, texts: list[str], sentence: str) -> None:
    listed(*texts)
    for ask in (models.names, lambda: models.find("toybox")):
        with pytest.raises(ValueError) as error:  # noqa: PT011  (the sentences are compared below)
            ask()
        assert sentence in str(error.value)
        assert "list" in str(error.value)
        assert "\n" not in str(error.value)


def test_a_list_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(models.LISTS, str(tmp_path / "none.yaml"))
    with pytest.raises(FileNotFoundError, match=r"EDIFFI_MODELS names the list of models '.*none\.yaml'"):
        models.names()
    (tmp_path / "none.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not text in UTF-8"):
        models.names()


def test_yaml_with_anchors_and_merges_is_read_as_pyyaml_does() -> None:
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: [{d: 1}, {d: 2}]"
    assert plain_yaml.load(text) == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}, "c": [{"d": 1}, {"d": 2}]}
    with pytest.raises(ValueError, match="could not determine a constructor"):
        plain_yaml.load("a: !!python/object/apply:os.getcwd []")


# ediffi registry


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    assert cli.main(["registry", *words]) == 0
    return capsys.readouterr().out.splitlines()


def test_the_list_is_one_table_of_all_parts_and_models(listed: Lists, capsys: pytest.CaptureFixture[str]) -> None:
    listed(BIRDS)
    head, *lines = printed(capsys)
    starts = [head.index(word) for word in ("NAME", "KIND", "FROM", "NEEDS", "TAKES")]
    rows = {}
    for line in lines:
        ends = [*starts[1:], len(line)]
        name, *rest = (line[a:b].strip() for a, b in zip(starts, ends, strict=True))
        rows[name] = rest
    assert rows["t5"] == ["encoder", "ediffi", "files, given as path", "path, max_tokens"]
    assert rows["t5_xxl"][:3] == ["encoder", "ediffi", "the Hub: google/t5-v1_1-xxl"]
    assert rows["clip_l14_text"][2] == "the Hub"
    assert rows["unet_base64"][:3] == ["denoiser", "ediffi", ""]
    assert rows["unet_base64"][3].startswith("channels, channel_mults, ")
    assert rows["heun"][:3] == ["sampler", "ediffi", ""]
    assert rows["toybox"][:3] == ["model", "ediffi", ""]
    assert rows["birds"] == ["model", "our-lab/birds@v1.2", "the Hub: our-lab/birds", "finches and wrens"]
    menus = [importlib.import_module(f"ediffi.registry.{menu}") for menu in ("encoders", "denoisers", "samplers")]
    assert list(rows) == [name for menu in menus for name in menu.names()] + ["birds", "emoji", "toybox"]


def test_a_pattern_chooses(listed: Lists, capsys: pytest.CaptureFixture[str]) -> None:
    listed(BIRDS)
    assert [line.split()[0] for line in printed(capsys, "unet*")][1:] == ["unet_adm64", "unet_base64", "unet_toybox"]
    assert [line.split()[0] for line in printed(capsys, "bir*")][1:] == ["birds"]


def test_a_denoiser_is_described_with_its_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, "unet_toybox")
    assert lines[0] == "unet_toybox (denoisers, from ediffi.registry.denoisers)"
    assert "  channels: int = 64" in lines
    assert lines[-1] == "With its defaults: 3.7 M parameters."


def test_a_model_is_described_by_its_stages(listed: Lists, capsys: pytest.CaptureFixture[str]) -> None:
    listed(BIRDS)
    lines = printed(capsys, "toybox")
    assert lines[0] == "toybox (model, from ediffi)"
    assert [line.split()[:4] for line in lines[4:7]] == [
        ["base", "16²", "unet_toybox", "1"],
        ["sr64", "64²", "efficient_toybox64", "2"],
        ["sr256", "256²", "efficient_toybox256", "1"],
    ]
    assert lines[-1] == "encoders: t5, clip_text, clip_image"
    assert printed(capsys, "birds") == [
        "birds (model, from our-lab/birds@v1.2)",
        "finches and wrens",
        "needs the Hub: our-lab/birds at revision v1.2",
    ]


@pytest.mark.parametrize(
    ("config", "sentence"),
    [(None, "config.json"), ("{}", "has the format None"), ("[", "is not JSON")],
)
def test_a_named_folder_without_a_model_is_named(
    listed: Lists, tmp_path: Path, capsys: pytest.CaptureFixture[str], config: str | None, sentence: str
) -> None:
    (tmp_path / "red").mkdir()
    if config is not None:
        (tmp_path / "red" / "config.json").write_text(config)
    listed("red: {place: ./red}")
    assert cli.main(["registry", "red"]) == 1
    line = capsys.readouterr().err
    assert sentence in line
    assert line.count("\n") == 1


def test_a_misspelt_model_gets_a_hint(listed: Lists, capsys: pytest.CaptureFixture[str]) -> None:
    listed(BIRDS)
    assert cli.main(["registry", "brids"]) == 1
    assert "no part named 'brids'; did you mean birds" in capsys.readouterr().err


def test_a_plugin_is_listed_with_its_distribution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ediffi.registry import samplers
    from ediffi.registry.core import Registry

    (tmp_path / "crayons.py").write_text(
        "def slow_and_sure(denoise, x, sigmas, *, revision=None, generator=None, callback=None):\n"
        "    'Walks.'\n    return x\n"
    )
    information = tmp_path / "crayon_box-2.1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: crayon-box\nVersion: 2.1\n")
    (information / "entry_points.txt").write_text("[ediffi.samplers]\nslow_and_sure = crayons:slow_and_sure\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    fresh: Registry[object] = Registry("samplers")
    monkeypatch.setattr(samplers, "REGISTRY", fresh)
    row = next(line for line in printed(capsys) if line.startswith("slow_and_sure"))
    assert "crayon-box 2.1" in row
    assert "the Hub" in row
    assert printed(capsys, "slow_and_sure")[:2] == [
        "slow_and_sure (samplers, from crayons of crayon-box 2.1)",
        "needs the Hub",
    ]
    sys.modules.pop("crayons", None)


# ediffi recipes


def test_names_of_recipes_stand_in_one_column(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["recipes", "ls"]) == 0
    lines = capsys.readouterr().out.splitlines()
    starts = {len(line) - len(line.split(maxsplit=1)[1]) for line in lines}
    assert len(starts) == 1
    assert len(lines) > 5


def test_files_of_shipped_recipes_are_found_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    place = Path("ediffi/weights/toybox/encoders")
    assert models.shipped_path(place) == models.SHIPPED / "toybox" / "encoders"
    place.mkdir(parents=True)
    assert models.shipped_path(place) == place
    assert models.shipped_path(Path("runs/emoji/clip")) == Path("runs/emoji/clip")
