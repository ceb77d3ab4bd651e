"""Question answering: how likely a model that sees the image answers "Yes" to whether it shows the caption."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float32
from PIL import Image
from torch import Tensor

from ediffi.evaluation.scorers.named import register
from ediffi.io.files import fingerprint

QUESTION, ANSWER = 'Does this figure show "{}"? Please answer Yes or No.', "Yes"
"""Of VQAScore's paper (Lin et al., arXiv 2404.01291, section 3) and its code."""


@dataclass(frozen=True)
class AnswerScorer:
    """A model of transformers that takes an image and a text, and its processor."""

    model: Any
    processor: Any
    answer: int  # the token that is hoped for
    protocol: Mapping[str, Any]

    def __call__(self, images: Sequence[Image.Image], captions: Sequence[str]) -> Float32[Tensor, " b"]:
        """The probability of the answer as the first token, image by image: so no padding changes it."""
        with torch.inference_mode():
            pairs = zip(images, captions, strict=True)
            return torch.stack([self._probability(image, QUESTION.format(caption)) for image, caption in pairs])

    def _probability(self, image: Image.Image, question: str) -> Tensor:
        if getattr(self.processor, "chat_template", None):
            content = [{"type": "image"}, {"type": "text", "text": question}]
            messages = [{"role": "user", "content": content}]
            question = self.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        inputs = self.processor(images=image, text=question, return_tensors="pt").to(self.model.device)
        options: dict[str, Any] = {"max_new_tokens": 1, "do_sample": False}
        found = self.model.generate(**inputs, **options, output_logits=True, return_dict_in_generate=True)
        return found.logits[0][0].float().softmax(0)[self.answer].cpu()


@register
def vqascore(path: str, dtype: str = "float32", device: str = "cpu") -> AnswerScorer:
    """VQAScore (Lin et al., arXiv 2404.01291) by any image-text model of transformers: InstructBLIP, BLIP-2, PaliGemma,
    LLaVA, Qwen-VL. Their own CLIP-FlanT5 is no class of transformers.

    Args:
        path: a folder with the model (config.json, .safetensors) and its processor.
        dtype: of the weights, float32 or bfloat16.
        device: where it runs.

    Raises:
        FileNotFoundError: the folder has no such files.
        ValueError: the model is of another kind, or its tokenizer has no token for "Yes".
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    folder, safe = Path(path), {"local_files_only": True, "trust_remote_code": False}
    weights = sorted(folder.glob("*.safetensors"))
    if not weights or not (folder / "config.json").is_file():
        what = "a folder with config.json, .safetensors and a processor's files is needed"
        raise FileNotFoundError(f"{path!r} is no image-text model of transformers: {what}")
    if dtype not in ("float32", "bfloat16"):
        raise ValueError(f"dtype must be float32 or bfloat16, got {dtype!r}")
    try:
        model = AutoModelForImageTextToText.from_pretrained(folder, dtype=getattr(torch, dtype), **safe)
        processor = AutoProcessor.from_pretrained(folder, **safe)
        tokens = processor.tokenizer.encode(ANSWER, add_special_tokens=False)
    except (ValueError, OSError, AttributeError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path!r} holds no image-text model of transformers: {reason}") from None
    if not tokens or tokens[0] == processor.tokenizer.unk_token_id:
        raise ValueError(f"the tokenizer of {path!r} has no token for {ANSWER!r}")
    protocol = {
        "model": type(model).__name__,
        "weights": fingerprint(weights),
        "question": QUESTION,
        "answer": ANSWER,
        "dtype": dtype,
        "library": f"transformers {version('transformers')}",
    }
    return AnswerScorer(model.eval().requires_grad_(False).to(device), processor, tokens[0], protocol)
