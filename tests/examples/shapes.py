"""The plug-in's own commands and recipes, as its tests give them: at small size."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
PLUGIN = ROOT / "examples" / "plugin"
COUNTS = {"--count 20000": "--count 24", "--count 1000": "--count 8"}


def readme() -> list[str]:
    """The commands of the README, in order."""
    lines = (PLUGIN / "README.md").read_text().splitlines()
    return [line.strip() for line in lines if line.startswith("    ediffi ")]


def commands() -> list[str]:
    """The same, with counts made small."""
    return [re.sub("|".join(COUNTS), lambda found: COUNTS[found[0]], line) for line in readme()]


def write_recipes(folder: Path) -> None:
    """The plug-in's recipes, of which only the sizes and the counts are changed."""
    config = yaml.safe_load((PLUGIN / "base.yaml").read_text())
    config["model"]["denoiser"]["init_args"] |= {"width": 32, "depth": 1, "head_channels": 16}
    config["data"] |= {"batch_size": 4, "val_batches": 1}
    config["trainer"] |= {"max_steps": 4, "val_check_interval": 2, "log_every_n_steps": 1, "accelerator": "cpu"}
    config["trainer"]["callbacks"][1]["init_args"]["every_n_train_steps"] = 2
    config["trainer"]["callbacks"][2]["init_args"]["sampling"]["num_inference_steps"] = 2
    (folder / "base.yaml").write_text(yaml.safe_dump(config))
    cascade = yaml.safe_load((PLUGIN / "cascade.yaml").read_text())
    cascade["stages"][0]["sampling"]["num_inference_steps"] = 3
    (folder / "cascade.yaml").write_text(yaml.safe_dump(cascade))
