"""Do two checkouts compute the same bits? Training, super-resolution training, growth, generation and evaluation.

    python benchmarks/same_bits.py ../ediffi-old .

A refactor proves with it that nothing changed. Each checkout runs the same seeded commands, with its own recipes, in a
folder of its own; what they leave is compared by digest: tensors of checkpoints and experts, pixels of images, numbers
of results. Exits with 1 if anything differs.

Noise changed when `registry/random.py` became a counter: a checkout from before that change differs in all of them.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

CALLBACKS = "lightning.pytorch.callbacks"
PROMPT = "a large red circle left of a small blue square, striped, on a pink background"
LAYOUT = [{"phrase": "red circle", "mask": [[0, 0], [0.5, 0], [0.5, 1], [0, 1]]}]


def tiny(recipe: Path, work: Path, run: str) -> Path:
    """A recipe of the checkout at tiny size, written into the work folder."""
    settings = yaml.safe_load(recipe.read_text())
    if run == "base":
        settings["model"]["denoiser"]["init_args"]["channels"] = 32
    settings["data"] |= {"train": "train", "val": "test", "batch_size": 8, "val_batches": 2}
    settings["trainer"] |= {
        "max_steps": 12,
        "val_check_interval": 6,
        "log_every_n_steps": 1,
        "default_root_dir": f"runs/{run}",
        "accelerator": "cpu",
        "logger": False,
        "callbacks": [
            {"class_path": f"{CALLBACKS}.EMAWeightAveraging", "init_args": {"decay": 0.9}},
            {
                "class_path": f"{CALLBACKS}.ModelCheckpoint",
                "init_args": {
                    "every_n_train_steps": 6,
                    "save_last": True,
                    "save_top_k": 0,
                    "enable_version_counter": False,
                },
            },
        ],
    }
    path = work / f"{run}.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def schedule(work: Path) -> Path:
    """Three experts that grow from the tiny base run."""
    shared = {"level": 0, "index": 0}
    noises = [
        {"level": 2, "index": 0},
        {"level": 2, "index": 3},
        {"without": [{"level": 2, "index": 0}, {"level": 2, "index": 3}]},
    ]
    overrides = {"trainer.callbacks.1.init_args.every_n_train_steps": 6, "trainer.val_check_interval": 6}
    nodes: list[dict[str, Any]] = [{"interval": shared, "steps": 12, "run": "runs/base"}]
    nodes += [{"interval": noise, "steps": 6, "parent": shared, "overrides": overrides} for noise in noises]
    stage = {
        "name": "base",
        "resolution": 16,
        "sampling": {"num_inference_steps": 6, "guidance_scale": 3.0, "sigma_min": 0.01, "sigma_max": 20.0},
    }
    path = work / "experts.yaml"
    path.write_text(yaml.safe_dump({"recipe": "base.yaml", "output": "runs/experts", "nodes": nodes, "stage": stage}))
    return path


def commands(checkout: Path, work: Path) -> list[list[str]]:
    """What is run, in order."""
    Image.linear_gradient("L").convert("RGB").rotate(30).save(work / "gradient.png")
    (work / "layout.json").write_text(json.dumps(LAYOUT))
    base = tiny(checkout / "recipes/toybox/base.yaml", work, "base")
    sr64 = tiny(checkout / "recipes/toybox/sr64.yaml", work, "sr64")
    sample = ["sample", PROMPT, "--seed", "3"]
    return [
        ["toybox", "shards", "train", "--image-size", "64", "--count", "192"],
        ["toybox", "shards", "test", "--image-size", "64", "--count", "32", "--split", "test"],
        ["fit", "--config", base.name],
        ["fit", "--config", sr64.name],
        ["grow", "--config", schedule(work).name],
        [*sample, "-o", "plain.png"],
        [*sample, "-o", "guided.png", "--negative-prompt", "blue", "--guidance-scale", "4", "--num-images", "3"],
        [*sample, "-o", "painted.png", "--paint", "layout.json", "--style-image", "gradient.png"],
        ["edit", "gradient.png", PROMPT, "--strength", "0.6", "-o", "edited.png"],
        ["upscale", "plain.png", PROMPT, "-o", "upscaled.png"],
        ["evaluate", "--suite", "toybox", "--model", "toybox", "--count", "16", "-o", "judged"],
    ]


def digest(path: Path) -> str:
    """What a file says, without when and where it was written."""
    sha = hashlib.sha256()
    if path.suffix == ".png":
        sha.update(Image.open(path).tobytes())
    elif path.suffix == ".json":
        points = json.loads(path.read_text())["points"]
        sha.update(json.dumps([point["metrics"] for point in points], sort_keys=True).encode())
    elif path.suffix == ".tar":
        sha.update(path.read_bytes())
    else:
        loaded = torch.load(path, weights_only=True) if path.suffix == ".ckpt" else load_file(path)
        kept = {"state_dict", "optimizer_states", "averaging_state"}
        add(sha, {k: v for k, v in loaded.items() if k in kept} if path.suffix == ".ckpt" else loaded)
    return sha.hexdigest()[:16]


def add(sha: Any, value: Any) -> None:
    """Feed nested tensors and numbers, in the order of their keys."""
    if isinstance(value, torch.Tensor):
        sha.update(value.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    elif isinstance(value, dict):
        for key in sorted(value, key=str):
            sha.update(str(key).encode())
            add(sha, value[key])
    elif isinstance(value, list | tuple):
        for item in value:
            add(sha, item)
    else:
        sha.update(str(value).encode())


def results(checkout: Path, work: Path) -> dict[str, str]:
    """Run everything in a checkout; digests by file."""
    work.mkdir(parents=True)
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    for command in commands(checkout, work):
        print(f"{checkout.name}: ediffi {' '.join(command)[:100]}", file=sys.stderr)
        subprocess.run(
            [sys.executable, "-m", "ediffi", *command],
            cwd=work,
            env=environment,
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
    patterns = ("*/*.tar", "*.png", "runs/**/last.ckpt", "runs/**/*.safetensors", "judged/results.json")
    return {str(path.relative_to(work)): digest(path) for pattern in patterns for path in sorted(work.glob(pattern))}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkouts", nargs=2, type=Path)
    parser.add_argument(
        "--keep", type=Path, help="a folder to keep the first checkout's digests in, and read them from"
    )
    options = parser.parse_args()
    found = []
    for number, checkout in enumerate(options.checkouts):
        kept = options.keep / "digests.json" if options.keep else None
        if number == 0 and kept and kept.is_file():
            found.append(json.loads(kept.read_text()))
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                found.append(results(checkout.resolve(), Path(folder) / "work"))
            except subprocess.CalledProcessError as error:
                sys.exit(f"{' '.join(error.cmd)}\n{error.stderr.decode()}")
        if number == 0 and kept:
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(found[0], indent=1))
    names = sorted(found[0].keys() | found[1].keys())
    different = [name for name in names if found[0].get(name) != found[1].get(name)]
    for name in names:
        print(f"{'DIFFERENT' if name in different else 'equal':<10} {name}  {found[0].get(name)}  {found[1].get(name)}")
    print(f"{len(names) - len(different)} equal, {len(different)} different")
    return bool(different)


if __name__ == "__main__":
    sys.exit(main())
