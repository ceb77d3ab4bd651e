"""Two folders without captions: the numbers are those of the judge, and sizes, strictness and commits are as said."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import inception_v3

from ediffi.cli import main
from ediffi.evaluation import code_state
from ediffi.evaluation.metrics.features import FidelityFeatures, load_extractor
from ediffi.evaluation.metrics.frechet import frechet_distance
from ediffi.evaluation.pair import compare_pair


@pytest.fixture(scope="module")
def weights(new_folder: Callable[[str], Path]) -> Path:
    torch.manual_seed(0)
    path = new_folder("inception") / "inception.pth"
    torch.save(inception_v3(weights=None, aux_logits=False, num_classes=1008, init_weights=False).state_dict(), path)
    return path


def folder(place: Path, seed: int, count: int = 5, shape: tuple[int, int] = (24, 24)) -> Path:
    place.mkdir()
    for index in range(count):
        pixels = np.random.default_rng((seed, index)).integers(0, 256, (*shape, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"photo {index}.png")
    return place


def test_a_pair_is_measured_from_the_command_line(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = folder(tmp_path / "one", 1), folder(tmp_path / "two", 2, count=6)
    known = ["--feature-weights", str(weights), "--cache", str(tmp_path / "cache"), "-o", str(tmp_path / "out")]
    words = ["evaluate", "pair", str(one), str(two), *known]
    monkeypatch.setattr("sys.argv", ["ediffi", *words])
    assert main(words) == 0
    printed = capsys.readouterr().out
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    (point,) = results["points"]
    extractor = load_extractor(weights=weights)
    assert isinstance(extractor, FidelityFeatures)
    features = [
        extractor(torch.stack([extractor.prepare(Image.open(path)) for path in sorted(place.iterdir())])).double()
        for place in (one, two)
    ]
    (mean1, cov1), (mean2, cov2) = ((rows.mean(0), torch.cov(rows.T)) for rows in features)
    assert point["metrics"]["fid"] == pytest.approx(frechet_distance(mean1, cov1, mean2, cov2), rel=1e-5)
    assert (point["count"], results["model"], results["suite"]["name"]) == (5, "one", "two")
    assert "FID" in printed
    assert results["protocol"]["command"].startswith("ediffi evaluate pair")
    assert printed.splitlines()[-1] == str(tmp_path / "out" / "report.html")


def test_a_clip_in_a_folder_compares_too_and_a_set_of_one_is_refused(
    tmp_path: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = folder(tmp_path / "one", 1, count=1), folder(tmp_path / "two", 2)
    known = ["--feature-extractor", "clip", "--cache", str(tmp_path / "cache"), "-o", str(tmp_path / "out")]
    clip = ["--feature-weights", str(model_folder / "encoders" / "clip")]
    assert main(["evaluate", "pair", str(two), str(two), *known]) == 1
    assert "the extractor clip needs a folder with a CLIP as feature_weights" in capsys.readouterr().err
    assert main(["evaluate", "pair", str(two), str(one), *known, *clip]) == 1
    assert f"{one} has 1 image; a comparison needs at least 2 in each set" in capsys.readouterr().err
    assert main(["evaluate", "pair", str(two), str(two), *known, *clip]) == 0
    metrics = json.loads((tmp_path / "out" / "results.json").read_text())["points"][0]["metrics"]
    assert metrics["frechet_clip"] == pytest.approx(0, abs=1e-6)


def test_sizes_that_differ_are_refused_or_made_one(tmp_path: Path, weights: Path) -> None:
    extractor = load_extractor(weights=weights)
    one, two = folder(tmp_path / "one", 1), folder(tmp_path / "two", 2, shape=(24, 30))
    with pytest.raises(ValueError, match="the images are 24x24, and the reference images 30x24: give --image-size"):
        compare_pair(one, two, tmp_path / "out", extractor, tmp_path / "cache")
    results = compare_pair(one, two, tmp_path / "sized", extractor, tmp_path / "cache", image_size=16)
    assert results.points[0].count == 5
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="holds no images"):
        compare_pair(tmp_path / "none", two, tmp_path / "out", extractor, tmp_path / "cache", image_size=16)


def test_a_broken_image_is_refused_or_counted_without_measuring_again(tmp_path: Path, weights: Path) -> None:
    extractor = load_extractor(weights=weights)
    one, two = folder(tmp_path / "one", 1), folder(tmp_path / "two", 2)
    (one / "photo 3.png").write_bytes(b"nothing")

    def run(strict: bool) -> int:
        return compare_pair(one, two, tmp_path / "out", extractor, tmp_path / "cache", strict=strict).points[0].count

    with pytest.raises(ValueError, match=r"photo 3\.png is not an image"):
        run(True)
    assert run(False) == 4
    written = (tmp_path / "out" / "rows" / "one" / "features.npy").stat().st_mtime_ns
    with pytest.raises(ValueError, match=r"1 of 5 images are unusual or broken; the first, photo 3\.png, is broken"):
        run(True)
    assert run(False) == 4
    assert (tmp_path / "out" / "rows" / "one" / "features.npy").stat().st_mtime_ns == written


def test_the_commit_is_of_our_own_checkout_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*words: str) -> None:
        subprocess.run(["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", *words], check=True)

    package = tmp_path / "ediffi" / "evaluation"
    package.mkdir(parents=True)
    (package / "code_state.py").write_text("")
    monkeypatch.setattr(code_state, "__file__", str(package / "code_state.py"))
    assert code_state.commit() == {}
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "one")
    found = code_state.commit()
    assert len(found["commit"]) == 40
    assert found["changed_since"] is False
    (package / "code_state.py").write_text("changed")
    assert code_state.commit()["changed_since"] is True
    inside = tmp_path / ".venv" / "lib" / "ediffi" / "evaluation"
    inside.mkdir(parents=True)
    monkeypatch.setattr(code_state, "__file__", str(inside / "code_state.py"))
    assert code_state.commit() == {}
