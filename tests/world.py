"""A small world for the tests: shards of rendered scenes, and an untrained cascade of the real classes."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from ediffi.cli.recipes import folder as recipe_folder
from ediffi.data.index import Index, Shard
from ediffi.diffusion.experts import Expert
from ediffi.diffusion.noise import ROOT, LogNormal
from ediffi.hub.config import Part
from ediffi.hub.models import SHIPPED
from ediffi.pipeline.stage import Sampling
from ediffi.pipeline.trained_stage import TrainedExpert, TrainedStage, save_cascade
from ediffi.registry import denoisers
from ediffi.toybox.shards import write_toybox

RECIPES = recipe_folder() / "toybox"
ENCODERS = SHIPPED / "toybox" / "encoders"
TINY_BASE = {"channels": 32, "norm_groups": 4, "context_width": 32}
TINY_SR = {
    "channels": 32,
    "channel_mults": [1, 1],
    "num_res_blocks": [1, 1],
    "cross_attention_levels": [1],
    "norm_groups": 4,
}


@pytest.fixture(scope="session")
def shard_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shards of 16 scenes at 32²."""
    folder = tmp_path_factory.mktemp("shards") / "train"
    write_toybox(folder, ENCODERS, image_size=32, count=48, samples_per_shard=16)
    return folder


@pytest.fixture(scope="session")
def shards(shard_folder: Path) -> list[Shard]:
    return Index.read(shard_folder).shards


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained cascade 16² -> 64², as a folder."""
    torch.manual_seed(0)
    stages = []
    for name, resolution, part, aug_level in (
        ("base", 16, Part("unet_toybox", TINY_BASE), None),
        ("sr64", 64, Part("efficient_toybox64", TINY_SR), 0.05),
    ):
        arguments = {key: tuple(v) if isinstance(v, list) else v for key, v in part.arguments.items()}
        denoiser = denoisers.create(part.name, **arguments)
        for parameter in denoiser.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.02)
        sampling = Sampling("euler", num_inference_steps=2, guidance_scale=2.0 if aug_level is None else 1.0)
        experts = [TrainedExpert(Expert(ROOT), denoiser.state_dict())]
        stages.append(TrainedStage(name, resolution, part, LogNormal(), experts, sampling, aug_level))
    parts = {
        "t5": Part("t5", {"path": "encoders/t5"}),
        "clip_text": Part("clip_text", {"path": "encoders/clip"}),
        "clip_image": Part("clip_image", {"path": "encoders/clip"}),
    }
    return save_cascade(tmp_path_factory.mktemp("model") / "tiny", "tiny", parts, ENCODERS, stages)


@pytest.fixture(scope="session")
def recipe(shard_folder: Path) -> Callable[..., Path]:
    """A shipped recipe, on small pictures and for few steps: only sizes, counts and folders are changed."""

    def write(stage: str, folder: Path, steps: int = 2) -> Path:
        size, crop = {"base": (16, None), "sr64": (32, None), "sr256": (32, 16)}[stage]
        config = yaml.safe_load((RECIPES / f"{stage}.yaml").read_text())
        config["data"] |= {"train": str(shard_folder), "val": str(shard_folder), "image_size": size, "crop_size": crop}
        config["data"] |= {"batch_size": 4, "val_batches": 1}
        config["model"]["lr_scheduler"]["init_args"]["total_steps"] = 10
        trainer = config["trainer"]
        trainer |= {"max_steps": steps, "val_check_interval": 2, "log_every_n_steps": 1, "accelerator": "cpu"}
        trainer |= {"default_root_dir": str(folder / stage), "enable_progress_bar": False, "precision": "32-true"}
        place = str(folder / stage / "checkpoints")
        trainer["callbacks"][1]["init_args"] |= {"dirpath": place, "every_n_train_steps": 2}
        trainer["callbacks"][2]["init_args"]["sampling"]["num_inference_steps"] = 2
        path = folder / f"{stage}.yaml"
        path.write_text(yaml.safe_dump(config))
        return path

    return write
