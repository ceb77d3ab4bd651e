"""`ediffi evaluate`: from captions to a report, on data in its own file format, with the real classes at tiny size."""

import json
import re
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torchvision.models import inception_v3

from ediffi.cli import main
from ediffi.diffusion.layout import Region, polygon
from ediffi.evaluation import scorers
from ediffi.evaluation.datasets.captioned import Controls, select
from ediffi.evaluation.datasets.toybox import prompts, render
from ediffi.evaluation.datasets.toybox.dataset import Toybox
from ediffi.evaluation.images.claim import lock
from ediffi.evaluation.judge import SQUARE
from ediffi.evaluation.metrics.paired import differences
from ediffi.evaluation.metrics.rows import RowFiles
from ediffi.evaluation.naming import dataset_name
from ediffi.evaluation.report.stored import SELECTION, StoredEvaluation
from ediffi.evaluation.results import Results
from ediffi.evaluation.suite import SHIPPED, read_suite, shipped
from ediffi.pipeline.cascade import Cascade
from ediffi.pipeline.cascade_generator import CascadeGenerator
from ediffi.pipeline.evaluation_run import at_size
from ediffi.pipeline.options import SamplingOptions
from ediffi.pipeline.prompt import Prompt, parse
from ediffi.pipeline.style import Style

Evaluate = Callable[..., Results]


@pytest.fixture
def evaluate(tmp_path: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]) -> Evaluate:
    """The command, by a small Toybox suite unless another is named; the numbers it left."""

    def run(*argv: object, output: str = "out", model: bool = True) -> Results:
        words = ["evaluate", "--output", tmp_path / output, "--cache", tmp_path / "reference", *argv]
        words += ["--model", model_folder] if model else []
        words += [] if "--count" in argv else ["--count", 6]
        code = main([str(word) for word in words])
        printed = capsys.readouterr()
        assert code == 0, printed.err
        assert (tmp_path / output / "report.html").is_file()
        assert printed.out.splitlines()[-1] == str((tmp_path / output / "report.html").resolve())
        return Results.read(tmp_path / output)

    return run


@pytest.fixture(scope="module")
def inception(new_folder: Callable[[str], Path]) -> Path:
    torch.manual_seed(0)
    model = inception_v3(weights=None, aux_logits=False, num_classes=1008, init_weights=False)
    path = new_folder("inception") / "inception.pth"
    torch.save(model.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def coco(new_folder: Callable[[str], Path]) -> Path:
    """Twelve rendered scenes as COCO's files, two captions each."""
    root = new_folder("coco")
    (root / "val2014").mkdir()
    (root / "annotations").mkdir()
    content: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": []}
    for index, (scene, caption) in enumerate(prompts(5, 12)):
        name = f"COCO_val2014_{index:012d}.jpg"
        Image.fromarray(render(scene, 96)).resize((96, 80)).save(root / "val2014" / name)
        content["images"].append({"id": index, "file_name": name, "width": 96, "height": 80})
        for number in (0, 1):
            text = f"{caption.text}." if number else caption.text
            content["annotations"].append({"id": 100 * index + number, "image_id": index, "caption": text})
    (root / "annotations" / "captions_val2014.json").write_text(json.dumps(content))
    return root


def files(folder: Path) -> Mapping[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.png")}


def test_a_model_is_judged_at_each_guidance_scale(evaluate: Evaluate, tmp_path: Path) -> None:
    results = evaluate("--guidance-scale", "1,2.5", "--batch-size", 3)
    assert [(point.name, point.guidance_scale, point.count) for point in results.points] == [
        ("guidance-1", 1.0, 6),
        ("guidance-2.5", 2.5, 6),
    ]
    for point in results.points:
        assert point.nfe == 4
        assert point.metrics["frechet_clip"] > 0
        assert -100 <= point.metrics["clip_score"] <= 100
        assert 0 <= point.metrics["oracle/everything"] <= 1
        assert any("biased upwards" in notice for notice in point.notices)
        assert "intervals by 6 captions are rough (fewer than 100)" in point.notices
        low, high = point.interval("clip_score") or (0, 0)
        assert low < point.metrics["clip_score"] < high
        assert point.interval("frechet_clip") is None  # fewer images than numbers in a row
    apart = differences(*(tmp_path / "out" / "rows" / point.name for point in results.points))
    assert apart["clip_score"].value == pytest.approx(
        results.points[0].metrics["clip_score"] - results.points[1].metrics["clip_score"]
    )
    assert results.protocol["intervals"]["level"] == 0.95
    lines = [json.loads(line) for line in (tmp_path / "out" / SELECTION).read_text().splitlines()]
    chosen = select(Toybox().items(), 6)
    assert [line["key"] for line in lines] == [item.key for item in chosen]
    pictures = files(tmp_path / "out" / "guidance-1")
    assert len(pictures) == 6
    assert results.protocol["selection"]["count"] == 6
    assert results.protocol["feature_extractor"]["weights"] == results.protocol["clip"]["weights"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert all(item.caption in page for item in chosen)
    assert yaml.safe_load((tmp_path / "out" / "model-index.yaml").read_text())["model-index"]


def test_the_same_command_again_makes_nothing_again_and_says_the_same(evaluate: Evaluate, tmp_path: Path) -> None:
    first = evaluate("--guidance-scale", "2")
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "guidance-2").glob("*.png")}
    assert evaluate("--guidance-scale", "2") == first
    assert {path: path.stat().st_mtime_ns for path in written} == written


def test_what_was_cut_is_gone_on_with(evaluate: Evaluate, tmp_path: Path) -> None:
    whole = evaluate("--guidance-scale", "2", "--batch-size", 2)
    shutil.copytree(tmp_path / "out", tmp_path / "cut")
    (tmp_path / "cut" / "guidance-2" / "00003.png").unlink()
    shutil.rmtree(tmp_path / "cut" / "rows")
    (tmp_path / "cut" / "results.json").unlink()
    assert evaluate("--guidance-scale", "2", "--batch-size", 2, output="cut").points == whole.points
    assert files(tmp_path / "cut" / "guidance-2") == files(tmp_path / "out" / "guidance-2")


KILLED = """
import importlib, os, signal, sys
from ediffi.cli import main
module, holder, name, calls = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
owner = getattr(importlib.import_module(module), holder)
real, seen = getattr(owner, name), []
def dying(*args, **kwargs):
    seen.append(args)
    if len(seen) == calls:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args, **kwargs)
setattr(owner, name, dying)
main(sys.argv[5:])
"""


PAINTING = ("ediffi.evaluation.images.numbered", "ImageFolder", "write", 2)
MEASURING = ("ediffi.evaluation.metrics.rows", "RowFiles", "write", 10)  # the second block, after the reference's two
FINISHED = ("ediffi.evaluation.results", "Results", "write", 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "kept"),
    [
        (PAINTING, {"painted": 2}),
        (MEASURING, {"painted": 40, "measured": 32}),
        (FINISHED, {"painted": 40, "measured": 40}),
    ],
    ids=["while it paints", "while it measures", "before the results"],
)
def test_a_killed_evaluation_loses_nothing_and_measures_nothing_twice(
    evaluate: Evaluate,
    model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: tuple[object, ...],
    kept: Mapping[str, int],
) -> None:
    count = 40 if len(kept) > 1 else 6
    own = [
        "--guidance-scale",
        2,
        "--num-inference-steps",
        2,
        "--batch-size",
        20 if count == 40 else 2,
        "--count",
        count,
    ]
    places = ["--output", tmp_path / "cut", "--cache", tmp_path / "reference", "--model", model_folder]
    command = [sys.executable, "-c", KILLED, *moment, "evaluate", *own, *places]
    assert subprocess.run(list(map(str, command)), capture_output=True).returncode == -signal.SIGKILL
    assert len(list((tmp_path / "cut" / "guidance-2").glob("*.png"))) == kept["painted"]
    assert not (tmp_path / "cut" / "results.json").exists()
    made, measured = [], []  # the reference's rows among them, which were finished before
    paint, write = CascadeGenerator.__call__, RowFiles.write
    monkeypatch.setattr(CascadeGenerator, "__call__", lambda self, p, k: made.append(len(p)) or paint(self, p, k))

    def counted(self: RowFiles, name: str, start: int, mask: np.ndarray, rows: np.ndarray) -> None:
        measured.extend([len(mask)] if name == "states" else [])
        write(self, name, start, mask, rows)

    monkeypatch.setattr(RowFiles, "write", counted)
    found = evaluate(*own, output="cut")
    assert sum(made) == count - kept["painted"]
    assert sum(measured) == count - kept.get("measured", 0)
    monkeypatch.undo()
    whole = evaluate(*own, output="whole")
    assert found.points == whole.points
    assert files(tmp_path / "cut" / "guidance-2") == files(tmp_path / "whole" / "guidance-2")


def test_two_runs_never_share_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "images").mkdir()
    for index in range(2):
        Image.new("RGB", (64, 64)).save(tmp_path / "images" / f"{index}.png")
    (tmp_path / "out").mkdir()
    words = ["evaluate", "--count", "2", "--images", tmp_path / "images", "--output", tmp_path / "out"]
    with lock(tmp_path / "out"):
        assert main([str(word) for word in [*words, "--cache", tmp_path / "reference"]]) == 1
    assert "is in use by process" in capsys.readouterr().err
    assert not (tmp_path / "out" / "rows").exists()


def test_shards_hold_the_same_pictures(evaluate: Evaluate) -> None:
    one = evaluate("--guidance-scale", "2", "--batch-size", 2)
    other = evaluate("--guidance-scale", "2", "--batch-size", 2, "--shard-size", 4, output="shards")
    assert other.points[0].metrics == one.points[0].metrics


def test_pictures_of_another_system_are_judged_by_number_or_annotation(evaluate: Evaluate, tmp_path: Path) -> None:
    dataset = Toybox()
    items = select(dataset.items(), 6)
    for place, names in (("numbered", [f"{k:05d}" for k in range(6)]), ("keyed", [item.key for item in items])):
        (tmp_path / place).mkdir()
        for name, item in zip(names, items, strict=True):
            dataset.reference(item, 64).save(tmp_path / place / f"{name}.png")
    numbered = evaluate("--images", tmp_path / "numbered", model=False)
    keyed = evaluate("--images", tmp_path / "keyed", output="keyed-out", model=False)
    assert numbered.model == "numbered"
    assert numbered.points[0].metrics == keyed.points[0].metrics
    assert numbered.points[0].metrics["frechet_clip"] == pytest.approx(0, abs=1e-6)
    assert numbered.points[0].metrics["oracle/everything"] == 1
    assert numbered.points[0].guidance_scale is None


def test_numbers_that_are_ids_too_are_matched_by_what_is_said(
    evaluate: Evaluate, model_folder: Path, tmp_path: Path
) -> None:
    own, dataset = tmp_path / "own", Toybox()
    own.mkdir()
    for number, item in enumerate(select(dataset.items(), 6)):
        dataset.reference(item, 64).save(own / f"{number:05d}.png")
        (own / f"{number:05d}.txt").write_text(item.caption)
    clip = {"path": str(model_folder / "encoders" / "clip")}
    known = {"name": "mine", "dataset": "own", "count": 6, "image_size": 64, "feature_extractor": "clip", "clip": clip}
    suite = tmp_path / "mine.yaml"
    suite.write_text(yaml.safe_dump(known | {"reference": "chosen"}))
    words = ["--suite", suite, "--root", own, "--images", own, "--count", 6]
    with pytest.raises(AssertionError, match=r"say which \(--match index or key\)"):
        evaluate(*words, output="neither", model=False)
    scores = {}
    for match in ("index", "key"):
        evaluate(*words, "--match", match, output=match, model=False)
        stored = StoredEvaluation(tmp_path / match, Results.read(tmp_path / match))
        (point,) = stored.results.points
        scores[match] = stored.scores(point)["clip_score"]
        images = stored.images(point)
        names = [one["key"] for one in stored.captions] if match == "key" else [f"{k:05d}.png" for k in range(6)]
        assert [Path(images.name(k)).stem for k in range(6)] == [Path(name).stem for name in names]
    assert scores["index"].tolist() != scores["key"].tolist()


def test_coco_by_inception(evaluate: Evaluate, coco: Path, inception: Path, model_folder: Path, tmp_path: Path) -> None:
    suite = tmp_path / "mine.yaml"
    clip = model_folder / "encoders" / "clip"
    suite.write_text(
        yaml.safe_dump(
            {
                "name": "mine",
                "dataset": "coco2014",
                "count": 8,
                "image_size": 64,
                "guidance_scales": [2.0],
                "feature_weights": str(inception),
                "clip": {"path": str(clip)},
            }
        )
    )
    results = evaluate("--suite", suite, "--root", coco, "--count", 8)
    assert {"fid", "kid_mean", "precision", "recall", "clip_score"} <= results.points[0].metrics.keys()
    assert not [name for name in results.points[0].metrics if name.startswith("oracle")]
    assert results.protocol["dataset"]["name"] == "coco2014"
    assert (results.protocol["reference"]["which"], results.protocol["reference"]["count"]) == ("all", 12)
    assert "COCO's layout, 12 of them" in (tmp_path / "out" / "report.html").read_text()
    assert "COCO 2014" not in (tmp_path / "out" / "results.json").read_text()
    kept = sorted(path.name for path in (tmp_path / "reference").iterdir())
    again = evaluate("--suite", suite, "--root", coco, "--count", 8, output="again")
    assert sorted(path.name for path in (tmp_path / "reference").iterdir()) == kept
    assert again.points[0].metrics == results.points[0].metrics
    assert str(tmp_path) not in json.dumps(results.suite)


def test_captions_with_parentheses_are_painted_as_they_stand(
    evaluate: Evaluate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captions = ["a clock (3:45)", "a blue square (10:10)", r"a red \(circle\)", "a red circle"]
    items = [item._replace(caption=text) for item, text in zip(Toybox().items(), captions, strict=False)]
    monkeypatch.setattr(Toybox, "items", lambda _: items)
    evaluate("--guidance-scale", "2", "--count", 4)
    lines = [json.loads(line)["caption"] for line in (tmp_path / "out" / SELECTION).read_text().splitlines()]
    assert sorted(lines) == sorted(captions)
    run = json.loads((tmp_path / "out" / "guidance-2" / "run.json").read_text())["settings"]["prompts"]
    assert [parse(prompt) for prompt in run] == [Prompt(caption) for caption in lines]


def test_images_of_another_size_are_refused_or_resized_by_a_named_rule(
    evaluate: Evaluate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "large").mkdir()
    for number in range(6):
        Image.new("RGB", (96, 80), (40 * number, 90, 90)).save(tmp_path / "large" / f"{number:05d}.png")
    argv = [
        "--images",
        tmp_path / "large",
        "--count",
        6,
        "--output",
        tmp_path / "no",
        "--cache",
        tmp_path / "reference",
    ]
    assert main(["evaluate", *map(str, argv)]) == 1
    assert "00000.png is 96x80 and images of 64x64 are judged" in capsys.readouterr().err
    results = evaluate("--images", tmp_path / "large", "--other-sizes", "resized", model=False)
    assert results.protocol["images"] == {"size": 64, "other_sizes": f"resized: {SQUARE}"}


def test_further_extractors_and_scorers_stand_beside_the_suite_s_own(
    evaluate: Evaluate, inception: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def length(gain: float = 1.0) -> scorers.Scorer:
        return lambda images, captions: [gain * len(caption) for caption in captions]

    monkeypatch.setitem(scorers.scorers._factories, "length", length)
    (tmp_path / "theirs").mkdir()
    for number in range(8):
        Image.new("RGB", (64, 64), (30 * number, 90, 90)).save(tmp_path / "theirs" / f"{number:05d}.png")
    suite = yaml.safe_load((SHIPPED / "toybox.yaml").read_text()) | {"scorers": {"length": {"gain": 2.0}}}
    suite |= {"more_features": {"inception-v3-compat": str(inception)}}
    suite["clip"]["path"] = str((SHIPPED / suite["clip"]["path"]).resolve())
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(suite))
    argv = ("--images", tmp_path / "theirs", "--count", 8)
    alone = evaluate(*argv, output="alone", model=False).points[0]
    results = evaluate("--suite", tmp_path / "mine.yaml", *argv, model=False)
    point, captions = results.points[0], [item.caption for item in select(Toybox().items(), 8)]
    assert point.metrics["length"] == pytest.approx(2 * np.mean([len(caption) for caption in captions]))
    low, high = point.interval("length") or (0, 0)
    assert low < point.metrics["length"] < high
    assert {"fid", "kid_mean@inception-v3-compat", "precision@inception-v3-compat"} < point.metrics.keys()
    assert {"frechet_clip", "vendi", "cmmd@clip", "inception_score"} < point.metrics.keys()
    assert {name: point.metrics[name] for name in alone.metrics if name != "kid_std"} == pytest.approx(
        {name: value for name, value in alone.metrics.items() if name != "kid_std"}, nan_ok=True
    )
    assert results.protocol["scorers"]["length"]["arguments"] == {"gain": 2.0}
    assert results.protocol["more_features"]["inception-v3-compat"]["layer"] == "2048"
    assert str(tmp_path) not in json.dumps(results.suite)


def test_statistics_of_others_can_be_the_reference(evaluate: Evaluate, tmp_path: Path) -> None:
    np.savez(tmp_path / "theirs.npz", mu=np.zeros(128), sigma=np.eye(128))
    results = evaluate("--guidance-scale", "2", "--reference", tmp_path / "theirs.npz")
    assert "kid_mean" not in results.points[0].metrics
    assert results.protocol["reference"]["foreign"] is True


def test_other_images_can_be_the_reference_and_the_command_is_recorded(evaluate: Evaluate, tmp_path: Path) -> None:
    dataset = Toybox()
    items = select(dataset.items(), 6)
    for place, size in (("made", 64), ("photographs", 90)):
        (tmp_path / place).mkdir()
        for number, item in enumerate(items):
            dataset.reference(item, size).save(tmp_path / place / f"{number}.png")
    options = ("--images", tmp_path / "made", "--reference", tmp_path / "photographs")
    results = evaluate(*options, model=False)
    reference = results.protocol["reference"]
    assert (reference["preparation"]["from"], reference["preparation"]["size"]) == ("photographs", 64)
    assert "which" not in reference
    assert {"frechet_clip", "kid_mean"} <= results.points[0].metrics.keys()
    assert "command" in results.protocol
    (tmp_path / "made" / "3.png").write_bytes(b"")
    lenient = evaluate(*options, "--no-strict", model=False, output="lenient").points[0]
    assert lenient.count == 5
    assert "1 images could not be read and were left out: numbers 3" in lenient.notices


def test_captions_need_not_be_scored(evaluate: Evaluate, inception: Path) -> None:
    weights = ("--feature-extractor", "inception-v3-compat", "--feature-weights", inception)
    results = evaluate("--guidance-scale", "2", "--no-clip-score", *weights)
    assert results.protocol["clip"] is None
    assert "clip_score" not in results.points[0].metrics
    assert "fid" in results.points[0].metrics


def test_several_are_compared_on_one_page(
    evaluate: Evaluate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate("--guidance-scale", "1,2", output="one")
    evaluate("--guidance-scale", "1,2", "--num-inference-steps", 3, output="other")
    page = tmp_path / "both.html"
    assert main(["evaluate", "compare", str(tmp_path / "one"), str(tmp_path / "other"), "--output", str(page)]) == 0
    assert "tiny (other)" in page.read_text()
    capsys.readouterr()
    evaluate("--guidance-scale", "1,2", "--count", 5, output="fewer")
    assert main(["evaluate", "compare", str(tmp_path / "one"), str(tmp_path / "fewer"), "--output", str(page)]) == 1
    assert "6 and 5" in capsys.readouterr().err


def test_every_suite_that_ships_is_read_and_has_what_the_paper_has() -> None:
    assert shipped() == ["coco2014-curve5k", "coco2014-fid30k", "emoji", "toybox", "visualgenome-curve5k"]
    suites = {name: read_suite(name) for name in shipped()}
    assert all(suite.name == name for name, suite in suites.items())
    assert suites["coco2014-fid30k"].count == 30_000
    assert [name for name in shipped() if suites[name].reference == "chosen"] == ["emoji", "toybox"]
    for name in ("coco2014-curve5k", "visualgenome-curve5k"):
        assert (suites[name].count, suites[name].clip.model) == (5_000, "ViT-g-14")
        assert min(suites[name].guidance_scales) == 1  # the paper's 0, no guidance
        assert max(suites[name].guidance_scales) == 10


def test_prepare_says_what_is_missing_and_ends_with_an_error(
    tmp_path: Path, coco: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "prepare", "coco2014", "--root", str(tmp_path)]) == 1
    assert "http://images.cocodataset.org/zips/val2014.zip" in capsys.readouterr().out
    assert main(["evaluate", "prepare", "cocoa", "--root", str(tmp_path)]) == 1
    assert "coco2014" in capsys.readouterr().err


def test_prompts_of_a_benchmark_become_a_file_for_sample(tmp_path: Path) -> None:
    (tmp_path / "theirs.txt").write_text("a red circle\na blue square\n")
    argv = ["evaluate", "prompts", "t2i-compbench", str(tmp_path / "theirs.txt"), str(tmp_path / "ours.jsonl")]
    assert main([*argv, "--images-per-prompt", "2"]) == 0
    lines = [json.loads(line)["prompt"] for line in (tmp_path / "ours.jsonl").read_text().splitlines()]
    assert lines == ["a red circle", "a red circle", "a blue square", "a blue square"]


def spoilt(folder: Path, kind: str) -> None:
    folder.mkdir()
    for index in range(6):
        Image.new("RGB", (64, 64), (40 * index, 90, 90)).save(folder / f"{index:05d}.png")
    if kind == "fewer":
        (folder / "00004.png").unlink()
    elif kind == "cmyk":
        (folder / "00002.png").unlink()
        Image.new("CMYK", (64, 64)).save(folder / "00002.jpg")
    elif kind == "truncated":
        content = (folder / "00002.png").read_bytes()
        (folder / "00002.png").write_bytes(content[: len(content) // 2])
    elif kind == "empty":
        (folder / "00002.png").write_bytes(b"")
    elif kind == "mixed":
        Image.new("RGB", (32, 64)).save(folder / "00002.png")
    elif kind == "16-bit":
        Image.fromarray(np.full((64, 64), 300, np.uint16)).save(folder / "00002.png")


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("fewer", "images, but none for caption"),
        ("cmyk", "00002.jpg is not a plain 8-bit RGB image, but CMYK"),
        ("truncated", "00002.png is a broken image"),
        ("empty", "00002.png is empty"),
        ("mixed", "00002.png is 32x64"),
        ("16-bit", "00002.png is not a plain 8-bit RGB image, but 16-bit"),
    ],
)
def test_bad_pictures_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, said: str) -> None:
    spoilt(tmp_path / "theirs", kind)
    argv = ["--images", tmp_path / "theirs", "--count", 6, "--output", tmp_path / "out", "--cache", tmp_path / "cache"]
    assert main(["evaluate", *map(str, argv)]) == 1
    printed = capsys.readouterr()
    assert said in printed.err
    assert "Traceback" not in printed.err


def test_odd_pictures_are_converted_and_counted_if_asked(evaluate: Evaluate, tmp_path: Path) -> None:
    spoilt(tmp_path / "theirs", "cmyk")
    results = evaluate("--images", tmp_path / "theirs", "--no-strict", model=False)
    assert "1 images were CMYK and were converted to 8-bit RGB" in results.points[0].notices


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (["--suite", "cocoa"], 1, "no suite 'cocoa'"),
        (["--guidance-scale", "a,b"], 2, "--guidance-scale expects numbers"),
        (["--guidance-scale", "-1"], 1, "guidance_scales must be different and at least 0"),
        (["--guidance-scale", "1,1"], 1, "guidance_scales must be different"),
        (["--count", "9999999"], 1, "count is 9999999"),
        (["--suite", "coco2014-fid30k", "--root", "nowhere"], 1, "nowhere"),
        (["--clip", "nowhere/at/all"], 1, "nowhere"),
        (
            ["--clip", "nowhere/here", "--more-features", "clip-l14-336"],
            1,
            "in as --clip (in a suite, clip: {path: FOLDER})",
        ),
        (["--scorers", "vqascore"], 1, "the scorer vqascore needs path"),
        (["--feature-extractor", "inceptoin"], 1, "no feature extractor 'inceptoin'"),
        (["--images", "a", "--model", "toybox"], 2, "not both"),
        (["--model", "nowhere"], 1, "nowhere"),
        (["--scorers", "pikscore"], 1, "no scorer named 'pikscore'; did you mean pickscore"),
        (["--more-features", "clip"], 1, "more_features must be others than 'clip' and 'clip'"),
    ],
)
def test_wrong_input_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], argv: list[str], code: int, said: str
) -> None:
    places = ["--output", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]
    assert main(["evaluate", *argv, *places, *([] if "--count" in argv else ["--count", "4"])]) == code
    printed = capsys.readouterr()
    assert said in printed.err
    assert printed.err.splitlines()[-1].startswith("ediffi: error: ")


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_each_prompt_is_painted_with_its_own_controls(scale: float, model_folder: Path) -> None:
    """As each would be alone; the areas and the style image change what is painted."""
    cascade = Cascade.from_pretrained(model_folder)
    cascade = cascade.up_to(cascade.stages[0].name)
    prompts = ["a red circle and a blue square"] * 3
    style, box = Image.new("RGB", (64, 64), "red"), (0.0, 0.0, 0.5, 1.0)
    controls = [Controls(), Controls(), Controls(style=style), Controls(areas=(("red circle", box),))]
    options = SamplingOptions(seed=3, paint_weight=2.0)
    generator = CascadeGenerator(cascade, options, controls=controls, style_scale=scale)
    made = generator(prompts, first_index=1)
    assert generator.settings.get("style_scale", 1.0) == scale
    region = Region("red circle", polygon([[0.0, 0.0], [0.5, 0.0], [0.5, 1.0], [0.0, 1.0]]))
    alone = [{}, {"style": Style(style, scale)}, {"paint": [region]}]
    for number, (image, one) in enumerate(zip(made, alone, strict=True), start=1):
        chosen = replace(options, first_index=number)
        expected = cascade.generate(prompts[0], replace(chosen, **one)).images[0]
        plain = cascade.generate(prompts[0], chosen).images[0]
        far = [int(np.abs(np.asarray(image, int) - np.asarray(other, int)).max()) for other in (expected, plain)]
        assert far[0] <= 1
        assert (far[1] > 1) == bool(one)


def test_a_model_without_a_stage_of_the_size_is_refused(model_folder: Path) -> None:
    from ediffi.pipeline.cascade import Cascade

    cascade = Cascade.from_pretrained(model_folder)
    assert [stage.name for stage in at_size(cascade, 16).stages] == ["base"]
    with pytest.raises(ValueError, match="256 pixels, and model 'tiny' makes 16, 64"):
        at_size(cascade, 256)


def test_a_set_of_ones_own_and_another_systems_shards(
    evaluate: Evaluate, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As an outsider does it: captions out, images in shards back, numbers under the suite's own name."""
    root, theirs = tmp_path / "kitchens", tmp_path / "theirs"
    root.mkdir()
    theirs.mkdir()
    rows = []
    for index, (scene, caption) in enumerate(prompts(5, 8)):
        Image.fromarray(render(scene, 64)).save(root / f"k{index}.png")
        rows.append(json.dumps({"file_name": f"k{index}.png", "caption": f"{caption.text} (3:45)"}))
    (root / "metadata.jsonl").write_text("\n".join(rows))
    suite = {"name": "kitchens", "dataset": "own", "count": 6, "image_size": 64, "feature_extractor": "clip"}
    suite |= {"clip": {"path": str(model_folder / "encoders" / "clip")}}
    suite |= {"dataset_options": {"captions": "metadata.jsonl"}}
    (tmp_path / "kitchens.yaml").write_text(yaml.safe_dump(suite))
    known = ["--root", str(root)]
    written = str(tmp_path / "captions.jsonl")
    assert main(["evaluate", "captions", str(tmp_path / "kitchens.yaml"), "-o", written, *known]) == 0
    assert capsys.readouterr().out == f"6 captions in {written}\n"
    lines = [json.loads(line) for line in Path(written).read_text().splitlines()]
    assert [line["number"] for line in lines] == list(range(6))
    assert all(line["caption"].endswith("(3:45)") for line in lines)
    with tarfile.open(theirs / "00000.tar", "w") as tar:
        for line in reversed(lines):
            tar.add(root / f"{line['id']}.png", f"{line['id']}.png")
    results = evaluate("--suite", tmp_path / "kitchens.yaml", *known, "--images", theirs, model=False)
    assert results.points[0].metrics["frechet_clip"] >= 0
    assert dataset_name(results) == "kitchens"
    assert (results.protocol["dataset"]["pictures"], results.protocol["selection"]["count"]) == (8, 6)


def test_what_does_not_fit_is_one_sentence_and_loses_nothing(
    evaluate: Evaluate, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], scored: dict[str, Any]
) -> None:
    """After every refused run, the same command as before measures nothing again and says the same."""

    def pictures(name: str, numbers: Iterable[int], words: bool = False) -> Path:
        (tmp_path / name).mkdir()
        for k in numbers:
            Image.new("RGB", (32, 32), (30 * k, 90, 90)).save(tmp_path / name / f"{k:05d}.png")
            if words:
                (tmp_path / name / f"{k:05d}.txt").write_text(f"number {k}")
        return tmp_path / name

    def refused(said: str, *argv: object) -> None:
        assert main([str(word) for word in ("evaluate", *argv)]) == 1
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("ediffi: error: ")
        assert re.search(said, error), error

    clip = str(model_folder / "encoders" / "clip")
    known = {"name": "mine", "dataset": "own", "count": 6, "image_size": 32, "feature_extractor": "clip"}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(known | {"clip": {"path": clip}}))
    (tmp_path / "newer.yaml").write_text(yaml.safe_dump(known | {"version": 2}))
    own = ("--root", pictures("own", range(6), words=True), "--cache", tmp_path / "reference", "-o", tmp_path / "out")
    images = ("--images", pictures("theirs", range(8)))
    command = ("--suite", tmp_path / "mine.yaml", *own)
    results = evaluate(*command, *images, "--match", "index", model=False)
    assert "2 of 8 images in theirs have no caption here and are not judged" in results.points[0].notices
    rows, before = tmp_path / "out" / "rows" / "theirs" / "features.npy", files_of(tmp_path / "out")
    fits = (*command, *images, "--match", "index")
    scored["answer"] = lambda images: 1 / 0
    refused("the scorer mine failed: ZeroDivisionError: division by zero", *fits, "--scorers", "mine")
    scored["answer"] = lambda images: [1.0]
    refused(r"must return 6 numbers, and returned an array of shape \[1\]", *fits, "--scorers", "mine")
    scored["answer"] = lambda images: [float("nan")] * len(images)
    refused("the score by mine of 00000.png is not finite", *fits, "--scorers", "mine")
    refused("newer.yaml is not a suite: .*version", "--suite", tmp_path / "newer.yaml", *own, *images)
    refused("holds measurements with other captions and other pictures", *fits, "--count", 5)
    few, none = pictures("few", range(5)), pictures("none", ())
    refused(r"few has 5 images, but none for caption 5", *command, "--images", few, "--match", "index")
    refused("none holds no images", *command, "--images", none)
    refused("count must be at least 2, got 1", *fits, "--count", 1)
    np.savez(tmp_path / "other.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    refused(r"has mu \[2048\] .* clip image_embedding needs", *fits, "--reference", tmp_path / "other.npz")
    assert {name: content for name, content in files_of(tmp_path / "out").items() if name in before} == before
    written, calls = rows.stat().st_mtime_ns, scored["calls"]
    scored["answer"] = lambda images: [float(k) for k in range(len(images))]
    again = [evaluate(*fits, "--scorers", "mine", model=False) for _ in range(2)]
    assert scored["calls"] == calls + 1
    assert rows.stat().st_mtime_ns == written
    assert again[0].points[0].metrics == again[1].points[0].metrics
    assert results.points[0].metrics["clip_score"] == again[0].points[0].metrics["clip_score"]


def files_of(folder: Path) -> dict[str, bytes]:
    """The bytes of all files below a folder, by their path in it."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A registered scorer "mine", that returns what "answer" does, and counts its "calls"."""
    known: dict[str, Any] = {"calls": 0}

    def mine() -> scorers.Scorer:
        def score(images: Sequence[Image.Image], captions: Sequence[str]) -> Any:
            known["calls"] += 1
            return known["answer"](images)

        return score

    monkeypatch.setitem(scorers.scorers._factories, "mine", mine)
    return known
