"""A pickle that runs code, given to every loader under every name that it may have: it is refused, and never run."""

import hashlib
import io
import json
import os
import pickle
import shutil
import tarfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from ediffi import cli
from ediffi.cli.fit import QUIET
from ediffi.data.filtering.scorer import load_head
from ediffi.data.tar import Tally, read_samples
from ediffi.data.verify import array_of, check_shard
from ediffi.diffusion.noise import ROOT, Interval, LogNormal
from ediffi.evaluation.metrics.networks import network, read_tensors
from ediffi.evaluation.metrics.reference import ReferenceStatistics, read_npz
from ediffi.evaluation.metrics.rows import PassLayout, RowFiles, Rows, open_rows
from ediffi.pipeline.cascade import Cascade
from ediffi.pipeline.checkpoint import Residency
from ediffi.pipeline.stage import Sampling
from ediffi.registry import denoisers, encoders
from ediffi.training import checkpoint as checkpoints
from ediffi.training.callbacks.run_directory import AtomicCheckpointIO
from ediffi.training.convert import convert, convert_adm
from ediffi.training.finished_run import read_run
from ediffi.training.growth.compose import StageRecipe, trained_stage
from ediffi.training.growth.schedule import GrowthNode, GrowthSchedule, TrunkStage
from ediffi.training.lightning_module import DiffusionStage
from ediffi.training.lora import Lora
from ediffi.training.start import InitialWeights
from tests.evaluation.test_reference import EXTRACTOR
from tests.world import TINY_BASE

pytestmark = [pytest.mark.filterwarnings(f"ignore:{m}") for m in (*QUIET, ".*Checkpoint directory.*")]

Loader = Callable[[Path], object]


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.canary),)


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "canary"
    yield path
    assert not path.exists(), "something was run"


def in_a_zip(bomb: Bomb, whole: Any = None) -> bytes:
    file = io.BytesIO()
    torch.save({"state_dict": {"a": torch.ones(1)}, "bomb": bomb} if whole is None else whole, file)
    return file.getvalue()


def in_the_older_format(bomb: Bomb) -> bytes:
    file = io.BytesIO()
    torch.save({"bomb": bomb}, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def bare(bomb: Bomb) -> bytes:
    return pickle.dumps(bomb, protocol=2)


FORMS: list[Callable[[Bomb], bytes]] = [in_a_zip, in_the_older_format, bare]


def refused(load: Callable[[], object], name: str) -> None:
    """One sentence, that of a ValueError or an OSError, as the command line would print it."""
    with pytest.raises((ValueError, OSError)) as error:
        load()
    assert name in str(error.value)
    assert "\n" not in str(error.value).strip()


@cache
def stage() -> DiffusionStage:
    """What weights are loaded into, or rather not."""
    return DiffusionStage(denoisers.create("unet_toybox", **TINY_BASE))


def test_the_bomb_goes_off_where_pickles_are_read(tmp_path: Path) -> None:
    for number, form in enumerate(FORMS):
        place = tmp_path / str(number)
        data = io.BytesIO(form(Bomb(place)))
        pickle.load(data) if form is bare else torch.load(data, weights_only=False)
        assert place.exists()


# Files of weights and checkpoints

LOADERS: dict[str, Loader] = {
    "convert": lambda path: convert(path, path.with_name("out.safetensors")),
    "convert an entry": lambda path: convert(path, path.with_name("out.safetensors"), "bomb"),
    "convert adm": lambda path: convert_adm(path, path.with_name("out.safetensors"), {"channels": 32}),
    "start checkpoint": lambda path: InitialWeights(checkpoint=path)(stage()),
    "start checkpoint with an adapter": lambda path: InitialWeights(checkpoint=path, lora=Lora(rank=2))(stage()),
    "start weights": lambda path: InitialWeights(weights=path)(stage()),
    "checkpoint": checkpoints.read,
    "networks of the judge": read_tensors,
    "inception of the judge": lambda path: network("inception-v3-compat", "2048", path),
    "aesthetic head": load_head,
    "statistics": lambda path: read_npz(path, EXTRACTOR),
    "a model": Cascade.from_pretrained,
}


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
@pytest.mark.parametrize("loader", LOADERS)
def test_a_file_is_refused_whatever_its_name_ends_in(
    loader: str, form: Callable[[Bomb], bytes], tmp_path: Path, canary: Path
) -> None:
    for suffix in ("ckpt", "pt", "bin", "safetensors"):
        path = tmp_path / f"weights.{suffix}"
        path.write_bytes(form(Bomb(canary)))
        refused(lambda path=path: LOADERS[loader](path), path.name)
        assert list(tmp_path.iterdir()) == [path]
        path.unlink()


def test_a_checkpoint_of_ours_with_a_bomb_in_it_is_refused(tmp_path: Path, canary: Path) -> None:
    state = {f"denoiser.{name}": tensor for name, tensor in stage().denoiser.state_dict().items()}
    for lora in (None, Lora(rank=2)):
        entry = checkpoints.describe(LogNormal(), ROOT, None, lora)
        whole = {"state_dict": state, "global_step": 2, checkpoints.KEY: entry}
        for extra in ({"hyper_parameters": Bomb(canary)}, {"state_dict": {**state, "denoiser.more": Bomb(canary)}}):
            path = tmp_path / "last.ckpt"
            path.write_bytes(in_a_zip(Bomb(canary), {**whole, **extra}))
            for loader in ("start checkpoint", "convert", "checkpoint"):
                refused(lambda loader=loader, path=path: LOADERS[loader](path), "last.ckpt")


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_a_run_is_not_composed_grown_or_resumed_from_one(
    form: Callable[[Bomb], bytes], tmp_path: Path, canary: Path
) -> None:
    run = tmp_path / "runs" / Interval(1, 0).label
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "last.ckpt").write_bytes(form(Bomb(canary)))
    denoiser = {"class_path": "ediffi.registry.denoisers.unet_toybox", "init_args": {}}
    (run / "config.yaml").write_text(yaml.safe_dump({"model": {"denoiser": denoiser}}))
    refused(lambda: read_run(run), "last.ckpt")
    refused(lambda: trained_stage(StageRecipe("base", 16, run, Sampling())), "last.ckpt")
    nodes = [GrowthNode(Interval(1, 0), 2), GrowthNode(Interval(1, 1), 2)]
    schedule = GrowthSchedule(tmp_path / "runs", nodes, None)
    refused(lambda: schedule.steps_done(nodes[0]), "last.ckpt")
    with pytest.raises(Exception):  # noqa: B017, PT011  (torch's own; the command line has a sentence for it, below)
        AtomicCheckpointIO().load_checkpoint(run / "checkpoints" / "last.ckpt")


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
@pytest.mark.parametrize("asked", ["last", "path"])
def test_the_command_line_goes_on_from_none(
    asked: str, form: Callable[[Bomb], bytes], tmp_path: Path, canary: Path, recipe: Any, capsys: Any
) -> None:
    config = recipe("base", tmp_path)
    place = tmp_path / "base" / "checkpoints" / "last.ckpt"
    place.parent.mkdir(parents=True)
    place.write_bytes(form(Bomb(canary)))
    words = ["fit", "--config", str(config), "--ckpt_path", "last" if asked == "last" else str(place)]
    assert cli.main(words) == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("ediffi: error: ")
    assert "checkpoint" in line


# Folders of models and encoders


def copy_of(model: Path, to: Path, file: str, data: bytes) -> Path:
    """The model with another content of one of its files, and hashes that say it is right."""
    shutil.copytree(model, to)
    old = hashlib.sha256((to / file).read_bytes()).hexdigest()
    (to / file).write_bytes(data)
    config = to / "config.json"
    config.write_text(config.read_text().replace(old, hashlib.sha256(data).hexdigest()))
    return to


FILES = ["base.safetensors", "sr64.safetensors", "encoders/t5/model.safetensors"]
FILES += ["encoders/clip/open_clip_model.safetensors"]


@pytest.mark.parametrize("residency", ["resident", "stream"])
@pytest.mark.parametrize("file", FILES)
def test_a_model_with_a_pickle_as_weights_is_refused(
    file: str, residency: Residency, model_folder: Path, tmp_path: Path, canary: Path
) -> None:
    for number, form in enumerate(FORMS if residency == "resident" else FORMS[:1]):
        model = copy_of(model_folder, tmp_path / str(number), file, form(Bomb(canary)))

        def paint(model: Path = model) -> object:
            cascade = Cascade.from_pretrained(model, expert_residency=residency)
            return cascade("a red circle", num_inference_steps=1)  # a streamed expert is read when it is needed

        refused(paint, Path(file).name)


def test_a_trunk_with_a_pickle_as_weights_is_not_started_from(model_folder: Path, tmp_path: Path, canary: Path) -> None:
    model = str(copy_of(model_folder, tmp_path / "trunk", "base.safetensors", in_a_zip(Bomb(canary))))
    assert (
        GrowthSchedule(tmp_path, [GrowthNode(ROOT, 2)], TrunkStage(model, "base")).start(GrowthNode(ROOT, 2))["model"]
        == model
    )
    refused(lambda: InitialWeights(model=model, stage="base")(stage()), "base.safetensors")


def t5(folder: Path) -> object:
    return encoders.t5(str(folder))


def t5_xxl(folder: Path) -> object:
    return encoders.t5_xxl(str(folder))


def clip_text(folder: Path) -> object:
    return encoders.clip_text(str(folder))


def clip_image(folder: Path) -> object:
    return encoders.clip_image(str(folder))


def clip_l14(folder: Path) -> object:
    return encoders.clip_l14_text(path=str(folder))


PICKLED = ("pytorch_model.bin", "model.pt", "model.ckpt", "open_clip_pytorch_model.bin", "flax_model.msgpack")
PICKLED += ("tf_model.h5", "model.pkl", "tokenizer.pkl")
ENCODERS = {t5: "t5", t5_xxl: "t5", clip_text: "clip", clip_image: "clip", clip_l14: "clip"}


@pytest.mark.parametrize("load", ENCODERS, ids=lambda load: load.__name__)
def test_an_encoder_s_pickle_is_neither_read_beside_nor_instead_of_safetensors(
    load: Loader, model_folder: Path, tmp_path: Path, canary: Path
) -> None:
    folder = tmp_path / "encoder"
    shutil.copytree(model_folder / "encoders" / ENCODERS[load], folder)
    for name in PICKLED:
        (folder / name).write_bytes(in_a_zip(Bomb(canary)))
    load(folder)  # beside: passed over
    weights = next(folder.glob("*.safetensors"))
    weights.unlink()
    refused(lambda: load(folder), "safetensors")
    index = {"weight_map": {"shared.weight": "pytorch_model.bin"}}
    (folder / f"{weights.name}.index.json").write_text(json.dumps(index))
    refused(lambda: load(folder), "safetensors")
    for form in FORMS:
        weights.write_bytes(form(Bomb(canary)))
        refused(lambda: load(folder), weights.name)


# Shards, rows and statistics


def test_members_of_shards_stay_bytes(tmp_path: Path, canary: Path) -> None:
    data, path = bare(Bomb(canary)), tmp_path / "00000.tar"
    suffixes = ("pkl", "pyd", "pth", "pt", "pickle", "npz", "jpg", "json", "npy", "safetensors")
    with tarfile.open(path, "w") as tar:
        for suffix in suffixes:
            info = tarfile.TarInfo(f"x.{suffix}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    tally = Tally()
    for raw in read_samples(str(path), tally, lambda raw: None):
        assert raw.keys() <= {"__key__", "jpg", "json", "npy", "safetensors"}
        with pytest.raises(ValueError, match="'x'"):
            array_of(raw)
    assert sum(tally.skipped.values()) == 6
    assert check_shard(str(path)).tally.samples == 0


def objects(canary: Path, save: Callable[..., None], *names: str) -> bytes:
    """Numpy's file of arrays of objects, which it would unpickle."""
    file, array = io.BytesIO(), np.array([Bomb(canary)], dtype=object)
    save(file, **dict.fromkeys(names, array)) if names else save(file, array)
    return file.getvalue()


def test_statistics_of_objects_are_refused(tmp_path: Path, canary: Path) -> None:
    path = tmp_path / "statistics.npz"
    path.write_bytes(objects(canary, np.savez, "mu", "sigma"))
    refused(lambda: LOADERS["statistics"](path), path.name)


def test_rows_of_objects_are_refused(tmp_path: Path, canary: Path) -> None:
    layout = PassLayout({"a": 1}, count=1, size=(8, 8), width=1, scored=True)
    open_rows(tmp_path / "rows", layout).write("states", 0, np.ones(1, bool), np.ones(1, np.uint8))
    for name in ("features", "scores"):
        (tmp_path / "rows" / f"{name}.npy").write_bytes(objects(canary, np.save))
    rows = Rows(RowFiles(tmp_path / "rows", layout), np.zeros(1, np.int64))
    file = tmp_path / "rows" / "features.npy"
    reference = ReferenceStatistics(torch.zeros(1).double(), torch.eye(1).double(), 1, file, {})
    for load in (rows.features, rows.moments, rows.scores, reference.features):
        with pytest.raises(ValueError, match=r"npy is missing or broken|Python objects"):
            load()


def test_lists_and_recipes_make_no_objects(tmp_path: Path, canary: Path, capsys: Any, monkeypatch: Any) -> None:
    text = f"!!python/object/apply:builtins.open ['{canary}', 'w']\n"
    path = tmp_path / "recipe.yaml"
    path.write_text(f"model: {text}")
    for words in (["fit", "--config", path], ["grow", "--config", path], ["compose", "--config", path], ["plan", path]):
        assert cli.main([str(word) for word in words]) != 0
        assert capsys.readouterr().err.startswith("ediffi: error: ")
    path.write_text(f"birds: {text}")
    monkeypatch.setenv("EDIFFI_MODELS", str(path))
    assert cli.main(["registry", "birds"]) == 1
    assert "is not a list of models" in capsys.readouterr().err
