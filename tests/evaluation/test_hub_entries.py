"""What is written for the Hub is read back by the Hub's own library, number for number."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries
from huggingface_hub.repocard_data import model_index_to_eval_results

from ediffi.evaluation import model_index
from tests.evaluation.evaluations import SCALES, evaluation, foreign, point


def read(path: Path) -> object:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_the_model_index_holds_every_number_and_its_setting(tmp_path):
    results = evaluation()
    path, _ = model_index.write(results, tmp_path)
    name, found = model_index_to_eval_results(read(path)["model-index"])
    assert name == "ours/model"
    assert found == model_index.eval_results(results)
    values = {(one.metric_type, one.metric_args["guidance_scale"]): one.metric_value for one in found}
    assert values == {(key, one.guidance_scale): value for one in results.points for key, value in one.metrics.items()}
    one = found[0]
    assert (one.task_type, one.dataset_type, one.dataset_config) == ("text-to-image", "coco2014", "coco2014-suite")
    assert one.dataset_args == {"sha256": "ab" * 32, "count": 5000, "seed": 0}
    assert one.metric_name == "FID, guidance 0"


def test_a_model_card_takes_it_as_its_metadata(tmp_path):
    results = evaluation('我们/<model>: "x"', points=[point(3)])
    path, _ = model_index.write(results, tmp_path)
    card = ModelCard(f"---\n{path.read_text(encoding='utf-8')}---\n# A model\n")
    assert card.data.eval_results == model_index.eval_results(results)
    assert card.data.model_name == results.model


def test_entries_are_the_setting_of_the_lowest_distance(tmp_path):
    results = evaluation()
    _, path = model_index.write(results, tmp_path, "owner/coco", "https://example.org/report", "2026-01-02")
    assert path == tmp_path / ".eval_results" / "coco2014-suite.yaml"
    found = parse_eval_result_entries(read(path))
    assert found == model_index.entries(results, "owner/coco", "https://example.org/report", "2026-01-02")
    best = results.points[SCALES.index(3.0)]
    assert {one.task_id: one.value for one in found} == {
        f"coco2014-suite-{key}": value for key, value in best.metrics.items()
    }
    fid = found[0]
    assert (fid.dataset_id, fid.date, fid.source_url) == ("owner/coco", "2026-01-02", "https://example.org/report")
    assert fid.notes == (
        "guidance 3, the lowest distance of 4 settings; NFE 50; 5000 images; FID; captions sha256 abababababab"
    )


def test_the_dataset_of_a_suite_on_the_hub_is_that_of_its_entries(tmp_path):
    results = evaluation()
    results = replace(results, suite={**results.suite, "hub_dataset": "our-lab/kitchens"})
    assert {one.dataset_id for one in model_index.entries(results)} == {"our-lab/kitchens"}
    broken = replace(results, suite={**results.suite, "hub_dataset": "our lab"})
    with pytest.raises(ValueError, match="dataset_id must be a dataset of the Hub, owner/name; got 'our lab'"):
        model_index.write(broken, tmp_path)


def test_what_is_no_number_is_not_published(tmp_path):
    results = evaluation(points=[point(1, fid=math.nan), foreign({"clip_score": 31.0, "recall": math.inf})])
    path, entries = model_index.write(results, tmp_path)
    text = path.read_text() + entries.read_text()
    assert "nan" not in text
    assert "inf" not in text
    assert model_index.headline(results) == results.points[1]
    with pytest.raises(ValueError, match="ours/model has no finite number to publish"):
        model_index.write(evaluation(points=[foreign({"fid": math.nan})]), tmp_path)


def test_without_distance_and_clip_score_the_first_setting_is_published():
    results = evaluation(points=[foreign({"recall": 0.5}), foreign({"recall": 0.75})])
    assert model_index.headline(results) is results.points[0]


def test_names_become_identifiers(tmp_path):
    results = evaluation(points=[foreign({"oracle/everything, 2 objects": 0.5})])
    results.suite["name"] = "../../my suite"
    _, entries = model_index.write(results, tmp_path)
    assert entries == tmp_path / ".eval_results" / "my-suite.yaml"
    (one,) = parse_eval_result_entries(read(entries))
    assert one.task_id == "my-suite-oracle-everything-2-objects"
    (number,) = model_index.eval_results(results)
    assert number.metric_name == "Oracle: Everything, 2 objects"


def test_a_second_writing_gives_the_same_bytes(tmp_path):
    first = [path.read_bytes() for path in model_index.write(evaluation(), tmp_path)]
    assert [path.read_bytes() for path in model_index.write(evaluation(), tmp_path)] == first
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("name", ["a/b/c", "two words", "-x", "https://example.org/x"])
def test_a_data_set_that_cannot_be_one_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match="must be a dataset of the Hub, owner/name"):
        model_index.write(evaluation(), tmp_path, name)
    assert not list(tmp_path.iterdir())
