"""CLIP score: open_clip's own computation, then torchmetrics with transformers' CLIP of the same weights."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from ediffi.evaluation.metrics.clip_score import MODEL, PRETRAINED, ClipScorer, load_scorer
from ediffi.evaluation.metrics.features import ClipFeatures
from ediffi.evaluation.metrics.summary import frechet_name
from ediffi.io.files import sha256
from ediffi.registry import encoders
from ediffi.training.encoders.clip import write_clip

SHIPPED = Path(encoders.__file__).parents[2] / "weights" / "toybox" / "encoders" / "clip"
SIZE = 32
LONG = "a photograph of " + "very " * 90 + "old harbour"
CAPTIONS = ["a dog on a beach", "Two women, laughing; one holds an umbrella.", "", LONG]
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2}
VISION = {"image_size": SIZE, "patch_size": 8, "width": 64, "layers": 2, "head_width": 32}
PREPARATION = {"size": SIZE, "mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28], "interpolation": "bicubic"}


class NoTokenizer:
    """open_clip's own tokenizer comes with open_clip."""

    def save_pretrained(self, folder: Path) -> None: ...


def saved(folder: Path, kind: Any = open_clip.CLIP, **text: Any) -> Path:
    settings = {
        "model_cfg": {"embed_dim": 48, "vision_cfg": VISION, "text_cfg": TEXT | text},
        "preprocess_cfg": PREPARATION,
    }
    if kind is open_clip.CustomTextCLIP:
        settings["model_cfg"]["custom_text"] = True
    model = kind(**{name: part for name, part in settings["model_cfg"].items() if name != "custom_text"})
    torch.nn.init.normal_(model.positional_embedding if kind is open_clip.CLIP else model.text.positional_embedding)
    write_clip(folder, model, NoTokenizer(), settings)
    return folder


@pytest.fixture(scope="module")
def folder(new_folder: Callable[[str], Path]) -> Path:
    torch.manual_seed(0)
    return saved(new_folder("tiny-clip"))


@pytest.fixture
def scorer(folder: Path) -> ClipScorer:
    return load_scorer(path=str(folder))


def pictures(size: tuple[int, int] = (70, 50)) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)) for _ in CAPTIONS]


def scores(scorer: ClipScorer, images: list[Image.Image]) -> Tensor:
    prepared = torch.stack([scorer.prepare(image) for image in images])
    return scorer.scores(scorer.embed_images(prepared), CAPTIONS)


def by_open_clip(folder: Path, images: list[Image.Image]) -> Tensor:
    """As open_clip's own documentation computes it."""
    model, _, prepare = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    model.eval()
    with torch.no_grad():
        seen = model.encode_image(torch.stack([prepare(image) for image in images]))
        read = model.encode_text(tokenizer(CAPTIONS))
    seen, read = (part / part.norm(dim=-1, keepdim=True) for part in (seen, read))
    return 100 * (seen * read).sum(1)


def test_scores_are_open_clips_own(scorer: ClipScorer, folder: Path) -> None:
    torch.testing.assert_close(scores(scorer, pictures()), by_open_clip(folder, pictures()), atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (open_clip.CustomTextCLIP, {}),
        (open_clip.CustomTextCLIP, {"no_causal_mask": True}),
        (open_clip.CLIP, {"pool_type": "last"}),
    ],
    ids=["custom", "not causal", "last"],
)
def test_other_text_towers_see_all_positions(tmp_path: Path, kind: Any, text: dict[str, Any]) -> None:
    path = saved(tmp_path, kind, **text)
    found = scores(load_scorer(path=str(path)), pictures())
    torch.testing.assert_close(found, by_open_clip(path, pictures()), atol=2e-5, rtol=0)


def test_the_shipped_clip_scores_as_open_clip_does() -> None:
    """Its end token is not its largest id, and its tokenizer is one of words."""
    captions = ["a red circle", "a large red circle above a small green square on a pink background, in outlined style"]
    scorer = load_scorer(path=str(SHIPPED))
    with torch.no_grad():
        wanted = scorer.model.encode_text(scorer.tokenizer(captions), normalize=True)
    torch.testing.assert_close(scorer.embed_captions(captions), wanted, atol=1e-5, rtol=0)


class Bare(nn.Module):
    """transformers 5 wraps embeddings, and torchmetrics 1.9 does not unwrap them."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.config = model, model.config

    def get_image_features(self, pictures: Tensor) -> Tensor:
        return self.model.get_image_features(pictures).pooler_output

    def get_text_features(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.model.get_text_features(ids, mask).pooler_output


def peer(folder: Path) -> tuple[Any, Any]:
    """transformers' CLIP and processor with the weights of an open_clip folder."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    model, tokenizer = (
        open_clip.create_model_and_transforms(f"local-dir:{folder}")[0],
        open_clip.tokenizer.SimpleTokenizer(),
    )
    shared = {"hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 2, "num_hidden_layers": 2}
    shared |= {"hidden_act": "gelu", "projection_dim": 48}
    config = CLIPConfig(
        text_config=shared | {"bos_token_id": 49406, "eos_token_id": 49407, "max_position_embeddings": 77},
        vision_config=shared | {"image_size": SIZE, "patch_size": 8},
        projection_dim=48,
    )
    theirs = CLIPModel(config).eval()
    theirs.load_state_dict(_in_transformers(model.state_dict(), theirs), strict=True)
    merges = [" ".join(pair) for pair, _ in sorted(tokenizer.bpe_ranks.items(), key=lambda item: item[1])]
    ends = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    names = {"<start_of_text>": ends["bos_token"], "<end_of_text>": ends["eos_token"]}
    vocabulary = {names.get(token, token): number for token, number in tokenizer.encoder.items()}
    pairs = [tuple(merge.split(" ")) for merge in merges]
    words = CLIPTokenizer(vocab=vocabulary, merges=pairs, **ends, pad_token=ends["eos_token"])
    eyes = CLIPImageProcessor(
        size={"shortest_edge": SIZE}, crop_size=SIZE, image_mean=PREPARATION["mean"], image_std=PREPARATION["std"]
    )
    return Bare(theirs), CLIPProcessor(image_processor=eyes, tokenizer=words)


def _in_transformers(tensors: dict[str, Tensor], model: Any) -> dict[str, Tensor]:
    names = {
        "visual.transformer.resblocks.": "vision_model.encoder.layers.",
        "transformer.resblocks.": "text_model.encoder.layers.",
        ".attn.out_proj.": ".self_attn.out_proj.",
        ".ln_1.": ".layer_norm1.",
        ".ln_2.": ".layer_norm2.",
        ".mlp.c_fc.": ".mlp.fc1.",
        ".mlp.c_proj.": ".mlp.fc2.",
        "visual.ln_pre.": "vision_model.pre_layrnorm.",
        "visual.ln_post.": "vision_model.post_layernorm.",
        "visual.conv1.": "vision_model.embeddings.patch_embedding.",
        "visual.class_embedding": "vision_model.embeddings.class_embedding",
        "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
        "ln_final.": "text_model.final_layer_norm.",
        "token_embedding.": "text_model.embeddings.token_embedding.",
    }
    renamed = {}
    for name, part in tensors.items():
        if name in {"visual.proj", "text_projection"}:
            renamed["visual_projection.weight" if name == "visual.proj" else "text_projection.weight"] = part.T
            continue
        if name == "positional_embedding":
            renamed["text_model.embeddings.position_embedding.weight"] = part
            continue
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        if ".attn.in_proj_" in name:
            for which, third in zip("qkv", part.chunk(3), strict=True):
                renamed[name.replace(".attn.in_proj_", f".self_attn.{which}_proj.")] = third
        elif name != "attn_mask":
            renamed[name] = part
    return renamed


def test_torchmetrics_agrees(scorer: ClipScorer, folder: Path) -> None:
    """Pictures of the tower's own size: resizing a tensor and resizing a Pillow picture differ in the last bit."""
    from torchmetrics.functional.multimodal import clip_score
    from torchvision.transforms.functional import pil_to_tensor

    images, (theirs, processor) = pictures((SIZE, SIZE)), peer(folder)
    ours = scores(scorer, images)
    for image, caption, score in list(zip(images, CAPTIONS, ours, strict=True))[:3]:
        wanted = clip_score(pil_to_tensor(image), caption, lambda: (theirs, processor)).detach()
        torch.testing.assert_close(score.clamp(min=0), wanted, atol=1e-4, rtol=0)


def test_a_long_caption_keeps_its_end(scorer: ClipScorer, folder: Path) -> None:
    """transformers' tokenizer is told to cut, and keeps the end; torchmetrics cuts what it got, and loses it."""
    theirs, processor = peer(folder)
    cut = processor(text=[LONG], return_tensors="pt", truncation=True, max_length=77)
    assert cut["input_ids"][0, -1] == 49407
    with torch.no_grad():
        wanted = theirs.get_text_features(cut["input_ids"], cut["attention_mask"])
    wanted = wanted / wanted.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(scorer.embed_captions([LONG]), wanted, atol=1e-5, rtol=0)
    whole = scorer.tokenizer.encode(LONG)
    assert len(whole) > 77
    beheaded = torch.tensor([[49406, *whole[:76]]])
    with torch.no_grad():
        without = scorer.model.encode_text(beheaded, normalize=True)
    assert (without - wanted).abs().max() > 1e-3


def test_neighbours_do_not_matter(scorer: ClipScorer) -> None:
    together = scorer.embed_captions(CAPTIONS)
    for caption, wanted in zip(CAPTIONS, together, strict=True):
        torch.testing.assert_close(scorer.embed_captions([caption])[0], wanted, atol=1e-6, rtol=0)


def test_a_score_is_a_hundred_cosines(scorer: ClipScorer) -> None:
    read = scorer.embed_captions(CAPTIONS)
    torch.testing.assert_close(scorer.scores(3 * read, CAPTIONS), torch.full((4,), 100.0))
    torch.testing.assert_close(scorer.scores(-read, CAPTIONS), torch.full((4,), -100.0))
    with pytest.raises(ValueError, match="4 captions for 3 images"):
        scorer.scores(read[:3], CAPTIONS)


def test_the_protocol_says_what_scored(scorer: ClipScorer, folder: Path) -> None:
    assert json.loads(json.dumps(scorer.protocol)) == scorer.protocol
    assert scorer.protocol["weights"] == sha256(folder / "open_clip_model.safetensors")
    assert scorer.protocol["name"] == folder.name
    assert "bicubic" in scorer.protocol["resize"]


def test_picture_embeddings_are_features(scorer: ClipScorer) -> None:
    features = ClipFeatures(scorer)
    prepared = torch.stack([features.prepare(image) for image in pictures()])
    with torch.no_grad():
        wanted = scorer.model.encode_image(prepared)
    torch.testing.assert_close(features(prepared), wanted)
    assert (features.width, frechet_name(features)) == (48, "frechet_clip")
    assert features.protocol["weights"] == scorer.protocol["weights"]
    assert features.protocol["name"] == "clip"


def test_the_paper_s_model_is_known_and_says_where_to_put_it() -> None:
    assert PRETRAINED in open_clip.list_pretrained_tags_by_model(MODEL)
    with pytest.raises(
        FileNotFoundError, match=r"could not load the CLIP 'laion/CLIP-ViT-g-14-laion2B-s12B-b42K'.*folder"
    ):
        load_scorer()
    with pytest.raises(ValueError, match=r"no weights 'openai' of 'ViT-g-14'"):
        load_scorer(pretrained="openai")
