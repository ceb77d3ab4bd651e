"""The reproduction: computed once, resumed, shown on one page; and its parts on a tiny model."""

import base64
import io
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from scipy import stats
from torchvision.models import inception_v3

import ediffi.registry.samplers
from ediffi.cli import main
from ediffi.evaluation.datasets.toybox import prompts, render
from ediffi.pipeline.checkpoint import load_cascade
from ediffi.pipeline.stage import Sampling
from ediffi.registry.core import UnknownNameError
from reproduction import ensembles, judging, page, run
from reproduction.budget import Budget, TrainingBudget, read_budget
from reproduction.directory import ReproductionDirectory
from reproduction.items import ITEMS, cost, samplers
from reproduction.items.shipped import sharpness
from reproduction.judging import band_losses
from reproduction.outcome import Figure, Mean, Outcome, ResultTable
from reproduction.quoted import QUOTE, RESULTS, quoted
from reproduction.run import reproduce, write

TOP = Path(__file__).resolve().parents[2]
TRAINING = TrainingBudget(samples=16, batch_size=4, arm_steps=4, trunk_steps=4, branch_steps=4, encoder_steps=4)


@pytest.fixture
def repro(tmp_path: Path, model_folder: Path) -> ReproductionDirectory:
    """A reproduction of an untrained model, on the smallest budget."""
    small = Budget(str(model_folder), 4, 4, 4, 20, (1.0,), (2,), 1, (1, 2), 1, training=TRAINING)
    return ReproductionDirectory(tmp_path / "made", small)


def outcome(here: str = "It came out.") -> Outcome:
    return Outcome(
        here, "", {"a": 1}, [ResultTable("numbers", ["", "a"], [["row", "1"]])], [Figure("one.png", "A picture.")]
    )


# Budgets and folders


def test_the_budgets_that_ship_are_read() -> None:
    quick, full = read_budget("quick"), read_budget("full")
    assert quick.seeds < full.seeds
    assert quick.training.arm_steps < full.training.arm_steps
    assert full.model == "toybox"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prompts: 1", "prompts of a budget must be at least 2, got 1"),
        ("promts: 3", "promts"),
        ("training: {samples: many}", "many"),
        ("- prompts", "is no budget of a reproduction"),
    ],
)
def test_a_wrong_budget_is_named(tmp_path: Path, text: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    assert main(["reproduce", "--budget", str(file), "--output", str(tmp_path / "made")]) == 1
    line = capsys.readouterr().err
    assert line.startswith("ediffi: error: ")
    assert message in line
    assert not (tmp_path / "made").exists()


def test_an_unknown_budget_or_item_is_told_with_those_there_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = ["--output", str(tmp_path / "made")]
    assert main(["reproduce", "--budget", "quik", *output]) == 1
    assert "did you mean quick?" in capsys.readouterr().err
    assert main(["reproduce", "--only", "table1,figure33", *output]) == 1
    assert "no item of a reproduction named 'figure33'" in capsys.readouterr().err


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    ReproductionDirectory(tmp_path / "made", Budget())
    ReproductionDirectory(tmp_path / "made", Budget())
    with pytest.raises(ValueError, match=r"budget.prompts 200, not 7"):
        ReproductionDirectory(tmp_path / "made", Budget(prompts=7))
    claim = tmp_path / "made" / "reproduction.json"
    claim.write_text(claim.read_text().replace('"ediffi": "', '"ediffi": "9.'))
    with pytest.raises(ValueError, match=r"a reproduction with ediffi '9\."):
        ReproductionDirectory(tmp_path / "made", Budget())
    claim.write_text("{")
    with pytest.raises(ValueError, match="is broken"):
        ReproductionDirectory(tmp_path / "made", Budget())
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(ValueError, match="other files"):
        ReproductionDirectory(tmp_path / "other", Budget())


def test_what_is_made_is_made_once_and_what_was_cut_again(tmp_path: Path) -> None:
    calls: list[int] = []

    def make() -> list[int]:
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return [len(calls)]

    with pytest.raises(KeyboardInterrupt):
        ReproductionDirectory(tmp_path, Budget()).cached("thing", make)
    assert ReproductionDirectory(tmp_path, Budget()).cached("thing", make) == [2]
    assert ReproductionDirectory(tmp_path, Budget()).cached("thing", make) == [2]


def test_the_report_tells_what_is_made_and_what_is_not(tmp_path: Path) -> None:
    repro = ReproductionDirectory(tmp_path, Budget())
    Image.new("RGB", (40, 20), "red").save(repro.path("figures", "one.png"))
    repro.outcome("table1", lambda _: outcome("Less < more."))
    text = write(repro).read_text()
    assert "Less &lt; more." in text
    assert 'src="data:image/png;base64,' in text
    assert not re.search("https?:", text)
    assert ITEMS["figure7"].title in text.partition("Not made yet: ")[2]
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["items"]["table1"]["numbers"] == {"a": 1}
    assert results["items"].keys() == results["minutes"].keys() == {"table1"}
    assert outcome() == Outcome.from_plain(json.loads(json.dumps(outcome().plain())))


def test_a_figure_on_the_page_keeps_its_looks(tmp_path: Path) -> None:
    picture = Image.fromarray(render(prompts(0, 1)[0][0], 64))
    picture.save(tmp_path / "a.png")
    data = page.embedded(tmp_path / "a.png").partition(",")[2]
    with Image.open(io.BytesIO(base64.b64decode(data))) as shown:
        difference = np.asarray(shown.convert("RGB"), float) - np.asarray(picture, float)
    assert np.abs(difference).mean() < 3


# Numbers


def test_a_mean_has_students_interval() -> None:
    values = [0.2, 0.5, 0.3]
    mean = Mean.of(values)
    low, high = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert (mean.value - mean.half, mean.value + mean.half) == pytest.approx((low, high))
    assert mean.shown(2) == f"0.33 ± {mean.half:.2f}"
    one = Mean.of([0.25])
    assert math.isnan(one.half)
    assert (one.shown(2, sign=True), one.plain()) == ("+0.25", [0.25, None])


def test_sharpness_falls_with_blur() -> None:
    picture = Image.fromarray(render(prompts(0, 1)[0][0], 128))
    soft = picture.resize((32, 32), Image.Resampling.BOX).resize((128, 128), Image.Resampling.BICUBIC)
    assert sharpness([soft]) < 0.8 * sharpness([picture])


def test_steps_are_shared_out_by_the_share_of_the_noise() -> None:
    for split, regions in ensembles.SPLITS.items():
        assert sum(map(ensembles.share, regions)) == pytest.approx(1), split


def test_losses_are_of_equal_noise_in_every_band(repro: ReproductionDirectory, model_folder: Path) -> None:
    _, test = ensembles.shards(repro)
    stage = load_cascade(model_folder).stages[0]
    noise = ensembles.noise(model_folder)
    once = band_losses(stage.denoiser, noise, test, stage.resolution, 50)
    assert once == band_losses(stage.denoiser, noise, test, stage.resolution, 50)
    assert len(once) == 8
    assert all(value > 0 for value in once)
    for parameter in stage.denoiser.parameters():
        torch.nn.init.zeros_(parameter)
    assert band_losses(stage.denoiser, noise, test, stage.resolution, 50) != once


# Items on an untrained model


@pytest.mark.parametrize("name", ["figure3", "figure13", "samplers"])
def test_an_item_comes_with_its_figures(
    repro: ReproductionDirectory, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost, "ROUNDS", 1)
    monkeypatch.setattr(cost, "STEPS", 1)
    monkeypatch.setattr(samplers, "REFERENCE", 20)
    monkeypatch.setattr(samplers, "GUIDANCE", (3.0,))
    monkeypatch.setattr(samplers, "GRIDS", samplers.GRIDS[:1])
    told: list[str] = []
    file = reproduce(repro, [name], told.append)
    made = repro.finished(name)
    assert made is not None
    assert told == [f"{name}: {made.here}"]
    for figure in made.figures:
        with Image.open(repro.path("figures", figure.file)) as picture:
            assert len(picture.convert("RGB").getcolors(1 << 20) or []) > 10
    assert all(len(row) == len(table.columns) for table in made.tables for row in table.rows)
    assert made.here.replace("<", "&lt;").replace("'", "&#39;")[:30] in file.read_text()


def test_given_weights_the_fid_of_the_same_pictures_is_told(repro: ReproductionDirectory, tmp_path: Path) -> None:
    weights = tmp_path / "inception.safetensors"
    net = inception_v3(weights=None, aux_logits=False, num_classes=1008, init_weights=False)
    save_file({name: part.contiguous() for name, part in net.state_dict().items()}, weights)
    settings = judging.JudgingSettings(4)
    (without,) = judging.judge(repro, "tiny", repro.budget.model, settings)
    assert judging.FID not in without.metrics
    given = ReproductionDirectory(tmp_path / "given", replace(repro.budget, inception=str(weights)))
    (point,) = judging.judge(given, "tiny", repro.budget.model, settings)
    assert point.metrics[judging.FID] > 0
    assert {**point.metrics, judging.FID: 0} == {**without.metrics, judging.FID: 0}
    before = {file: file.stat().st_mtime_ns for file in given.path("evaluations").rglob("*.png")}
    assert judging.judge(given, "tiny", repro.budget.model, settings)[0].metrics == point.metrics
    assert before == {file: file.stat().st_mtime_ns for file in given.path("evaluations").rglob("*.png")}
    with pytest.raises(ValueError, match="there is no such file"):
        replace(repro.budget, inception=str(tmp_path / "none"))


def test_experts_hold_a_multiple_of_the_network_and_are_called_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "STEPS", 1)
    single, _ = cost.network("experts", 1)
    four, _ = cost.network("experts", 4)
    assert four == 4 * single
    for kind in ("wider", "deeper"):
        assert 2.5 * single < cost.network(kind, 4)[0] < 6 * single


def test_every_sampler_is_in_the_table_on_both_grids_and_so_is_the_models_own() -> None:
    own = Sampling(sampler="exp_abm", arguments={"order": 1}, grid="vp_time", rho=3.0)
    shown = list(map(samplers.label, samplers.settings(own)))
    assert len(shown) == len(set(shown))
    assert {f"{name}, {grid}" for name in ediffi.registry.samplers.names() for grid in ("karras", "vp_time")} < set(
        shown
    )
    assert shown[-1] == "exp_abm of order 1, vp_time"
    assert len(samplers.settings(samplers.settings(own)[0])) == len(shown) - 1


@pytest.mark.slow
def test_an_ensemble_is_trained_once_and_gone_on_with(repro: ReproductionDirectory) -> None:
    place = ensembles.base(repro, "two", 0)
    before = {file.name: file.stat().st_mtime_ns for file in place.iterdir()}
    assert len([name for name in before if name.endswith(".safetensors")]) == 2
    assert ensembles.base(repro, "two", 0) == place
    assert {file.name: file.stat().st_mtime_ns for file in place.iterdir()} == before
    model = ensembles.model(repro, "both", place, None)
    assert ensembles.parameters(model) > ensembles.parameters(repro.budget.model)


def test_a_missing_library_is_named(repro: ReproductionDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "find_spec", lambda module: None if module == "matplotlib" else object())
    with pytest.raises(ValueError, match=r"pip install 'ediffi\[plots\]'"):
        reproduce(repro, ["figure13"], print)


@pytest.mark.slow
def test_the_quick_budget_makes_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "--budget", "quick", "--output", str(tmp_path / "made")]) == 0
    results = json.loads((tmp_path / "made" / "results.json").read_text())
    assert list(results["items"]) == list(ITEMS)
    assert (tmp_path / "made" / "report.html").stat().st_size > 100_000
    assert "Not made yet" not in (tmp_path / "made" / "report.html").read_text()
    with pytest.raises(UnknownNameError):
        read_budget("quicker")
    assert replace(read_budget("quick"), seeds=2).seeds == 2


# Numbers in texts


def test_a_number_is_quoted_as_the_results_have_it() -> None:
    results = {"items": {"table1": {"numbers": {"D, all": [0.25, None]}}}}
    text = "it is <!-- table1/D, all/0:.1% -->9 %<!-- / --> and no more"
    done = quoted(text, results)
    assert done == "it is <!-- table1/D, all/0:.1% -->25.0%<!-- / --> and no more"
    assert quoted(done, results) == done
    for path in ("table1/D, all/1", "table1/D, all/2", "table1/E", "figure9/a"):
        with pytest.raises(ValueError, match="the results have no number"):
            quoted(f"<!-- {path}:.1f -->1<!-- / -->", results)


@pytest.mark.parametrize(
    "text", ["docs/results.md", "docs/models.md", "docs/not-reproduced.md", "ediffi/weights/toybox/README.md"]
)
def test_the_numbers_in_a_text_are_those_of_the_reproduction(text: str) -> None:
    results = json.loads((TOP / RESULTS).read_text())
    content = (TOP / text).read_text()
    assert quoted(content, results) == content, f"python -m reproduction.quoted {text}"


def test_no_measured_number_of_the_table_of_results_is_typed() -> None:
    """What is measured by a reproduction stands there as it was read; the rest says which test or command counts it."""
    table = [line.split(" | ") for line in (TOP / "docs/results.md").read_text().splitlines() if line.startswith("| ")]
    rows = [row for row in table[1:] if "--only" in row[-1]]
    assert len(rows) > 10
    for row in rows:
        ours = re.sub(QUOTE.pattern, "", " | ".join(row[2:-1]))
        assert re.findall(r"\d+\.\d+", ours) == [], row[0]
        assert re.search("`--only (.*)`", row[-1])[1] in ITEMS  # type: ignore[index]
