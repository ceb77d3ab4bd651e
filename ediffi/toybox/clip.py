"""Train the CLIP of the Toybox model: open_clip's own class at tiny size, on the training split, tested on held-out.

It is trained as CLIP was, to match captions and images. It shares the T5's word tokenizer; a word that it does not know
becomes `<unk>`, and training adds `<unk>` to the captions so that such words do no harm.
"""

import json
import math
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from ediffi.evaluation.datasets.toybox import BACKGROUNDS, NAMEABLE, STYLES, Scene, caption, render, sample_scene
from ediffi.registry.encoders.clip import ClipImageEncoder, ClipTextEncoder, load_clip, pool_text, text_states
from ediffi.toybox import encoder_training as training

BUDGET: Final = training.EncoderBudget(steps=700, batch_size=256, learning_rate=1e-3)
# Of the CLIP in `evaluation/datasets/toybox/clip`, used for CLIP scores only, never for conditioning.
JUDGE_BUDGET: Final = training.EncoderBudget(steps=1500, batch_size=256, learning_rate=1e-3)
IMAGE_SIZE: Final = 64  # side of the images that the CLIP reads


def train_clip(
    output: Path, budget: training.EncoderBudget = BUDGET, seed: int = 0, pool: int = 40_000
) -> dict[str, Any]:
    """Train the CLIP and write it to the folder `output`, as open_clip reads it (some 10 minutes on two CPU cores).

    `pool` scenes are drawn and rendered once; their captions are new in every batch. Returns the content of
    training.json there: the record of the training, and the held-out `clip_scores`.
    """
    import open_clip

    torch.manual_seed(seed)
    tokenizer = training.word_tokenizer(begin=True, max_length=77)
    settings = clip_settings(len(tokenizer))
    model = open_clip.CLIP(**settings["model_cfg"]).to(training.device())
    rng = np.random.default_rng([seed, 3])
    scenes = [sample_scene(rng) for _ in range(pool)]
    images = images_of(scenes)
    contrast = open_clip.ClipLoss()

    def loss() -> Tensor:
        picked = rng.choice(pool, budget.batch_size, replace=budget.batch_size > pool)
        length = training.draw_length(rng)
        texts = [training.add_unknown_words(caption(scenes[index], rng, length).text, rng) for index in picked]
        tokens = tokenizer(texts, padding=True, truncation=True, max_length=77, return_tensors="pt")
        tokens = tokens.to(training.device())
        text = pool_text(model, text_states(model, tokens["input_ids"]), tokens["attention_mask"].bool())
        image = model.encode_image(to_range(images[picked]), normalize=True)
        # The scale is at most 100, as in CLIP (Radford et al. 2021, section 2.5): larger ones make training unstable.
        return contrast(image, text, model.logit_scale.clamp(max=math.log(100)).exp())

    record = training.fit(model, loss, budget, "CLIP", bf16=training.device() != "cpu") | {"seed": seed, "pool": pool}
    with training.saving(output, record) as folder:
        write_clip(folder, model, tokenizer, settings)
        record |= clip_scores(folder, seed)
    return record


def clip_settings(words: int) -> dict[str, Any]:
    """The content of open_clip_config.json: a ViT on 64² images in patches of 16, a causal text tower of 77 tokens."""
    vision = {"image_size": IMAGE_SIZE, "patch_size": 16, "width": 128, "layers": 4, "head_width": 32, "mlp_ratio": 2.0}
    text = {"context_length": 77, "vocab_size": words, "width": 128, "layers": 3, "heads": 4, "mlp_ratio": 2.0}
    ids = {"eos_id": training.SPECIAL.index(training.END), "pad_id": training.SPECIAL.index(training.PAD)}
    read = {"hf_tokenizer_name": "toybox-words", "pool_type": "eos", **ids}
    half = [0.5, 0.5, 0.5]
    return {
        "model_cfg": {"embed_dim": 128, "vision_cfg": vision, "text_cfg": {**text, **read}},
        "preprocess_cfg": {"size": IMAGE_SIZE, "mean": half, "std": half, "interpolation": "bicubic"},
    }


def write_clip(folder: Path, model: nn.Module, tokenizer: Any, settings: dict[str, Any]) -> None:
    """Write config, bf16 weights and tokenizer, as the encoders `clip_text` and `clip_image` load them."""
    from safetensors.torch import save_file

    weights = {name: value.to(torch.bfloat16).contiguous() for name, value in model.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    tokenizer.save_pretrained(folder)
    (folder / "open_clip_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def clip_scores(folder: Path, seed: int = 0, count: int = 256) -> dict[str, float]:
    """How well a written CLIP matches held-out scenes and captions.

    `text_to_picture`, `picture_to_text`: share of `count` scenes whose caption (one that names everything) finds their
    image first among all `count`, and the reverse, averaged over 4 such sets. `text_*`, `picture_*`: share of held-out
    scenes whose count, style or background a linear map reads from the pooled embedding.
    """
    parts = load_clip(folder)
    rng = np.random.default_rng([seed, 4])
    scenes = [sample_scene(rng, "test") for _ in range(4 * count)]
    text = ClipTextEncoder(*parts)([full_caption(scene, rng) for scene in scenes]).pooled
    image = ClipImageEncoder(parts[0])(to_range(images_of(scenes))).pooled
    assert text is not None
    assert image is not None
    alike = torch.stack([t @ i.T for t, i in zip(text.split(count), image.split(count), strict=True)])
    answer = torch.arange(count, device=alike.device)
    scores = {
        "text_to_picture": (alike.argmax(2) == answer).float().mean().item(),
        "picture_to_text": (alike.argmax(1) == answer).float().mean().item(),
    }
    facts = {"count": [len(s.objects) for s in scenes], "style": [STYLES.index(s.style) for s in scenes]}
    facts["background"] = [list(BACKGROUNDS).index(scene.background) for scene in scenes]
    for name, values in facts.items():
        scores |= {f"text_{name}": linear_probe(text, values), f"picture_{name}": linear_probe(image, values)}
    return {name: round(value, 4) for name, value in scores.items()}


def linear_probe(vectors: Float[Tensor, "b d"], values: list[int]) -> float:
    """Accuracy, on the last quarter, of the linear map to one-hot `values` that fits the first three quarters best."""
    known = torch.cat([vectors, torch.ones_like(vectors[:, :1])], 1).double().cpu()
    truth, split = torch.tensor(values), len(values) * 3 // 4
    fitted = torch.linalg.lstsq(known[:split], nn.functional.one_hot(truth[:split]).double(), driver="gelsd").solution
    return ((known[split:] @ fitted).argmax(1) == truth[split:]).double().mean().item()


def full_caption(scene: Scene, rng: np.random.Generator) -> str:
    """A short caption that names everything that a caption may leave out."""
    while True:
        said = caption(scene, rng, "short")
        if said.named >= NAMEABLE.keys():
            return said.text


def images_of(scenes: list[Scene]) -> UInt8[Tensor, "b 64 64 3"]:
    """Rendered images, uint8."""
    return torch.from_numpy(np.stack([render(scene, IMAGE_SIZE) for scene in scenes]))


def to_range(images: UInt8[Tensor, "b h w 3"]) -> Float[Tensor, "b 3 h w"]:
    """Bytes to [-1, 1], channels first, on the training device."""
    return images.to(training.device()).permute(0, 3, 1, 2).float() / 127.5 - 1
