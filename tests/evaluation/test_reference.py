"""Reference statistics: cached under all they depend on, refused if they are of something else; and the summary."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ediffi.evaluation.metrics.passes import MetricNetworks, measure
from ediffi.evaluation.metrics.reference import (
    ReferenceStatistics,
    key_sha256,
    read_npz,
    read_reference,
    reference_key,
    reference_statistics,
)
from ediffi.evaluation.metrics.rows import Rows
from ediffi.evaluation.metrics.summary import summarise
from ediffi.io.distributed import DistributedContext
from tests.evaluation.evaluations import side_by_side

RULE = {"size": 24, "resize": "shortest side, bicubic, centre cut"}


class Drawn:
    """Random pictures, a function of their number."""

    def __init__(self, count: int, seed: int = 0) -> None:
        self.count, self.seed, self.read = count, seed, 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Image.Image:
        self.read += 1
        rng = np.random.default_rng((self.seed, index))
        return Image.fromarray(rng.integers(0, 256 - 60 * self.seed, (24, 24, 3), dtype=np.uint8))

    def name(self, index: int) -> str:
        return f"{index}.png"

    def fingerprint(self) -> str:
        return f"{self.seed}-{self.count}"


class Rowsums:
    """Features of a picture by its pixels: 72 numbers."""

    layer, width = "mean", 72

    def __init__(self, name: str = "rowsums") -> None:
        self.name = name
        self.protocol: Mapping[str, Any] = {"name": name, "layer": "mean", "weights": "00", "resize": "none"}

    def prepare(self, image: Image.Image) -> Tensor:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)

    def __call__(self, pictures: Tensor) -> Tensor:
        return pictures.float().mean(3).flatten(1)


EXTRACTOR = Rowsums()


def statistics(pictures: Drawn, cache: Path, **options: Any) -> ReferenceStatistics:
    return reference_statistics(pictures, EXTRACTOR, cache, RULE, **options)


def cached(pictures: Drawn, cache: Path) -> tuple[Path, dict[str, Any]]:
    """A folder of the cache, and its key."""
    key = reference_key(pictures, EXTRACTOR, RULE)
    statistics(pictures, cache)
    return cache / key_sha256(key), key


def judged(pictures: Drawn, folder: Path) -> Rows:
    measure(pictures, folder, MetricNetworks(EXTRACTOR))
    return Rows.read(folder)


def test_statistics_are_those_of_the_features(tmp_path: Path) -> None:
    pictures = Drawn(40)
    reference = statistics(pictures, tmp_path)
    features = EXTRACTOR(torch.stack([EXTRACTOR.prepare(pictures[number]) for number in range(40)])).double().numpy()
    np.testing.assert_allclose(reference.mean, features.mean(0), rtol=1e-6)
    np.testing.assert_allclose(reference.cov, np.cov(features.T), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(reference.features(), features, rtol=1e-6)
    assert reference.count == 40


def test_what_is_cached_is_not_made_again(tmp_path: Path) -> None:
    pictures = Drawn(12)
    first = statistics(pictures, tmp_path)
    pictures.read = 0
    second = statistics(pictures, tmp_path)
    assert pictures.read == 0
    assert torch.equal(first.cov, second.cov)
    assert first.protocol == second.protocol


def test_many_processes_make_one_file(tmp_path: Path) -> None:
    one, key = cached(Drawn(21), tmp_path / "one")
    many = side_by_side(3, lambda context: statistics(Drawn(21), tmp_path / "many", batch_size=4, context=context))
    assert [found.count for found in many] == [21] * 3
    for name in ("features.npy", "reference.safetensors", "reference.json"):
        assert (one / name).read_bytes() == (tmp_path / "many" / key_sha256(key) / name).read_bytes()


def test_the_key_is_all_they_depend_on(tmp_path: Path) -> None:
    keys = [
        reference_key(Drawn(12), EXTRACTOR, RULE),
        reference_key(Drawn(13), EXTRACTOR, RULE),
        reference_key(Drawn(12, seed=1), EXTRACTOR, RULE),
        reference_key(Drawn(12), Rowsums("other"), RULE),
        reference_key(Drawn(12), EXTRACTOR, RULE | {"size": 32}),
    ]
    assert len({key_sha256(key) for key in keys}) == len(keys)
    assert key_sha256(dict(reversed(keys[0].items()))) == key_sha256(keys[0])
    assert statistics(Drawn(12), tmp_path).protocol["sha256"] == key_sha256(keys[0])
    assert [path.name for path in tmp_path.iterdir()] == [key_sha256(keys[0])]


@pytest.mark.parametrize(
    ("change", "differing"),
    [
        ({"count": 13}, "count"),
        ({"preparation": {"size": 32}}, "preparation"),
        ({"feature_extractor": {"name": "other"}, "pictures": "x"}, "feature_extractor, pictures"),
    ],
)
def test_statistics_of_something_else_are_refused(tmp_path: Path, change: dict[str, Any], differing: str) -> None:
    folder, key = cached(Drawn(12), tmp_path)
    with pytest.raises(ValueError, match=f"holds reference statistics with another {differing}$"):
        read_reference(folder, key | change)


@pytest.mark.parametrize("name", ["reference.safetensors", "features.npy"])
def test_a_changed_file_is_refused(tmp_path: Path, name: str) -> None:
    """safetensors would not see a flipped bit."""
    folder, key = cached(Drawn(12), tmp_path)
    content = bytearray((folder / name).read_bytes())
    content[-3] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name} is missing or was changed"):
        read_reference(folder, key)
    (folder / name).unlink()
    with pytest.raises(ValueError, match=rf"{name} is missing"):
        read_reference(folder, key)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": "other"}'])
def test_a_broken_note_is_named(tmp_path: Path, content: str) -> None:
    folder, key = cached(Drawn(12), tmp_path)
    (folder / "reference.json").write_text(content)
    with pytest.raises(ValueError, match=r"reference.json is broken .*; delete its folder and start again"):
        read_reference(folder, key)


def test_rows_that_are_not_all_there_are_no_reference(tmp_path: Path) -> None:
    key = reference_key(Drawn(12), EXTRACTOR, RULE)
    measure(Drawn(12), tmp_path / "half", MetricNetworks(EXTRACTOR), batch_size=4, context=DistributedContext(0, 2))
    with pytest.raises(ValueError, match="4 of 12 images have not been measured yet"):
        read_reference(tmp_path / "half", key)
    with pytest.raises(FileNotFoundError, match="holds no measurements"):
        read_reference(tmp_path / "nowhere", key)


def written(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def test_statistics_of_others_give_the_same_distance(tmp_path: Path) -> None:
    own = statistics(Drawn(30), tmp_path / "cache")
    foreign = read_npz(written(tmp_path / "coco.npz", mu=own.mean.numpy(), sigma=own.cov.numpy()), EXTRACTOR)
    rows = judged(Drawn(30, seed=1), tmp_path / "pass")
    ours, theirs = (summarise(rows, EXTRACTOR, reference) for reference in (own, foreign))
    assert theirs.metrics == {"frechet_rowsums": ours.metrics["frechet_rowsums"]}
    assert (foreign.protocol["foreign"], own.protocol["foreign"]) == (True, False)
    assert any("come from coco.npz: how its images were selected" in notice for notice in theirs.notices)
    assert not any("coco.npz" in notice for notice in ours.notices)
    with pytest.raises(ValueError, match="no features"):
        foreign.features()


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"mu": np.zeros(72)}, "has no arrays mu and sigma"),
        ({"mu": np.zeros(2048), "sigma": np.eye(2048)}, r"has mu \[2048\].*rowsums mean needs \[72\] and \[72, 72\]"),
        ({"mu": np.zeros(72), "sigma": np.full((72, 72), np.nan)}, "is no covariance"),
        ({"mu": np.zeros(72), "sigma": np.triu(np.ones((72, 72)))}, "finite and symmetric"),
        ({"mu": np.array([{}] * 72), "sigma": np.eye(72)}, "has no arrays mu and sigma"),
    ],
    ids=["no sigma", "wide", "nan", "not symmetric", "pickled"],
)
def test_broken_statistics_of_others_are_named(tmp_path: Path, arrays: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=rf"stats.npz'.*{sentence}"):
        read_npz(written(tmp_path / "stats.npz", **arrays), EXTRACTOR)


class Harm:
    def __reduce__(self) -> tuple[Any, ...]:
        return (open, ("harm.txt", "w"))


def test_nothing_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"stats.npz' has no arrays mu and sigma"):
        read_npz(written(tmp_path / "stats.npz", mu=np.array([Harm()] * 72), sigma=np.eye(72)), EXTRACTOR)
    assert not (tmp_path / "harm.txt").exists()


def test_other_files_are_no_statistics(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no file"):
        read_npz(tmp_path / "nowhere.npz", EXTRACTOR)
    for content in (b"", b"hello", io.BytesIO(b"PK\3\4").getvalue()):
        (tmp_path / "stats.npz").write_bytes(content)
        with pytest.raises(ValueError, match=r"stats.npz' has no arrays mu and sigma"):
            read_npz(tmp_path / "stats.npz", EXTRACTOR)


def test_metrics_have_their_names(tmp_path: Path) -> None:
    reference = statistics(Drawn(30), tmp_path / "cache")
    near = {"precision", "recall", "f_score", "density", "coverage", "authenticity"}
    names = {"frechet_rowsums", "kid_mean", "kid_std", "vendi"} | near
    rows = judged(Drawn(25, seed=1), tmp_path / "pass")
    assert set(summarise(rows, EXTRACTOR, reference).metrics) == names
    assert summarise(rows, EXTRACTOR).metrics == {}
    same = summarise(judged(Drawn(30), tmp_path / "same"), EXTRACTOR, reference).metrics
    assert same["frechet_rowsums"] == pytest.approx(0, abs=1e-6)
    assert (same["precision"], same["recall"]) == (1, 1)
    few = summarise(judged(Drawn(3), tmp_path / "few"), EXTRACTOR, reference).metrics
    assert set(few) == {"frechet_rowsums", "kid_mean", "kid_std", "vendi"}


def test_few_pictures_are_said(tmp_path: Path) -> None:
    reference = statistics(Drawn(80), tmp_path / "cache")
    notices = summarise(judged(Drawn(30, seed=1), tmp_path / "pass"), EXTRACTOR, reference).notices
    assert notices == [
        "the Fréchet distance of 30 images is biased upwards (fewer than 2048): compare it at equal numbers only; "
        "KID has no such bias",
        "the covariance of 30 rows of 72 numbers does not have full rank, so the distance has no interval",
    ]
    many = ReferenceStatistics(reference.mean, reference.cov, 5000, None, reference.protocol)
    rows = judged(Drawn(2100, seed=1), tmp_path / "many")
    assert summarise(rows, EXTRACTOR, many).notices == []


def test_features_of_another_extractor_are_not_compared(tmp_path: Path) -> None:
    reference = statistics(Drawn(12), tmp_path / "cache")
    other = Rowsums("other")
    measure(Drawn(12), tmp_path / "pass", MetricNetworks(other))
    with pytest.raises(ValueError, match="of another feature extractor"):
        summarise(Rows.read(tmp_path / "pass"), other, reference)


def test_the_protocol_is_plain(tmp_path: Path) -> None:
    reference = statistics(Drawn(12), tmp_path)
    assert json.loads(json.dumps(reference.protocol)) == reference.protocol
    assert {"pictures", "count", "preparation", "feature_extractor", "sha256", "foreign"} == set(reference.protocol)
