"""Train the encoders of the Toybox model: the T5 of `ediffi.toybox.t5` and a CLIP, the real classes at tiny size.

The CLIP is trained as CLIP was, to tell which caption belongs to which picture. Both encoders share one word-level
tokenizer; a word it does not know becomes `<unk>`, and training strews `<unk>` into the captions so that such words do
no harm. Trained on the training split only, measured on the held-out one.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ediffi.evaluation.datasets.toybox import BACKGROUNDS, STYLES, caption, sample_scene
from ediffi.registry.encoders.clip import ClipImageEncoder, ClipTextEncoder, load_clip, pool_text, text_states
from ediffi.toybox.encoder_data import (
    END,
    PICTURE,
    SPECIAL,
    draw_length,
    full_caption,
    pictures_of,
    strew,
    to_range,
    word_tokenizer,
)
from ediffi.toybox.fitting import Budget, device, fit, replacing, write_record
from ediffi.toybox.t5 import BUDGET as T5_BUDGET
from ediffi.toybox.t5 import train_t5

CLIP_BUDGET = Budget(steps=700, batch_size=256, learning_rate=1e-3)
JUDGE_BUDGET = Budget(steps=1500, batch_size=256, learning_rate=1e-3)
"""Of the CLIP in `evaluation/datasets/toybox/clip`, which judges and never conditions: another seed, twice as long."""


def encoders(output: Path, seed: int = 0, t5_steps: int = T5_BUDGET.steps, clip_steps: int = CLIP_BUDGET.steps) -> None:
    """Train both encoders of the Toybox model into `output`/t5 and `output`/clip (some 12 minutes on two CPU cores).

    Args:
        output: folder to write to; what stands at t5 and clip in it is replaced once the new one is complete.
        seed: of the weights, the scenes and the captions.
        t5_steps: training steps of the T5.
        clip_steps: training steps of the CLIP.
    """
    t5 = Budget(t5_steps, T5_BUDGET.batch_size, T5_BUDGET.learning_rate)
    clip = Budget(clip_steps, CLIP_BUDGET.batch_size, CLIP_BUDGET.learning_rate)
    for name, record in (("t5", train_t5(output / "t5", t5, seed)), ("clip", train_clip(output / "clip", clip, seed))):
        print(name, json.dumps(record, indent=2))


def train_clip(output: Path, budget: Budget = CLIP_BUDGET, seed: int = 0, pool: int = 40_000) -> dict[str, Any]:
    """Train the CLIP and write it to the folder `output`, as open_clip reads it.

    Args:
        output: folder to write.
        budget: how long to train.
        seed: of the weights, the scenes and the captions.
        pool: how many scenes are drawn, and rendered once; their captions are new in every batch.

    Returns:
        The record that is also written there as training.json: training, and the held-out `clip_scores`.
    """
    import open_clip

    torch.manual_seed(seed)
    tokenizer = word_tokenizer(begin=True, max_length=77)
    settings = clip_settings(len(tokenizer))
    model = open_clip.CLIP(**settings["model_cfg"]).to(device())
    rng = np.random.default_rng([seed, 3])
    scenes = [sample_scene(rng) for _ in range(pool)]
    pictures = pictures_of(scenes)
    contrast = open_clip.ClipLoss()

    def loss() -> Tensor:
        picked = rng.choice(pool, budget.batch_size, replace=budget.batch_size > pool)
        length = draw_length(rng)
        texts = [strew(caption(scenes[index], rng, length).text, rng) for index in picked]
        tokens = tokenizer(texts, padding=True, truncation=True, max_length=77, return_tensors="pt").to(device())
        said = pool_text(model, text_states(model, tokens["input_ids"]), tokens["attention_mask"].bool())
        seen = model.encode_image(to_range(pictures[picked]), normalize=True)
        scale = model.logit_scale.clamp(max=math.log(100)).exp()
        return contrast(seen, said, scale)

    record = fit(model, loss, budget, "CLIP", bf16=device() != "cpu") | {"seed": seed, "pool": pool}
    with replacing(output) as folder:
        write_clip(folder, model, tokenizer, settings)
        record |= clip_scores(folder, seed)
        write_record(folder, record)
    return record


def clip_settings(words: int) -> dict[str, Any]:
    """What open_clip_config.json says: a ViT on 64² pictures in patches of 16, a causal text tower of 77 positions."""
    vision = {"image_size": PICTURE, "patch_size": 16, "width": 128, "layers": 4, "head_width": 32, "mlp_ratio": 2.0}
    text: dict[str, Any] = {
        "context_length": 77,
        "vocab_size": words,
        "width": 128,
        "layers": 3,
        "heads": 4,
        "mlp_ratio": 2.0,
    }
    text |= {"hf_tokenizer_name": "toybox-words", "pool_type": "eos", "eos_id": SPECIAL.index(END), "pad_id": 0}
    half = [0.5, 0.5, 0.5]
    return {
        "model_cfg": {"embed_dim": 128, "vision_cfg": vision, "text_cfg": text},
        "preprocess_cfg": {"size": PICTURE, "mean": half, "std": half, "interpolation": "bicubic"},
    }


def write_clip(folder: Path, model: nn.Module, tokenizer: Any, settings: dict[str, Any]) -> None:
    """Write config, bf16 weights and tokenizer, as `ediffi.registry.encoders.clip_text` and `clip_image` load them."""
    from safetensors.torch import save_file

    weights = {name: value.to(torch.bfloat16).contiguous() for name, value in model.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    tokenizer.save_pretrained(folder)
    (folder / "open_clip_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def clip_scores(folder: Path, seed: int = 0, count: int = 256) -> dict[str, float]:
    """How well a written CLIP knows held-out scenes.

    Returns:
        `text_to_picture`, `picture_to_text`: share of `count` scenes whose caption (one that names everything) finds
        their picture first among all `count`, and the reverse, averaged over 4 such sets. `text_*`, `picture_*`: share
        of held-out scenes whose count, style or background is read off the pooled embedding by a linear map.
    """
    parts = load_clip(folder)
    rng = np.random.default_rng([seed, 4])
    scenes = [sample_scene(rng, "test") for _ in range(4 * count)]
    said = ClipTextEncoder(*parts)([full_caption(scene, rng) for scene in scenes]).pooled
    seen = ClipImageEncoder.of(parts[0])(to_range(pictures_of(scenes))).pooled
    assert said is not None
    assert seen is not None
    alike = torch.stack([s @ p.T for s, p in zip(said.split(count), seen.split(count), strict=True)])
    answer = torch.arange(count, device=alike.device)
    scores = {
        "text_to_picture": (alike.argmax(2) == answer).float().mean().item(),
        "picture_to_text": (alike.argmax(1) == answer).float().mean().item(),
    }
    facts = {"count": [len(s.objects) for s in scenes], "style": [STYLES.index(s.style) for s in scenes]}
    facts["background"] = [list(BACKGROUNDS).index(scene.background) for scene in scenes]
    for name, values in facts.items():
        scores |= {f"text_{name}": probe(said, values), f"picture_{name}": probe(seen, values)}
    return {name: round(value, 4) for name, value in scores.items()}


def probe(vectors: Float[Tensor, "b d"], values: list[int]) -> float:
    """Accuracy, on the last quarter, of the linear map to one-hot `values` that fits the first three quarters best."""
    known = torch.cat([vectors, torch.ones_like(vectors[:, :1])], 1).double().cpu()
    truth, split = torch.tensor(values), len(values) * 3 // 4
    fitted = torch.linalg.lstsq(known[:split], nn.functional.one_hot(truth[:split]).double(), driver="gelsd").solution
    return ((known[split:] @ fitted).argmax(1) == truth[split:]).double().mean().item()
