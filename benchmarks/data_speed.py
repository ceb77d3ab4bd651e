"""How fast embeddings are read and made, and how small they are.

    OMP_NUM_THREADS=1 python benchmarks/data_speed.py [--rounds 5] [--samples 500] [--captions 2048]
        [--output benchmarks/results/data_speed.json]

Reading: samples/s of our reader, which hashes every shard and decodes caption and embeddings, against webdataset's own
tar reader without any decoding, on the same shards in the page cache; embeddings of the paper's widths and of Toybox's.
Making: captions/s of `encode_captions` (sorted by length, unpadded) against transformers with every caption padded to
113 tokens; a T5 of t5-small's shape with random weights, whose time is that of trained ones. Size: bytes of the
`.safetensors` members, tar blocks included, against padded float16 without any. Captions are random words as long as
COCO's: 10.6 words on average, 1.25 T5 tokens a word. All with one
thread, in seconds of processor time, which other work on the machine moves less; contestants take turns; medians.
"""

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import tokenizers
import torch
from PIL import Image
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel
from webdataset import tariterators

from ediffi.data.embedding.encode import encode_captions, lengths
from ediffi.data.embedding.estimate import tar_bytes
from ediffi.data.index import Index
from ediffi.data.shards import (
    Sample,
    caption_of,
    decode,
    embeddings_of,
    load_shard,
    read_shard,
    write_shards,
)
from ediffi.registry.encoders import HfTextEncoder

PAPER = {"t5": (4096, None, 113), "clip_text": (768, 768, 77), "clip_image": (768, 768, 1)}
TOYBOX = {"t5": (128, None, 113), "clip_text": (128, 128, 77), "clip_image": (128, 128, 1)}
"""Width of a token, width of the pooled vector, most tokens, by source."""
T5_SMALL = {"d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8}
WORDS, TOKENS_A_WORD = 2000, 1.25
COCO_MEAN, COCO_STD, COCO_LEAST = 10.6, 2.4, 6


def caption_lengths(count: int, rng: np.random.Generator) -> np.ndarray:
    """Words of captions as COCO has them: few below eight, a tail of long ones."""
    drawn = COCO_LEAST + rng.gamma(
        ((COCO_MEAN - COCO_LEAST) / COCO_STD) ** 2, COCO_STD**2 / (COCO_MEAN - COCO_LEAST), count
    )
    return np.clip(np.round(drawn), COCO_LEAST, 60).astype(int)


def captions(count: int, rng: np.random.Generator) -> list[str]:
    """Texts with as many tokens as T5 would make of COCO's captions."""
    sizes = np.round(caption_lengths(count, rng) * TOKENS_A_WORD).astype(int)
    return [" ".join(f"w{word}" for word in rng.integers(0, WORDS, size)) for size in sizes]


def t5_small() -> HfTextEncoder:
    """An encoder of t5-small's shape, and a tokenizer with one token a word."""
    special = ["<pad>", "</s>", "<unk>"]
    vocabulary = {word: index for index, word in enumerate([*special, *(f"w{word}" for word in range(WORDS))])}
    fast = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    fast.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    fast.post_processor = tokenizers.processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=fast, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=113
    )
    torch.manual_seed(0)
    return HfTextEncoder(T5EncoderModel(T5Config(vocab_size=32128, **T5_SMALL)).eval(), tokenizer)


def samples(count: int, widths: dict[str, Any], rng: np.random.Generator) -> Iterator[Sample]:
    """Random pictures of 64² and random embeddings, as long as captions are."""
    for number, words in enumerate(caption_lengths(count, rng)):
        tensors = {}
        for source, (width, pooled, most) in widths.items():
            tokens = min(most, round(words * TOKENS_A_WORD) + 2)
            tensors[f"{source}.tokens"] = torch.randn(tokens, width, dtype=torch.bfloat16)
            if pooled is not None:
                tensors[f"{source}.pooled"] = torch.randn(pooled, dtype=torch.bfloat16)
        smooth = Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).resize((64, 64))
        yield Sample(f"{number:09d}", smooth, " ".join(["word"] * words), tensors, {"similarity": 0.3, "width": 64})


def rates(contestants: dict[str, Callable[[], int]], rounds: int) -> dict[str, float]:
    """Things a second of processor time, median over rounds in which they take turns; the first does not count."""
    found: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds + 1):
        for name, work in contestants.items():
            began = time.process_time()
            count = work()
            found[name].append(count / (time.process_time() - began))
    return {name: median(values[1:]) for name, values in found.items()}


def reading(widths: dict[str, Any], count: int, rounds: int) -> dict[str, Any]:
    """Samples/s of the readers."""
    with tempfile.TemporaryDirectory() as folder:
        write_shards(Path(folder), samples(count, widths, np.random.default_rng(0)), count, {})
        (shard,) = Index.read(Path(folder)).shards

        def webdataset_raw() -> int:
            with shard.path.open("rb") as stream:
                members = tariterators.tar_file_expander([{"url": shard.url, "stream": stream}])
                return sum(1 for _ in tariterators.group_by_keys(members))

        def ours_raw() -> int:
            return sum(1 for _ in read_shard(shard.url))

        def ours_embeddings() -> int:
            return sum(bool(embeddings_of(raw) and caption_of(raw)) for raw in read_shard(shard.url))

        def ours_whole_shard() -> int:
            return sum(bool(embeddings_of(raw) and caption_of(raw)) for raw in load_shard(shard))

        def ours_decoded() -> int:
            return sum(1 for raw in read_shard(shard.url) if decode(raw))

        contestants = {
            f.__name__: f for f in (webdataset_raw, ours_raw, ours_embeddings, ours_whole_shard, ours_decoded)
        }
        speeds = rates(contestants, rounds)
        return {
            "bytes_a_sample": round(shard.path.stat().st_size / count),
            "samples_a_second": {name: round(speed, 1) for name, speed in speeds.items()},
            "against_webdataset": {name: round(speed / speeds["webdataset_raw"], 3) for name, speed in speeds.items()},
        }


def making(count: int, rounds: int, batch_size: int = 64) -> dict[str, Any]:
    """Captions/s of the encoders."""
    encoder, texts = t5_small(), captions(count, np.random.default_rng(1))
    few = min(count, 2 * batch_size)

    def padded() -> int:
        for first in range(0, few, batch_size):  # a padded caption costs as much as any other
            batch = encoder.tokenizer(
                texts[first : first + batch_size],
                padding="max_length",
                truncation=True,
                max_length=113,
                return_tensors="pt",
            )
            encoder.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        return few

    def ours() -> int:
        return len(encode_captions("t5", encoder, texts, batch_tokens=8192))

    with torch.inference_mode():
        speeds = rates({"padded": padded, "ours": ours}, rounds)
        tokens = lengths(encoder, texts)
    return {
        "words": round(sum(len(text.split()) for text in texts) / count / TOKENS_A_WORD, 2),
        "tokens": round(sum(tokens) / count, 2),
        "captions_a_second": {name: round(speed, 2) for name, speed in speeds.items()},
        "ours_against_padded": round(speeds["ours"] / speeds["padded"], 2),
    }


def size(widths: dict[str, Any], count: int) -> float:
    """Bytes of the members with embeddings, divided by padded float16."""
    import safetensors.torch

    stored = sum(
        tar_bytes(len(safetensors.torch.save(dict(sample.embeddings))))
        for sample in samples(count, widths, np.random.default_rng(0))
    )
    padded = count * sum(2 * (most * width + (pooled or 0)) for width, pooled, most in widths.values())
    return round(stored / padded, 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--captions", type=int, default=2048)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    report = {
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "reading": {
            name: reading(widths, options.samples, options.rounds)
            for name, widths in (("paper", PAPER), ("toybox", TOYBOX))
        },
        "making": making(options.captions, options.rounds),
        "size": {name: size(widths, options.samples) for name, widths in (("paper", PAPER), ("toybox", TOYBOX))},
    }
    print(json.dumps(report, indent=1))
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
