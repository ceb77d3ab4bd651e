"""What stands on a figure, what does not, and that a figure never shows what does not compare."""

import builtins
import math
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from ediffi.evaluation import tradeoff
from ediffi.evaluation.naming import PAPER, comparable_to_paper, distance_name, shown
from ediffi.evaluation.results import Point, Results, check_comparable
from ediffi.evaluation.tradeoff.axes import dodge, place
from tests.evaluation.evaluations import CLIP, INCEPTION, evaluation, foreign, point

pytest.importorskip("matplotlib")


def texts(several: list[Results]) -> str:
    """All words of a figure."""
    root = ElementTree.fromstring(f"<page>{tradeoff.svg(several, 'one')}</page>")
    return " ".join("".join(element.itertext()) for element in root.iter() if element.tag.endswith("text"))


def marks(text: str, colour: str) -> int:
    """How many marks of a colour there are on a figure, those of the legend among them."""
    return len(re.findall(r"<use [^>]*fill: var\([^,]*, " + colour, text))


def test_table_one_is_the_papers():
    assert PAPER["eDiff-I, Config-D"] == 6.95
    assert PAPER["eDiff-I, Config-A"] == 7.35
    assert len(PAPER) == 9
    assert list(PAPER.values()) == sorted(PAPER.values())


def test_a_sweep_is_a_curve_with_a_labelled_mark_for_each_scale():
    results = evaluation()
    assert tradeoff.plan([results]) == tradeoff.FigurePlan("curve")
    assert marks(tradeoff.svg([results], "one"), "#0072b2") == len(results.points) + 1
    words = texts([results])
    for expected in ("7.5", "ours/model · NFE 25 to 50", "1 = off", "CLIP score", "ViT-g-14", "FID", "5,000 images"):
        assert expected in words, expected


def test_the_line_follows_the_guidance_scale_whatever_the_order_of_points():
    results = evaluation()
    shuffled = replace(results, points=[results.points[k] for k in (2, 0, 3, 1)])
    assert tradeoff.svg([shuffled], "one") == tradeoff.svg([results], "one")


def test_several_models_have_their_own_colours_and_names():
    figure = tradeoff.svg([evaluation(f"model {k}") for k in range(3)], "one")
    for index, colour in enumerate(("#0072b2", "#d55e00", "#009e73")):
        assert marks(figure, colour) == 5
        assert f"model {index} · NFE" in figure


def test_the_paper_stands_only_beside_its_own_protocol():
    same = evaluation(count=30_000)
    assert comparable_to_paper(same)
    words = texts([same])
    assert all(name in words for name in PAPER)
    others = [
        evaluation(),
        evaluation(dataset="visual-genome", count=30_000),
        evaluation(count=30_000, feature_extractor={**INCEPTION, "name": "vgg16"}),
        evaluation(count=30_000, feature_extractor={**INCEPTION, "layer": "768"}),
        evaluation(count=30_000, feature_extractor={**INCEPTION, "weights": "f" * 64}),
        replace(same, suite={**same.suite, "image_size": 64}),
        replace(same, points=[*same.points, point(4, 29_999)]),
        evaluation(count=30_000, reference={"foreign": True}),
        evaluation(count=30_000, reference={"which": "chosen"}),
        evaluation(count=30_000, dataset={"source": "Images in COCO's layout", "pictures": 30_000}),
        replace(same, points=[]),
    ]
    for other in others:
        assert not comparable_to_paper(other)
        assert not tradeoff.plan([other]).paper
    assert "GLIDE" not in texts(others[:1])


def test_one_setting_is_a_bar_among_the_papers():
    one = evaluation(count=30_000, points=[point(3, 30_000, fid=7.0)])
    assert tradeoff.plan([one]) == tradeoff.FigurePlan("bars", paper=True)
    words = texts([one])
    assert "7.00" in words
    assert "CLIP score 34.06" not in words
    assert f"CLIP score {shown('clip_score', one.points[0].metric('clip_score'))}" in words
    rows = re.findall(r"Config-D|ours/model|Config-C", words)
    assert rows == ["Config-D", "ours/model", "Config-C"]


def test_without_clip_scores_distance_stands_over_guidance():
    results = evaluation(scored=False)
    assert tradeoff.plan([results]).kind == "guidance"
    assert "CLIP" not in texts([results])
    assert marks(tradeoff.svg([results], "one"), "#0072b2") == len(results.points) + 1


def test_what_has_no_place_is_named():
    results = evaluation(
        points=[point(0), point(1), point(3, fid=math.nan), point(5, scored=False), foreign({"kid_mean": 0.1})]
    )
    assert tradeoff.plan([results]).left_out == (
        "ours/model, guidance 3: distance is not a number",
        "ours/model, guidance 5: no CLIP score, distance 16.12",
        "ours/model, theirs: distance was not measured",
    )
    assert marks(tradeoff.svg([results], "one"), "#0072b2") == 2 + 1
    assert "guidance 3: distance is not a number" in texts([results])


@pytest.mark.parametrize("metrics", [{}, {"fid": math.nan}, {"fid": math.inf, "clip_score": math.nan}])
def test_no_number_is_said(metrics):
    results = evaluation(points=[foreign(metrics)])
    assert tradeoff.plan([results]).kind == "nothing"
    assert "no finite number" in texts([results])
    assert "no finite number" in tradeoff.describe([results])


def test_other_measures_become_bars_where_there_is_no_distance():
    scored = evaluation(points=[foreign({"clip_score": 30.5})])
    assert tradeoff.plan([scored]) == tradeoff.FigurePlan("bars", "clip_score")
    assert "30.50" in texts([scored])
    assert "NFE" not in texts([scored])
    assert "1 = off" not in texts([scored])
    read = evaluation(points=[foreign({"oracle/shape": 0.25, "oracle/everything": 0.125})])
    assert tradeoff.plan([read]).metric == "oracle/everything"


def test_a_distance_in_other_features_is_not_called_fid():
    assert distance_name(evaluation()) == "FID"
    clip = evaluation(feature_extractor={**CLIP, "name": "clip", "layer": "image_embedding"})
    assert distance_name(clip) == "Fréchet distance, CLIP features"
    assert "FID" not in texts([clip])
    layer = distance_name(evaluation(feature_extractor={**INCEPTION, "layer": "768"}))
    assert layer == "Fréchet distance, Inception features, layer 768"
    other = evaluation(feature_extractor={**INCEPTION, "weights": "f" * 64})
    assert distance_name(other) == "FID, weights ffffffff"


def test_a_distance_in_other_features_has_its_own_name_and_the_same_curve():
    clip = {**CLIP, "name": "clip", "layer": "image_embedding"}
    points = [
        Point(f"p{w}", 500, {"frechet_clip": 3.0 + w, "clip_score": 30.0 + w}, {"guidance_scale": w}) for w in (1, 2)
    ]
    results = evaluation(dataset="toybox", points=points, feature_extractor=clip)
    assert tradeoff.plan([results]) == tradeoff.FigurePlan("curve", "frechet_clip")
    assert "Fréchet distance, CLIP features ↓ better" in " ".join(texts([results]).split())
    scored = [Point(one.name, 500, {"clip_score": one.metrics["clip_score"]}, one.settings) for one in points]
    assert tradeoff.plan([evaluation(points=scored)]) == tradeoff.FigurePlan("guidance", "clip_score")


def test_distances_far_apart_are_on_a_logarithmic_axis():
    near, far = (
        evaluation(points=[point(0, fid=10.0), point(1, fid=30.0)]),
        evaluation("far", points=[point(0), point(1, fid=9e3)]),
    )
    assert "log scale" not in texts([near])
    words = texts([near, far])
    assert "log scale" in words
    assert "$" not in words


@pytest.mark.parametrize("name", ["$\\frac{$", "_hidden", "<b>&amp;</b>", "模型", "a\nb", "x" * 300, '#0072b2 id="x"'])
def test_any_name_is_drawn_as_it_is(name):
    results = evaluation(name)
    words = texts([results])
    if len(name) < 40:
        assert " ".join(name.split()) in words
    else:
        assert "x…x" in words


def test_the_same_numbers_give_the_same_bytes(tmp_path):
    results = evaluation(count=30_000)
    for name in ("figure.png", "figure.svg"):
        tradeoff.draw([results], tmp_path / name)
        first = (tmp_path / name).read_bytes()
        tradeoff.draw([results], tmp_path / name)
        assert (tmp_path / name).read_bytes() == first
    assert {path.name for path in tmp_path.iterdir()} == {"figure.png", "figure.svg"}
    assert np.asarray(Image.open(tmp_path / "figure.png").convert("L")).std() > 10


def test_ids_of_two_figures_on_a_page_differ():
    figures = {prefix: tradeoff.svg([evaluation()], prefix) for prefix in ("one", "two")}
    ids = {prefix: set(re.findall(r'\bid="([^"]+)"', figure)) for prefix, figure in figures.items()}
    assert ids["one"]
    assert not ids["one"] & ids["two"]
    assert set(re.findall(r'(?:url\(|href=")#([^")]+)', figures["one"])) <= ids["one"]


def test_bad_input(tmp_path):
    with pytest.raises(ValueError, match=r"a \.png or \.svg file, got figure\.pdf"):
        tradeoff.draw([evaluation()], tmp_path / "figure.pdf")
    with pytest.raises(ValueError, match="at least one evaluation"):
        tradeoff.plan([])


def test_matplotlib_that_is_missing_is_named(monkeypatch, tmp_path):
    real = builtins.__import__

    def without(name, *rest):
        if name.partition(".")[0] == "matplotlib":
            raise ModuleNotFoundError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(tradeoff.MatplotlibMissing, match=r"pip install 'ediffi\[plots\]'"):
        tradeoff.draw([evaluation()], tmp_path / "figure.png")


@pytest.mark.parametrize(
    ("other", "field"),
    [
        (evaluation("b", dataset="visual-genome"), "suite.dataset is coco2014 and visual-genome"),
        (evaluation("b", count=30_000), "suite.count is 5000 and 30000"),
        (evaluation("b", points=[point(1, 4999)]), "count is 5000 and 4999"),
        (
            evaluation("b", selection={"sha256": "ef" * 32, "count": 5000, "seed": 0}),
            "selection.sha256 is abababababab… and efef",
        ),
        (
            evaluation("b", reference={"which": "all", "resize": "area", "sha256": "cd" * 32}),
            "reference.resize is bicubic, centre square and area",
        ),
        (
            evaluation("b", feature_extractor={**INCEPTION, "name": "vgg16"}),
            "feature_extractor.name is inception-v3-compat",
        ),
        (
            evaluation("b", feature_extractor={"name": "inception-v3-compat"}),
            "feature_extractor.layer is 2048 and None",
        ),
        (evaluation("b", clip={**CLIP, "weights": "00" * 32}), "clip.weights is 121212121212… and 000000000000…"),
        (evaluation("b", guidance="(1 + w) cond - w uncond"), "guidance is guidance_sca… and"),
    ],
)
def test_other_protocols_are_refused_by_the_field_that_differs(other, field):
    with pytest.raises(ValueError, match="ours/model and b were judged by different protocols") as raised:
        tradeoff.svg([evaluation(), other], "one")
    assert field in str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_does_not_move_numbers_may_differ():
    newer = evaluation("b", versions={"torch": "3.0"}, feature_extractor={**INCEPTION, "library": "torch-fidelity 0.5"})
    check_comparable([evaluation(), newer, evaluation("c", scored=False), evaluation("d", points=[])])
    check_comparable([evaluation(), evaluation("e", clip={**CLIP, "name": "a folder"})])
    keys = [{"pictures": "ab", "feature_extractor": {"name": "x", "library": text}, "sha256": text} for text in "12"]
    check_comparable([evaluation(reference=key) for key in keys])
    with pytest.raises(ValueError, match=r"reference\.pictures is ab and cd"):
        check_comparable([evaluation(reference=keys[0]), evaluation(reference={**keys[1], "pictures": "cd"})])


def test_dodged_heights_keep_order_and_distance_and_stay_near():
    heights = [0.1, 0.12, 0.11, 0.5, 0.9, 0.9]
    moved = dodge(heights, 0.05)
    order = np.argsort(heights, kind="stable")
    assert (np.diff(np.array(moved)[order]) > 0.05 - 1e-9).all()
    assert moved[3] == 0.5
    assert np.mean(moved[:3]) == pytest.approx(np.mean(heights[:3]))
    assert dodge([], 0.05) == []


def test_labels_keep_off_lines_and_each_other():
    line = [(0.0, 0.0), (50.0, 50.0), (100.0, 0.0)]
    (offset,) = place([(50.0, 50.0, "3")], [line], 10.0)
    assert offset[1] > 0  # above the peak, where the line is not
    first, second = place([(50.0, 50.0, "3"), (52.0, 50.0, "5")], [line], 10.0)
    apart = abs(50 + first[0] - 52 - second[0]), abs(first[1] - second[1])
    assert apart[0] > 6 or apart[1] > 9


def test_points_know_what_is_best():
    results = evaluation(points=[point(0), point(1, fid=math.nan), point(3)])
    assert results.best("fid") == results.points[2]
    assert results.best("kid_mean", lowest=False) == results.points[2]
    assert results.best("recall") is None
    assert results.points[1].metric("fid") is None
    assert Point("theirs", 2, {}).title == "theirs"


def test_results_go_to_disk_and_back(tmp_path: Path):
    results = evaluation(points=[point(0, fid=math.inf), point(1)])
    path = results.write(tmp_path)
    back = Results.read(tmp_path)
    assert math.isnan(back.points[0].metrics["fid"])
    assert back.points[1] == results.points[1]
    first = path.read_bytes()
    back.write(tmp_path)
    assert path.read_bytes() == first


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"count": 5000,\n   "metrics"', '"count": "many",\n   "metrics"'),
        ('"kid_std": 0.00012', '"kid_std": true'),
        ('"guidance_scale": 1', '"guidance_scale": [1]'),
        ('"notices": []', '"notices": [1]'),
        ('"model": "ours/model"', '"model": null'),
        ("ediffi-evaluation-1", "ediffi-evaluation-9"),
        ("{", ""),
    ],
)
def test_broken_results_are_one_sentence(tmp_path, old, new):
    path = evaluation(points=[point(1)]).write(tmp_path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError, match=r"results\.json holds no results: ") as raised:
        Results.read(tmp_path)
    assert "\n" not in str(raised.value)


def test_a_folder_without_results_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no results\.json in"):
        Results.read(tmp_path)


@pytest.mark.parametrize(("points", "metrics", "told"), [(101, 1, "it has 101 points"), (1, 1001, "a point has 1001")])
def test_results_are_bounded(tmp_path, points, metrics, told):
    """A comparison has each pair of points: 100,000 of them would never end."""
    numbers = {f"oracle/{k}": 0.5 for k in range(metrics)}
    evaluation(points=[Point(f"guidance-{k}", 9, numbers) for k in range(points)]).write(tmp_path)
    with pytest.raises(ValueError, match=f"{told}.*at most .* are allowed"):
        Results.read(tmp_path)
