"""What encoders know of the emoji world, on scenes and words that no training has seen.

    python benchmarks/emoji_encoders.py data/emoji/test64 minilm t5=runs/emoji/t5/encoder clip=runs/emoji/clip/encoder

For each text encoder: a word that no caption contains ("a puppy") is read as the thing whose name is nearest, by the
pooled vector or, without one, the mean of the tokens. For a CLIP also: pictures of one thing are read as the thing and
the style whose text is nearest among all pairs of them. Prints JSON.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ediffi.data.embedding.encode import prepare_image
from ediffi.data.index import Index
from ediffi.data.shards import image_of, metadata_of, reject_for_embedding
from ediffi.data.tar import RawSample, Tally, read_samples
from ediffi.registry import encoders

BATCH = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shards", type=Path, help="test scenes, with held_out.json beside them")
    parser.add_argument("encoders", nargs="+", help="minilm, t5=FOLDER, clip=FOLDER")
    options = parser.parse_args()
    samples = list(scenes(options.shards))
    names = {thing["hexcode"]: thing["name"] for raw in samples for thing in metadata_of(raw)["things"]}
    unseen = json.loads((options.shards / "held_out.json").read_text(encoding="utf-8"))["words"]
    results: dict[str, Any] = {}
    for given in options.encoders:
        kind, _, folder = given.partition("=")
        name = "clip_text" if kind == "clip" else kind
        text = encoders.create(name, **({"path": folder} if folder else {}))
        results[given] = synonyms(text, names, unseen)
        if kind == "clip":
            results[given] |= zero_shot(text, encoders.create("clip_image", path=folder), samples, names)
    print(json.dumps(results, indent=1))


def scenes(folder: Path) -> Iterator[RawSample]:
    for shard in Index.read(folder).shards:
        yield from read_samples(shard.url, Tally(), reject_for_embedding)


def vectors(encoder: Any, texts: Sequence[str]) -> Tensor:
    embedding = encoder(list(texts))
    if embedding.pooled is not None:
        return functional.normalize(embedding.pooled, dim=-1)
    return functional.normalize(embedding.tokens.sum(1), dim=-1)


def synonyms(encoder: Any, names: dict[str, str], unseen: dict[str, list[str]]) -> dict[str, Any]:
    codes = sorted(names)
    words = [(code, word) for code, all_of_it in unseen.items() if code in names for word in all_of_it]
    alike = vectors(encoder, [word for _, word in words]) @ vectors(encoder, [names[code] for code in codes]).T
    order = alike.argsort(1, descending=True)
    ranks = [codes.index(code) for code, _ in words]
    first = {word: names[codes[int(row[0])]] for (_, word), row in zip(words, order, strict=True)}
    right = sum(int(row[0]) == rank for row, rank in zip(order, ranks, strict=True))
    five = sum(rank in row[:5].tolist() for row, rank in zip(order, ranks, strict=True))
    return {"words": len(words), "nearest": right, "among five": five, "read as": first}


def zero_shot(text: Any, image: Any, samples: Sequence[RawSample], names: dict[str, str]) -> dict[str, Any]:
    """Shares: of scenes with one thing, whose thing and style the nearest text names; of captions that find theirs."""
    facts = [metadata_of(raw) for raw in samples]
    pictures = []
    for first in range(0, len(samples), BATCH):
        prepared = [prepare_image(image_of(raw), image) for raw in samples[first : first + BATCH]]
        pictures.append(image(torch.stack(prepared)).pooled)
    seen = torch.cat(pictures)
    single = torch.tensor([len(fact["things"]) == 1 for fact in facts])
    held = torch.tensor([bool(fact["held_out"]) for fact in facts])
    codes = sorted(names)
    called: dict[str, str] = {}
    for fact in facts:
        if fact["style_name"]:
            called.setdefault(fact["style"], fact["style_name"])
    styles = sorted(called)
    thing = torch.tensor([codes.index(fact["things"][0]["hexcode"]) for fact in facts])
    style = torch.tensor([styles.index(fact["style"]) for fact in facts])
    found: dict[str, Any] = {}
    texts = [f"a {names[code]}, {called[one]} style" for code in codes for one in styles]
    nearest = (seen @ vectors(text, texts).T).argmax(1)
    for what, truth, read in (("concept", thing, nearest // len(styles)), ("style", style, nearest % len(styles))):
        right = read == truth
        found[what] = {
            "scenes": int(single.sum()),
            "right": round(right[single].double().mean().item(), 4),
            "right of held-out pairs": round(right[single & held].double().mean().item(), 4),
        }
    captions = [fact["caption"] for fact in facts]
    read = torch.cat([vectors(text, captions[first : first + BATCH]) for first in range(0, len(captions), BATCH)])
    right = (read @ seen.T).argmax(1)
    same = [captions[int(index)] == caption for index, caption in zip(right, captions, strict=True)]
    found["captions that find their picture"] = {"among": len(captions), "right": round(sum(same) / len(same), 4)}
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    main()
