"""Encoders trained on shards by `ediffi fit`: from captions and images to the folder that the registry loads."""

import json
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoTokenizer

from ediffi.cli import main
from ediffi.cli.fit import QUIET
from ediffi.cli.recipes import folder as recipe_folder
from ediffi.data.shards import read_shard, write_tar
from ediffi.data.verify import write_folder_index
from ediffi.registry import encoders
from ediffi.registry.encoders.clip_files import CONFIG, WEIGHTS
from ediffi.training.encoders.clip import ClipTraining, contrast, same
from ediffi.training.encoders.t5 import corrupt
from ediffi.training.encoders.vocabulary import END, SPECIAL, UNKNOWN, byte_pairs
from ediffi.training.finished_run import read_run

pytestmark = [pytest.mark.filterwarnings(f"ignore:{m}") for m in (*QUIET, ".*Checkpoint directory.*")]
CAPTIONS = ["a red fox", "two red foxes on a hill", "a fox's den", "A Red Fox, drawn in 3d style", "foxes"] * 4
SMALL = {
    "clip": {
        "vision": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16},
        "text": {"width": 16, "heads": 2, "layers": 1},
        "embed_dim": 16,
        "vocabulary": 200,
    },
    "t5": {
        "model": {"d_model": 16, "d_kv": 8, "num_heads": 2, "d_ff": 16, "num_layers": 1, "num_decoder_layers": 1},
        "vocabulary": 200,
    },
}
Recipe = Callable[..., Path]


@pytest.fixture(scope="module")
def plain_shards(shard_folder: Path, new_folder: Callable[[str], Path]) -> Path:
    """The shards of the small world without embeddings, as img2dataset writes them."""
    folder = new_folder("plain")
    for path in sorted(shard_folder.glob("*.tar")):
        samples = [{k: v for k, v in raw.items() if k != "safetensors"} for raw in read_shard(path)]
        write_tar(folder / path.name, samples)
    write_folder_index(folder)
    return folder


@pytest.fixture
def recipe(plain_shards: Path, tmp_path: Path) -> Recipe:
    """The shipped recipe of an encoder at small size."""

    def write(kind: str, steps: int = 4, world: str = "emoji", **data: Any) -> Path:
        config = yaml.safe_load((recipe_folder() / world / f"{kind}.yaml").read_text())
        config["model"]["init_args"] |= SMALL[kind]
        config["data"] |= {"train": str(plain_shards), "val": str(plain_shards), "image_size": 32, "batch_size": 8}
        config["data"] |= {"val_batches": 1, **data}
        config["trainer"] |= {"max_steps": steps, "val_check_interval": 2, "log_every_n_steps": 1, "accelerator": "cpu"}
        config["trainer"] |= {"default_root_dir": str(tmp_path / kind), "enable_progress_bar": False}
        config["trainer"]["precision"] = "32-true"
        config["trainer"]["callbacks"][0]["init_args"]["every_n_train_steps"] = 2
        path = tmp_path / f"{kind}.yaml"
        path.write_text(yaml.safe_dump(config))
        return path

    return write


@pytest.mark.parametrize("kind", SMALL)
def test_a_run_resumed_is_a_run(kind: str, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped at a step and resumed, it ends in the same bits; only the last step writes the encoder."""
    monkeypatch.syspath_prepend(Path(__file__).parent)  # where the recipe finds its fault
    place = tmp_path / kind / "encoder"
    assert main(["fit", "--config", str(recipe(kind))]) == 0
    whole = {path.name: path.read_bytes() for path in place.iterdir()}
    (tmp_path / kind).rename(tmp_path / "whole")
    config = yaml.safe_load(recipe(kind).read_text())
    config["trainer"]["callbacks"].append({"class_path": "faults.Terminate", "init_args": {"step": 1}})
    (tmp_path / "stopped.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(SystemExit):
        main(["fit", "--config", str(tmp_path / "stopped.yaml")])
    assert not place.exists()
    assert main(["fit", "--config", str(recipe(kind))]) == 0
    assert {path.name: path.read_bytes() for path in place.iterdir()} == whole
    record = json.loads(whole["training.json"])
    assert (record["steps"], record["samples"]) == (4, 32)
    assert {path.stat().st_mode & 0o777 for path in place.iterdir()} == {0o644}


def test_the_registry_loads_what_a_clip_run_leaves(recipe: Recipe, tmp_path: Path) -> None:
    """In bfloat16, and otherwise as the run had it: tokens, pooled vectors, images."""
    assert main(["fit", "--config", str(recipe("clip"))]) == 0
    path = str(tmp_path / "clip" / "encoder")
    text, image = encoders.clip_text(path), encoders.clip_image(path)
    texts, images = text(["a red circle", "two crosses"]), image(torch.rand(2, 3, 48, 48) * 2 - 1)
    assert (texts.tokens.shape[2], texts.pooled.shape, images.pooled.shape) == (16, (2, 16), (2, 16))
    assert text.token_strings("red circle")[0] == "<s>"
    state = torch.load(tmp_path / "clip" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    for name, value in text.model.state_dict().items():
        wanted = state[f"model.{name}"]
        torch.testing.assert_close(value, wanted.bfloat16().to(value) if wanted.is_floating_point() else wanted)


def test_a_clip_trains_on_from_another_s_folder(recipe: Recipe, tmp_path: Path) -> None:
    """Its weights, settings and tokenizer, whatever the new captions are; a preprocessing of its own is kept."""
    assert main(["fit", "--config", str(recipe("clip"))]) == 0
    first = tmp_path / "first"
    shutil.copytree(tmp_path / "clip" / "encoder", first)
    config = json.loads((first / CONFIG).read_text())
    config["preprocess_cfg"] |= {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3]}
    (first / CONFIG).write_text(json.dumps(config))
    module = ClipTraining(start=first)
    stored = load_file(first / WEIGHTS)
    held = module.model.state_dict()
    assert all(torch.equal(held[key].to(value.dtype), value) for key, value in stored.items())
    assert all(weight.requires_grad for weight in module.model.parameters())
    assert module.model.training
    assert module.learn_tokenizer(["other captions"]).get_vocab() == byte_pairs_of(first)
    white = torch.ones(2, 3, 32, 32)
    module.tokenizer = module.learn_tokenizer([])
    module.eval()
    encoder = encoders.create("clip_image", path=str(first))
    expected = encoder(white).pooled
    torch.testing.assert_close(module.encode_images(white), expected, atol=2e-2, rtol=0)

    again = yaml.safe_load((recipe_folder() / "emoji" / "clip_style.yaml").read_text())
    mine = yaml.safe_load(recipe("clip").read_text())
    again["data"], again["trainer"] = mine["data"], {**mine["trainer"], "default_root_dir": str(tmp_path / "on")}
    again["model"]["init_args"]["start"] = str(first)
    path = tmp_path / "on.yaml"
    path.write_text(yaml.safe_dump(again))
    assert main(["fit", "--config", str(path)]) == 0
    written = json.loads((tmp_path / "on" / "encoder" / CONFIG).read_text())
    assert written == config
    assert not torch.equal(
        load_file(tmp_path / "on" / "encoder" / WEIGHTS)["visual.conv1.weight"], stored["visual.conv1.weight"]
    )


def byte_pairs_of(folder: Path) -> dict[str, int]:
    """The tokens of an encoder's folder."""
    return AutoTokenizer.from_pretrained(folder, local_files_only=True).get_vocab()


@pytest.mark.parametrize(
    "wrong", [{}, {"vision": {}}, {"start": Path("x"), "text": {}}, {"start": Path("x"), "embed_dim": 64}]
)
def test_a_clip_is_from_scratch_or_from_another(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="either vision and text, from scratch, or start"):
        ClipTraining(**wrong)


def test_images_of_another_size_and_a_missing_clip_are_one_sentence(recipe: Recipe, tmp_path: Path, capsys) -> None:
    assert main(["fit", "--config", str(recipe("clip", image_size=16))]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line == "ediffi: error: this CLIP reads images of 32 pixels, and those of data have 16"
    path, gone = recipe("clip"), tmp_path / "gone"
    config = yaml.safe_load(path.read_text())
    config["model"]["init_args"] = {"start": str(gone)}
    path.write_text(yaml.safe_dump(config))
    assert main(["fit", "--config", str(path)]) in (1, 2)
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"ediffi: error: no folder '{gone}': expected a CLIP, a folder with open_clip_config.json")
    assert "NoneType" not in line


def test_the_registry_loads_what_a_t5_run_leaves(recipe: Recipe, tmp_path: Path) -> None:
    """The encoder half in bfloat16, as `t5` and as `hf_text`; unknown characters are told."""
    assert main(["fit", "--config", str(recipe("t5"))]) == 0
    path = str(tmp_path / "t5" / "encoder")
    t5, same = encoders.t5(path), encoders.hf_text(path, pooling="none")
    tokens = t5(["a red circle", "two crosses"]).tokens
    torch.testing.assert_close(same(["a red circle", "two crosses"]).tokens, tokens, atol=0, rtol=0)
    assert tokens.shape[2] == 16
    assert t5.token_strings("Red circle")[0] == "red"
    assert t5.unknown_words("a ☃ circle") == ["☃"]
    state = torch.load(tmp_path / "t5" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    for name, value in t5.model.state_dict().items():
        torch.testing.assert_close(value, state[f"model.{name}"].bfloat16().to(value))


@given(st.integers(1, 40), st.floats(0.01, 0.99), st.floats(1, 5), st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_what_is_cut_out_and_what_is_left_are_the_text(
    length: int, share: float, span: float, sentinels: int, seed: int
) -> None:
    """Put back in the place of its sentinel, each span completes the text; spans do not touch."""
    ids, cut = list(range(100, 100 + length)), range(4, 4 + sentinels)
    kept, wanted = corrupt(ids, np.random.default_rng(seed), share, span, cut)
    assert (kept[-1], wanted[-1]) == (SPECIAL.index(END), SPECIAL.index(END))
    spans: dict[int, list[int]] = {}
    for token in wanted[:-1]:
        if token in cut:
            spans[last := token] = []
        else:
            spans[last].append(token)
    assert list(spans) == [token for token in kept if token in cut] == list(cut[: len(spans)])
    whole = [part for token in kept[:-1] for part in (spans[token] if token in cut else [token])]
    assert whole == ids
    assert all(spans.values())
    assert not any(one in cut and two in cut for one, two in pairwise(kept))
    assert sum(map(len, spans.values())) == min(length, max(1, round(length * share)))


def test_a_caption_of_nothing_is_no_fault() -> None:
    """Of a caption without words there is nothing to cut out."""
    assert corrupt([], np.random.default_rng(0), 0.15, 3.0, range(4, 8)) == ([1], [1])


def test_captions_are_encoded_in_their_order() -> None:
    """Each as alone, whatever the lengths of the others."""
    module = ClipTraining(**SMALL["clip"]).eval()
    module.tokenizer = module.learn_tokenizer(CAPTIONS)
    together = module.encode_texts(CAPTIONS[:5])
    for row, caption in enumerate(CAPTIONS[:5]):
        torch.testing.assert_close(together[row], module.encode_texts([caption])[0], atol=1e-5, rtol=0)


def test_another_tokenizer_than_the_checkpoint_s_is_refused(recipe: Recipe, tmp_path: Path, capsys) -> None:
    assert main(["fit", "--config", str(recipe("clip"))]) == 0
    path = tmp_path / "clip" / "tokenizer" / "tokenizer.json"
    path.write_text(path.read_text() + " ")
    assert main(["fit", "--config", str(recipe("clip", 6)), "--ckpt_path", "last"]) == 1
    assert "another tokenizer" in capsys.readouterr().err


@pytest.mark.parametrize("kind", SMALL)
def test_shards_with_embeddings_train_an_encoder_too(kind: str, recipe: Recipe, shard_folder: Path) -> None:
    """As Toybox's are, by the recipes of Toybox."""
    assert main(["fit", "--config", str(recipe(kind, 2, "toybox", train=str(shard_folder)))]) == 0


def test_embedded_is_asked_for_and_there_are_none(recipe: Recipe, capsys) -> None:
    assert main(["fit", "--config", str(recipe("clip", 2, embedded=True))]) == 1
    assert "has no embeddings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"visoin": {}}, "no setting named 'model.init_args.visoin'; did you mean"),
        ({"vision": {"image_size": 32, "layers": 1, "width": 8, "colour": 1}}, "open_clip cannot build this CLIP"),
        ({"vocabulary": 20}, "vocabulary"),
    ],
)
def test_a_wrong_setting_is_one_sentence(change: dict[str, Any], message: str, recipe: Recipe, capsys) -> None:
    path = recipe("clip")
    config = yaml.safe_load(path.read_text())
    config["model"]["init_args"] |= change
    path.write_text(yaml.safe_dump(config))
    assert main(["fit", "--config", str(path)]) in (1, 2)
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said


def test_a_run_of_an_encoder_is_no_stage(recipe: Recipe, tmp_path: Path) -> None:
    assert main(["fit", "--config", str(recipe("clip", 2))]) == 0
    with pytest.raises(ValueError, match=r"trained ClipTraining, which is no denoiser"):
        read_run(tmp_path / "clip")


def test_byte_pairs_are_clip_s_kind() -> None:
    tokenizer = byte_pairs(CAPTIONS, 80, 77)
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL)) == [0, 1, 2, 3]
    assert len(tokenizer) <= 80
    ids = tokenizer("A Red  FOX's den").input_ids
    assert (ids[0], ids[-1]) == (3, 1)
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a red fox ' s den"
    assert len(tokenizer.tokenize("fox")) == 1, "a common word is one token"
    assert tokenizer.tokenize("doxen") != [UNKNOWN], "a new word is spelled"
    assert UNKNOWN in tokenizer.tokenize("☃")
    assert tokenizer(["a", "red fox"], padding=True).input_ids[0][3:] == [0] * (
        len(ids := tokenizer("red fox").input_ids) - 3
    )
    assert ids[-1] == SPECIAL.index(END)


def test_byte_pairs_depend_on_the_captions_alone() -> None:
    once, again = (byte_pairs(iter(CAPTIONS), 60, 77).backend_tokenizer.to_str() for _ in range(2))
    assert once == again


def test_equal_captions_are_equally_right() -> None:
    """The loss is least where a caption is as near to each image that has it, and without repeats it is CLIP's own."""
    import open_clip

    torch.manual_seed(0)
    text, image = (torch.nn.functional.normalize(torch.randn(4, 8), dim=1) for _ in range(2))
    scale = torch.tensor(10.0)
    own = open_clip.ClipLoss()(image, text, scale)
    torch.testing.assert_close(contrast(scale * text @ image.T, ["a", "b", "c", "d"]), own)
    repeated = ["a", "a", "b", "c"]
    assert same(repeated).sum() == 6
    best = contrast(20.0 * same(repeated).float(), repeated)
    assert best < contrast(20.0 * torch.eye(4), repeated)


@pytest.mark.parametrize("kind", SMALL)
def test_a_loss_that_is_not_finite_stops_the_run(kind: str, recipe: Recipe, capsys) -> None:
    path = recipe(kind)
    assert main(["fit", "--config", str(path), "--model.init_args.optimizer.init_args.lr", "1.0e+30"]) == 1
    assert "try a smaller learning rate" in capsys.readouterr().err
