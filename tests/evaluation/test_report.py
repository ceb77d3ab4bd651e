"""The page says every number and every notice, escapes what is not ours, loads nothing, and mixes no protocols."""

import base64
import builtins
import hashlib
import io
import math
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ediffi.evaluation import report
from ediffi.evaluation.datasets.captioned import CaptionedImage, write_selection
from ediffi.evaluation.datasets.toybox.dataset import Toybox
from ediffi.evaluation.meaning import MEANINGS, meaning
from ediffi.evaluation.metrics import paired
from ediffi.evaluation.metrics.intervals import mean
from ediffi.evaluation.metrics.rows import PassLayout, open_rows
from ediffi.evaluation.report import ReportSample, judged_sample
from ediffi.evaluation.report.differences import DifferenceTable, _signed, difference_table
from ediffi.evaluation.report.export import write_table
from ediffi.evaluation.report.gallery import SCRIPT, gallery
from ediffi.evaluation.report.stored import PLACES, SELECTION, StoredEvaluation, record_places
from ediffi.evaluation.report.tables import headlines, main_table, marked, parts
from ediffi.evaluation.results import Point, Results
from tests.evaluation.evaluations import CLIP, INCEPTION, SCALES, evaluation, foreign, point

pytest.importorskip("matplotlib")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
KNOWN = ("fid", "kid_mean", "clip_score")
SPANS = ((16.125, 26.125), (6.125, 16.125), (11.125, 16.125), (6.125, 11.125))
HOSTILE = '<script>alert("x")</script><img src="http://127.0.0.1:9/x.png" onerror=alert(1)> {{ 7*191 }} \' & "'


class Page(HTMLParser):
    """What stands on a page: its tags with their attributes, its words, and the numbers of its `<data>` elements."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def numbers(self) -> set[float]:
        return {float(one["value"] or "nan") for one in self.of("data")}

    @property
    def best(self) -> list[float]:
        return sorted(float(one["value"] or "nan") for one in self.of("data") if one.get("class") == "best")


def picture(shade: int, side: int = 64) -> Image.Image:
    return Image.fromarray(np.full((side, side, 3), shade, np.uint8))


def read_points(metrics: dict[str, list[float]]) -> list[Point]:
    """A point for each guidance scale, with an oracle's fields."""
    points = [point(scale) for scale in SCALES]
    return [
        Point(
            one.name, one.count, {**one.metrics, **{name: values[k] for name, values in metrics.items()}}, one.settings
        )
        for k, one in enumerate(points)
    ]


def test_every_number_stands_on_the_page(tmp_path):
    oracle = {"oracle/shape": [0.125, 0.25, 0.75, 0.5], "oracle/everything": [0.1, 0.2, 0.3, math.nan]}
    results = evaluation(points=read_points(oracle))
    page = Page(report.write(results, tmp_path))
    wanted = {
        value for one in results.points for name, value in one.metrics.items() if value == value and name != "kid_std"
    }
    assert wanted <= page.numbers
    assert "± 0.00012" in page.words
    assert "not a number" in page.words
    for text in ("5,000", "guidance 7.5", "all of it", "ours/model"):
        assert text in page.words


def test_every_number_says_what_it_is(tmp_path):
    metrics = {"fid_infinity": [1.0] * 4, "vendi@clip": [2.0] * 4, "mine": [3.0] * 4, "oracle/all of it": [0.5] * 4}
    page = Page(report.write(evaluation(points=read_points(metrics)), tmp_path))
    places = {one["id"] for one in page.of("dt") if "id" in one}
    terms = [one["href"].removeprefix("#") for one in page.of("a") if one.get("class") in ("plain term", "label")]
    assert set(terms) == {"is-" + name.replace(" ", "-") for name in (*KNOWN, *metrics)}
    assert places == {*terms, "is-kid_std"}  # which stands beside KID, where it has no interval
    for name in (*KNOWN, *metrics):
        assert " ".join(meaning(name).split()) in page.words
    assert meaning("frechet_clip_infinity") == meaning("fid_infinity") != meaning("fid") == meaning("frechet_clip")
    assert meaning("mine").startswith("Mean of what the scorer mine says")


def test_what_each_number_is_stands_in_the_docs():
    text = " ".join((Path(__file__).parents[2] / "docs/evaluating.md").read_text().split())
    assert [one for one in MEANINGS.values() if one not in text] == []


def test_a_system_that_has_one_setting_is_named_once(tmp_path):
    folders = [judged(tmp_path / "a", "a system", (None,), 0), judged(tmp_path / "b", "another one", (None,), 2)]
    for folder in folders:
        results = Results.read(folder)
        replace(results, points=[replace(one, name=results.model) for one in results.points]).write(folder)
    several = [Results.read(folder) for folder in folders]
    page = Page(report.compare(folders, tmp_path / "page.html", captions=0))
    assert "ModelImages" in page.words
    assert "a system5,000" in page.words
    write_table(several, tmp_path / "table.md")
    head, rule, first, *_ = (tmp_path / "table.md").read_text().splitlines()
    assert head.startswith("| Model | Images |")
    assert rule.startswith("| --- | ---: |")
    assert first.startswith("| a system | 5,000 |")


def with_intervals(points: list[Point], half: float) -> list[Point]:
    """Each number with an interval of so much to both sides."""
    known = [{name: (v - half, v + half) for name, v in one.metrics.items() if v == v} for one in points]
    return [replace(one, intervals=ends) for one, ends in zip(points, known, strict=True)]


def test_the_best_of_each_column_is_marked_with_all_that_cannot_be_told_from_it(tmp_path):
    oracle = {"oracle/shape": [0.125, 0.25, 0.75, 0.75]}
    points = with_intervals(read_points(oracle), 1e-9)
    best = [12.125, min(one.metrics["kid_mean"] for one in points), max(p.metrics["clip_score"] for p in points)]
    assert Page(report.write(evaluation(points=points), tmp_path)).best == sorted([*best, 0.75, 0.75])
    wide = with_intervals(read_points({}), 3)  # FIDs of 12.125, 16.125 and 21.125 at their guidance scales
    assert [p.guidance_scale for p, best in zip(wide, marked("fid", wide), strict=True) if best] == [1, 3]
    assert not any(marked("kid_mean", wide))  # all of them cannot be told apart
    page = Page(report.write(evaluation(points=wide), tmp_path))
    assert "12.12" in page.words
    assert "9.12 to 15.12" in page.words
    alone = evaluation(points=points[:1])
    assert Page(report.write(alone, tmp_path)).best == []


def test_without_intervals_nothing_is_called_best(tmp_path):
    results = evaluation(points=read_points({"oracle/shape": [0.125, 0.25, 0.75, 0.75]}))
    page = Page(report.write(results, tmp_path))
    assert page.best == []
    assert "●" not in page.words


def test_an_interval_is_drawn_where_it_lies_in_its_column():
    points = [replace(one, intervals={"fid": ends}) for one, ends in zip(evaluation().points, SPANS, strict=True)]
    ((_, rows),) = main_table([evaluation(points=points)]).groups
    assert [cells[0].track for _, cells in rows] == [(50, 100, 75), (0, 50, 50), (25, 50, 30), (0, 25, 100)]


def test_a_wide_table_is_split_into_parts_with_every_metric_once():
    metrics = {"fid": [9.0, 8.0, 7.0, 6.0], **{f"scorer{k}": [float(k)] * 4 for k in range(13)}}
    table = main_table([evaluation(points=read_points(metrics))])
    found = parts(table)
    assert [column for part in found for column in part.columns] == list(table.columns)
    assert max(len(part.columns) for part in found) <= 9
    rows = [[cells for _, own in part.groups for _, cells in own] for part in found]
    whole = [cells for _, own in table.groups for _, cells in own]
    assert [[cell for cells in row for cell in cells] for row in zip(*rows, strict=True)] == [list(c) for c in whole]
    assert parts(main_table([evaluation(points=[])])) == []


def test_a_difference_shown_as_zero_has_no_sign():
    assert [_signed("hpsv2", value) for value in (-1e-9, 0.0, 2e-5, -2e-5)] == [
        "0.00000",
        "0.00000",
        "+0.00002",
        "-0.00002",
    ]


def test_headlines_are_the_best_and_say_where():
    lowest, highest = headlines([evaluation()])
    assert (lowest.name, lowest.text, lowest.where) == ("lowest FID", "12.12", "guidance 3")
    assert (highest.name, highest.where) == ("highest CLIP score", "guidance 7.5")
    (only,) = headlines([evaluation(points=[foreign({"fid": 3.0})])])
    assert (only.name, only.where) == ("FID", "theirs")


def test_everything_that_repeats_the_number_is_there(tmp_path):
    results = evaluation()
    command = ["ediffi", "evaluate", "--suite", "my suite"]
    page = Page(report.write(results, tmp_path, command=command))
    assert "ediffi evaluate --suite 'my suite'" in page.words
    for value in ("ab" * 32, "cd" * 32, *INCEPTION.values(), *CLIP.values(), "captions_val2014.json", "2.15.0", "deis"):
        assert value in page.words, value
    assert "1 = off" in page.words
    assert "dataset: coco2014" in page.words  # the suite, as YAML
    elsewhere = evaluation(points=[foreign({"fid": 3.0})], command="ediffi evaluate --images theirs")
    assert "ediffi evaluate --images theirs" in Page(report.write(elsewhere, tmp_path)).words
    assert "Not known: the images were made elsewhere." in Page(report.write(elsewhere, tmp_path)).words


def test_notices_come_once_with_their_settings_and_before_the_numbers(tmp_path):
    of_all, of_one = "4,999 is less than 5,000.", "One picture was black."
    points = [Point(one.name, one.count, one.metrics, one.settings, [of_all]) for one in evaluation().points]
    points[1] = Point(points[1].name, 5000, points[1].metrics, points[1].settings, [of_all, of_one])
    page = Page(report.write(evaluation(points=points), tmp_path))
    assert page.words.count(of_all) == page.words.count(of_one) == 1
    assert re.search(re.escape(of_one) + r"\s*\(guidance 1\)", page.words)
    assert not re.search(re.escape(of_all) + r"\s*\(", page.words)
    assert page.words.index(of_all) < page.words.index("lowest FID")


def test_what_is_not_ours_is_escaped(tmp_path):
    points = [Point(HOSTILE, 5000, {"fid": 1.0, HOSTILE: 2.0, f"{HOSTILE}/x": 0.5}, {HOSTILE: HOSTILE}, [HOSTILE])]
    results = evaluation(HOSTILE, points=points, dataset={HOSTILE: HOSTILE}, extra=HOSTILE)
    results = Results(results.model, {**results.suite, "about": HOSTILE, "name": HOSTILE}, results.protocol, points)
    samples = {HOSTILE: [ReportSample(HOSTILE, picture(9), HOSTILE, False)]}
    page = Page(report.write(results, tmp_path, samples, HOSTILE))
    assert len(page.of("script")) == 1
    assert "</script>" not in SCRIPT.read_text()
    text = (tmp_path / "report.html").read_text()
    assert text.split("<script>")[1].split("</script>")[0] == SCRIPT.read_text()
    digest = base64.b64encode(hashlib.sha256(SCRIPT.read_bytes()).digest()).decode()
    assert (page.of("meta")[-1]["content"] or "").endswith(f"; script-src 'sha256-{digest}'")
    assert len(page.of("img")) == 1
    assert page.of("img")[0]["alt"] == HOSTILE
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert "1337" not in page.words
    assert page.words.count(HOSTILE) > 8


def test_nothing_is_loaded_from_elsewhere(tmp_path):
    results = evaluation(points=read_points({"oracle/shape": [0.1, 0.2, 0.3, 0.4]}))
    path = report.write(results, tmp_path, {"guidance-3": [ReportSample("a circle", picture(9))]})
    page = Page(path)
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "data", "poster", "action"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:")) or (tag, name) == ("data", "value"), (tag, value)
    assert not re.search(r"https?:|@import|url\((?!#)", path.read_text())
    content = page.of("meta")[-1]["content"] or ""
    assert content.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-")
    assert {path.name for path in tmp_path.iterdir()} == {"report.html"}


def test_the_figure_is_on_the_page_and_described(tmp_path):
    page = Page(report.write(evaluation(), tmp_path))
    for figure in page.of("svg"):  # one for wide screens, one for narrow ones
        assert figure["role"] == "img"
        assert figure["aria-label"] == (
            "FID against CLIP score, a point for each guidance scale, of ours/model, on COCO 2014 validation."
        )
    assert len(page.of("svg")) == 2
    assert all("scope" in head for head in page.of("th"))


def test_every_number_links_to_its_protocol(tmp_path):
    text = report.write(evaluation(points=read_points({"oracle/shape": [0.1, 0.2, 0.3, 0.4]})), tmp_path).read_text()
    assert text.count("<data ") == text.count('<a class="plain" href="#protocol-0"><data ') > 12
    assert 'id="protocol-0"' in text
    assert 'id="sampling-ours/model"' in text


def test_without_matplotlib_the_page_says_so(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name.partition(".")[0] == "matplotlib":
            raise ModuleNotFoundError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    page = Page(report.write(evaluation(), tmp_path))
    assert not page.of("svg")
    assert "There is no figure: figures need matplotlib: pip install 'ediffi[plots]'." in page.words
    assert 12.125 in page.numbers


def test_pictures_are_small_and_inside(tmp_path):
    big = Image.fromarray(np.random.default_rng(0).integers(0, 255, (600, 300, 3), np.uint8))
    samples = {"guidance-1": [ReportSample("noise", big), ReportSample("flat", picture(200), "right", True)]}
    page = Page(report.write(evaluation(), tmp_path, samples))
    files = [base64.b64decode((one["src"] or "").partition(",")[2]) for one in page.of("img")]
    noise, flat = (Image.open(io.BytesIO(file)) for file in files)
    assert (noise.format, noise.size) == ("JPEG", (96, 192))
    assert (flat.format, flat.size) == ("PNG", (64, 64))
    assert np.asarray(flat).tolist() == np.asarray(picture(200)).tolist()
    assert "✓ right" in page.words
    assert big.size == (300, 600)


def test_images_of_a_caption_stand_in_one_row():
    one = [ReportSample("a", picture(1)), ReportSample("b", picture(2))]
    two = [ReportSample("b", picture(4)), ReportSample("a", picture(3))]
    results, other = evaluation(), evaluation("theirs", points=[foreign({"fid": 3.0})])
    found = gallery([(results, {"guidance-1": one, "guidance-3": two}), (other, {"theirs": one})], {1: 0.5}, "it")
    assert found is not None
    shown = [(row.caption, [(m, [f.title for f in figures]) for m, figures in row.systems]) for row in found.rows]
    both = [("ours/model", ["guidance 1", "guidance 3"]), ("theirs", ["theirs"])]
    assert shown == [("b", both), ("a", both)]  # where they differ most comes first
    assert (found.scales, found.start, found.several) == ([1, 3], 1, True)
    assert gallery([(results, {"guidance-1": []})]) is None


def test_a_verdict_is_what_the_data_set_measured():
    world = Toybox(size=8)
    first, second = world.items()[:2]
    image = world.reference(first, 64)
    assert judged_sample(first.caption, image, world.measure(first, image))[2:4] == ("right", True)
    wrong = judged_sample(second.caption, image, world.measure(second, image))
    assert wrong.right is False
    assert wrong.verdict is not None
    assert "everything" not in wrong.verdict
    assert wrong.verdict.startswith("wrong: ")
    assert judged_sample("a photograph", image, {})[2:4] == (None, None)


def test_the_same_results_give_the_same_page(tmp_path):
    samples = {"guidance-1": [ReportSample("flat", picture(200))]}
    first = report.write(evaluation(), tmp_path, samples).read_bytes()
    assert report.write(evaluation(), tmp_path, samples).read_bytes() == first


def test_samples_of_an_unknown_point_are_refused(tmp_path):
    with pytest.raises(ValueError, match="samples of 'guidance-9', and the results have only guidance-0, guidance-1"):
        report.write(evaluation(), tmp_path, {"guidance-9": []})


def written(folder: Path, *several: Results) -> list[Path]:
    for index, results in enumerate(several):
        results.write(folder / f"run{index}")
    return [folder / f"run{index}" for index in range(len(several))]


def test_a_comparison_has_a_figure_and_a_table_for_each_data_set(tmp_path):
    flowers = [evaluation(name, dataset="visual-genome") for name in ("one", "two")]
    folders = written(tmp_path, evaluation("one"), *flowers, evaluation("two", points=[point(3, fid=5.5)]))
    page = Page(report.compare(folders, tmp_path / "all" / "page.html", "ediffi evaluate compare"))
    first, _, second, _ = page.of("svg")
    assert "of one, two, on COCO" in (first["aria-label"] or "")
    assert "of one, two, on Visual Genome" in (second["aria-label"] or "")
    assert 5.5 in page.numbers
    assert "two, guidance 3" in page.words
    assert not page.of("img")
    assert "ediffi evaluate compare" in page.words


def test_models_of_one_name_are_told_apart_by_their_folders(tmp_path):
    page = Page(report.compare(written(tmp_path, evaluation("m"), evaluation("m")), tmp_path / "page.html"))
    assert "m (run0) · m (run1)" in page.words
    (tmp_path / "other").mkdir()
    (second,) = written(tmp_path / "other", evaluation("m"))
    page = Page(report.compare([tmp_path / "run0", second], tmp_path / "page.html"))
    assert f"m ({second})" in page.words


def test_a_notice_on_all_models_has_no_owner_and_on_one_has(tmp_path):
    def noticed(*texts: str) -> list[Point]:
        return [Point(one.name, one.count, one.metrics, one.settings, texts) for one in evaluation().points]

    several = (
        evaluation("one", points=noticed("Few pictures.", "Blurred.")),
        evaluation("two", points=noticed("Few pictures.")),
    )
    page = Page(report.compare(written(tmp_path, *several), tmp_path / "page.html"))
    assert page.words.count("Few pictures.") == 1
    assert not re.search(r"Few pictures\.\s*\(", page.words)
    assert re.search(r"Blurred\.\s*\(one\)", page.words)


def test_other_versions_are_noticed(tmp_path):
    folders = written(
        tmp_path, evaluation("one"), evaluation("two", versions={"torch": "3.0", "torch-fidelity": "0.4.0"})
    )
    page = Page(report.compare(folders, tmp_path / "page.html"))
    assert "Judged with different versions of torch: 2.15.0 (one), 3.0 (two)." in page.words
    assert "different versions of torch-fidelity" not in page.words


def test_a_comparison_across_protocols_is_refused_and_writes_nothing(tmp_path):
    other = evaluation("two", feature_extractor={**INCEPTION, "name": "vgg16"})
    folders = written(tmp_path, evaluation("one"), other)
    with pytest.raises(ValueError, match=r"one and two .* feature_extractor\.name is inception-v3-compat and vgg16$"):
        report.compare(folders, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()
    with pytest.raises(ValueError, match="at least two folders, got 1"):
        report.compare(folders[:1], tmp_path / "page.html")
    with pytest.raises(ValueError, match="run0 was given twice"):
        report.compare([folders[0], tmp_path / "run0"], tmp_path / "page.html")
    with pytest.raises(FileNotFoundError, match=r"no results\.json"):
        report.compare([folders[0], tmp_path / "nowhere"], tmp_path / "page.html")


def judged(folder: Path, model: str, scales: tuple[float | None, ...], seed: int, count: int = 6) -> Path:
    """An evaluation as the command leaves it, with rows and images of which one is broken."""
    items = [CaptionedImage(f"k{k}", f"caption number {k}", str(k)) for k in range(count)]
    folder.mkdir()
    write_selection(items, folder / SELECTION)
    points = []
    for number, scale in enumerate(scales):
        name, rng = "theirs" if scale is None else f"guidance-{scale:g}", np.random.default_rng((seed, number))
        (folder / name).mkdir()
        for k in range(count):
            Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(folder / name / f"{k:05d}.png")
        rows = open_rows(folder / "rows" / name, PassLayout({}, count, (16, 16), scored=True))
        every = np.ones(count, bool)
        rows.write("scores", 0, every, np.float32(30 + seed * np.arange(count) + number))
        rows.write("states", 0, every, np.array([1] * (count - 1) + [2], np.uint8))
        made = foreign({"fid": 3.0, "clip_score": 30.0}) if scale is None else point(scale)
        points.append(replace(made, name=name))
    results = evaluation(model, points=points)
    results.write(folder)
    record_places(folder, {one.name: folder / one.name for one in points}, "name")
    return folder


def test_what_was_changed_in_a_folder_is_refused(tmp_path):
    folder = judged(tmp_path / "a", "ours", (1,), 0)
    for name, change, sentence in (
        (
            "results.json",
            lambda text: text.replace('"count": 5000', '"count": 5001'),
            "has another sha256 than it says",
        ),
        ("results.json", lambda text: "[" * 100_000, "holds no results"),
        (SELECTION, lambda text: text[:-9], "has 5 captions of 6 images"),
        (SELECTION, lambda text: "[1]\n", "is broken"),
        (SELECTION, lambda text: "{}\n", "is broken"),
    ):
        text = (folder / name).read_text()
        (folder / name).write_text(change(text))
        with pytest.raises(ValueError, match=sentence):
            list(StoredEvaluation(folder, Results.read(folder)).table())
        (folder / name).write_text(text)
    assert len(list(StoredEvaluation(folder, Results.read(folder)).table())) == 6


def test_systems_are_compared_image_by_image_where_they_differ_most(tmp_path):
    folders = [judged(tmp_path / "a", "ours", (1, 3), 0), judged(tmp_path / "b", "theirs", (None,), 2)]
    page = Page(report.compare(folders, tmp_path / "page.html", captions=3))
    assert len(page.of("img")) == 9
    rows = [attributes for tag, attributes in page.tags if tag == "section" and attributes.get("class") == "row"]
    assert [row["data-number"] for row in rows] == ["4", "3", "2"]  # the last image is broken
    assert [one["alt"] for one in page.of("img")][::3] == [f"caption number {k}" for k in (4, 3, 2)]
    assert "guidance 1 · CLIP score 30" in page.words
    assert "CLIP score 38" in page.words
    for folder, name in ((folders[0], "guidance-3"), (folders[1], "theirs")):
        beside = open_rows(folder / "rows" / f"{name}@pickscore", PassLayout({}, 6, (16, 16), scored=True))
        beside.write("scores", 0, np.ones(6, bool), np.float32(20 + np.arange(6)))
        beside.write("states", 0, np.ones(6, bool), np.ones(6, np.uint8))
    assert "CLIP score 38 · PickScore 24" in Page(report.compare(folders, tmp_path / "page.html")).words
    (folders[0] / PLACES).rename(folders[0] / "kept.json")
    assert "no images.json in" in Page(report.compare(folders, tmp_path / "page.html")).words
    (folders[0] / "kept.json").rename(folders[0] / PLACES)
    shutil.rmtree(tmp_path / "b" / "theirs")
    page = Page(report.compare(folders, tmp_path / "page.html"))
    assert not page.of("img")
    assert "The images cannot be shown: no folder" in page.words


def test_differences_are_paired_and_say_how_sure_they_are(tmp_path):
    folders = [judged(tmp_path / "a", "ours", (1, 3), 0), judged(tmp_path / "b", "theirs", (None,), 2)]
    page = Page(report.compare(folders, tmp_path / "page.html"))
    assert "The differences of the systems are not known: no influences.safetensors in" in page.words
    values = np.random.default_rng(0).normal(30, 5, 40)
    captions, units = "ab", np.arange(40)
    paired.write(folders[0] / "rows" / "guidance-3", {"clip_score": mean(values)}, units, captions)
    noise = np.random.default_rng(1).normal(0, 0.1, 40)
    paired.write(folders[1] / "rows" / "theirs", {"clip_score": mean(values + 0.5 + noise)}, units, captions)
    table = difference_table([StoredEvaluation(folder, Results.read(folder)) for folder in folders])
    assert isinstance(table, DifferenceTable)
    ((system, (cell,)),) = table.rows
    assert (table.first, system) == ("ours, guidance 3", "theirs")
    assert (cell.title, cell.clear, cell.p_value) == ("CLIP score ↑", True, "p < 0.001")
    assert float(cell.value) == pytest.approx(0.5 + noise.mean())
    page = Page(report.compare(folders, tmp_path / "page.html"))
    assert cell.text.startswith("+0.")
    assert float(cell.value) in page.numbers
    paired.write(folders[1] / "rows" / "theirs", {"clip_score": mean(values + noise)}, units, "others")
    assert "different captions" in Page(report.compare(folders, tmp_path / "page.html")).words


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_browser_shows_all_of_it_without_a_complaint_or_a_request(tmp_path):
    playwright = pytest.importorskip("playwright.sync_api")
    (tmp_path / "one").mkdir()
    scores = {name: [-0.04428, -0.04429, -0.04359, -0.04595] for name in ("hpsv2", "pickscore", "lpips_diversity")}
    scores |= {f"kid{k}": [-2.14937, -2.26085, -1.90809, -2.25227] for k in range(9)}  # long numbers, long intervals
    points = with_intervals(read_points({"oracle/shape": [0.125, 0.25, 0.75, 0.5], **scores}), 0.1)
    samples = {"guidance-1": [ReportSample(HOSTILE, picture(200))], "guidance-3": [ReportSample(HOSTILE, picture(20))]}
    single = report.write(evaluation(points=points), tmp_path / "one", samples, "ediffi evaluate --suite toybox")
    folders = [judged(tmp_path / "a", "ours", (1, 3, 8), 0), judged(tmp_path / "b", "theirs", (None,), 2)]
    both = report.compare(folders, tmp_path / "page.html")
    asked: list[str] = []
    complaints: list[Any] = []
    outside = """[...document.querySelectorAll('main *:not(.hidden)')].filter(one => !one.closest('svg, .hidden') &&
        one.getBoundingClientRect().width && one.getBoundingClientRect().right > innerWidth + 1).length"""
    wider = "[...document.querySelectorAll('.container')].filter(one => one.scrollWidth > one.clientWidth).length"
    with playwright.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for width, scheme in ((1440, "light"), (1180, "light"), (390, "dark")):
            tab = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme).new_page()
            tab.on("request", lambda request: asked.append(request.url))
            tab.on("console", lambda message: complaints.append(message.text))
            tab.on("pageerror", lambda error: complaints.append(str(error)))
            for path in (single, both):
                tab.goto(path.as_uri())
                assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
                assert tab.evaluate(outside) == 0
                assert tab.evaluate(wider) == 0
                assert tab.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
                assert tab.locator("svg[role=img]:visible").bounding_box()["height"] > 200
                assert tab.locator("data:visible").count() == tab.locator("data").count()
            tab.screenshot(path=tmp_path / f"{scheme}.png", full_page=True)
            paper = np.asarray(Image.open(tmp_path / f"{scheme}.png").convert("L"))[5, 5]
            assert paper > 240 if scheme == "light" else paper < 40
            captions = tab.locator(".row:visible .caption")
            assert captions.first.text_content() == "caption number 4"
            tab.locator("[name=order]").select_option("caption")
            assert captions.first.text_content() == "caption number 0"
            tab.locator("[name=search]").fill("NUMBER 3")
            assert captions.all_text_contents() == ["caption number 3"]
            shown = tab.locator(".row:visible figure:visible")
            assert shown.count() == 2
            tab.locator("[name=guidance]").fill("2")
            assert "guidance 8" in shown.first.text_content()
            tab.locator("[name=all]").check()
            assert shown.count() == 4
        chromium.close()
    assert not complaints
    assert not [url for url in asked if not url.startswith(("data:", "file:"))]
