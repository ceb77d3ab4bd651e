"""Memorisation: copies among generated images are found, shown first and counted."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from ediffi.cli import main
from ediffi.evaluation.memorisation import PAGE, TABLE, ClosestPair, find_copies, write
from tests.evaluation.test_reference import Rowsums


class Means(Rowsums):
    width = 3

    def __call__(self, pictures: Tensor) -> Tensor:
        return pictures.float().mean((2, 3))


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """Eight images, of which 2 and 5 are of the training set, a little brighter; and twenty training images."""
    rng = np.random.default_rng(0)
    known = rng.integers(0, 250, (20, 24, 24, 3), np.uint8)
    made = rng.integers(0, 250, (8, 24, 24, 3), np.uint8)
    made[2], made[5] = known[7] + 1, known[13] + 2
    for name, images in (("made", made), ("known", known)):
        (tmp_path / name).mkdir()
        for index, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / name / f"{index:02d}.png")
    return tmp_path / "made", tmp_path / "known"


def test_copies_are_found_and_come_first(tmp_path: Path, places: tuple[Path, Path]) -> None:
    found = find_copies(*places, tmp_path / "out", Rowsums(), tmp_path / "cache")
    assert [(pair.image, pair.training) for pair in found.pairs[:2]] == [(2, 7), (5, 13)]
    assert found.pairs[1].ratio < 0.5 < found.pairs[2].ratio
    assert found.authenticity == np.mean([pair.ratio > 1 for pair in found.pairs])
    assert 0 <= found.interval[0] <= found.authenticity <= found.interval[1] <= 1
    assert "the closest pair is 02.png and 07.png" in str(found)
    page = write(found, tmp_path / "out", count=3)
    assert page == tmp_path / "out" / PAGE
    text = page.read_text()
    assert text.count("<img ") == 6
    assert text.index("02.png") < text.index("05.png")
    assert 'src="http' not in text
    rows = list(csv.DictReader((tmp_path / "out" / TABLE).read_text().splitlines()))
    assert len(rows) == 8
    assert (rows[0]["image"], rows[0]["training_image"]) == ("02.png", "07.png")
    assert float(rows[0]["ratio"]) == found.pairs[0].ratio


def test_broken_images_are_left_out_if_asked(tmp_path: Path, places: tuple[Path, Path]) -> None:
    made, known = places
    (made / "00.png").write_bytes(b"nothing")
    (known / "03.png").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"03\.png is not an image"):
        find_copies(*places, tmp_path / "out", Rowsums(), tmp_path / "cache")
    found = find_copies(*places, tmp_path / "out", Rowsums(), tmp_path / "cache", strict=False)
    assert [(pair.image, pair.training) for pair in found.pairs[:2]] == [(2, 7), (5, 13)]
    assert len(found.pairs) == 7


def test_what_cannot_be_compared_is_one_sentence(
    tmp_path: Path, places: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    made, known = places
    (tmp_path / "one").mkdir()
    Image.new("RGB", (24, 24)).save(tmp_path / "one" / "0.png")
    with pytest.raises(ValueError, match="2 images are needed, and 1 could be read"):
        find_copies(tmp_path / "one", known, tmp_path / "out", Rowsums(), tmp_path / "cache")
    Image.new("RGB", (32, 32)).save(tmp_path / "one" / "0.png")
    Image.new("RGB", (32, 32)).save(tmp_path / "one" / "1.png")
    with pytest.raises(ValueError, match="the images are 32x32, and the training images 24x24: give --image-size"):
        find_copies(tmp_path / "one", known, tmp_path / "other", Means("means"), tmp_path / "cache")
    assert main(["evaluate", "copies", str(made), str(known), "--count", "0"]) == 2
    assert "--count must be at least 1, got 0" in capsys.readouterr().err


def test_equal_training_images_are_no_division_by_zero() -> None:
    assert ClosestPair(0, 0, 0.0, 0.0).ratio == 1
    assert ClosestPair(0, 0, 1.0, 0.0).ratio == float("inf")
