"""One pass over images: each is decoded once, for its features, its CLIP score and what the dataset measures."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ediffi.evaluation.images.numbered import NumberedImages
from ediffi.evaluation.metrics.clip_score import ClipScorer
from ediffi.evaluation.metrics.decoding import (
    DecodedBatch,
    ImageDecoder,
    Measure,
    Prepare,
    decode,
    first_image,
    worker_deaths,
)
from ediffi.evaluation.metrics.features import FeatureExtractor
from ediffi.evaluation.metrics.rows import BROKEN, ODD, PassLayout, RowFiles, open_rows, read_layout
from ediffi.evaluation.scorers import NamedScorer
from ediffi.io.distributed import DistributedContext
from ediffi.io.progress import Progress


@dataclass(frozen=True)
class MetricNetworks:
    """The networks that see the images. If the extractor is the CLIP that scores, its image tower runs once."""

    extractor: FeatureExtractor | None = None
    clip: ClipScorer | None = None
    scorer: NamedScorer | None = None  # instead of a CLIP

    @property
    def shared(self) -> bool:
        """Whether one CLIP does both."""
        return self.clip is not None and getattr(self.extractor, "clip", None) is self.clip

    @property
    def device(self) -> torch.device:
        """Where the networks run."""
        return getattr(self.extractor, "device", None) or (self.clip.device if self.clip else torch.device("cpu"))

    @property
    def prepares(self) -> list[Prepare]:
        """How an image becomes the input of each network."""
        clip = None if self.shared else self.clip
        return [network.prepare for network in (self.extractor, clip, self.scorer) if network is not None]


def measure(
    images: NumberedImages,
    folder: Path,
    networks: MetricNetworks,
    *,
    captions: Sequence[str] | None = None,
    measure: Measure | None = None,
    strict: bool = True,
    size: int | None = None,
    resize: str | None = None,
    batch_size: int = 32,
    num_workers: int = 0,
    context: DistributedContext | None = None,
    more: Sequence[tuple[Path, MetricNetworks]] = (),
) -> None:
    """Measure this process's share of the images, and write the rows into `folder`; `Rows.read` reads them.

    `more` networks see the same images in the same pass, and have folders of their own: one that is added later
    measures only what it lacks.

    Block j, the images j·batch_size and following, belongs to process j mod world_size. So a row depends neither on the
    number of processes nor on which of them wrote it. Rows that are there are kept. All processes must see the folder.
    They do not wait for each other: wait for all of them before the rows are read.

    `captions` are needed if a CLIP scores. `measure` returns the same names for each image, nan where one does not
    apply. `strict` refuses unusual and broken images; otherwise they are converted or left out, and counted. `size` is
    the side that every image must have, the first one's by default; `resize` names the rule, that of `square`, by which
    others are made so, instead of being refused. ValueError names the image or the setting that is wrong.
    """
    context = context or DistributedContext()
    if batch_size < 1 or num_workers < 0:
        raise ValueError(f"batch_size must be at least 1 and num_workers at least 0, got {batch_size}, {num_workers}")
    scoring = any(one.clip or one.scorer for one in (networks, *(others for _, others in more)))
    if scoring and (captions is None or len(captions) != len(images)):
        raise ValueError(f"there are {len(captions or ())} captions for {len(images)} images")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # tokenizers warn when the loader forks
    decoder = ImageDecoder(images, strict, (size, size) if size else None, resize is not None, measure=measure)
    sinks = []
    for place, own in ((folder, networks), *more):
        key = _key(images, own, captions) | ({"resize": resize} if resize else {})
        files = _row_files(decoder if place == folder else replace(decoder, measure=None), place, own, key)
        decoder = replace(decoder, size=files.layout.size)
        if strict:
            _refuse_odd(files, images)
        if _done(files) < len(images):
            sinks.append((files, own))
    if not sinks:
        return
    first = sinks[0][0].folder == folder
    fields, prepares = sinks[0][0].layout.fields if first else (), [one for _, own in sinks for one in own.prepares]
    decoder = replace(decoder, prepares=prepares, fields=fields, measure=measure if first else None)
    blocks = [range(start, min(start + batch_size, len(images))) for start in range(0, len(images), batch_size)]
    mine = [b for b in blocks[context.rank :: context.world_size] if not all(_has(files, b) for files, _ in sinks)]
    pin, hidden = any(own.device.type == "cuda" for _, own in sinks), context.rank != 0
    done = min(_done(files) for files, _ in sinks)
    with (
        worker_deaths(),
        Progress(total=len(images), initial=done, unit="image", desc="measuring", disable=hidden) as bar,
    ):
        for block, (states, prepared, measured) in zip(mine, decode(decoder, mine, num_workers, pin), strict=True):
            for files, own in sinks:
                inputs, prepared = prepared[: len(own.prepares)], prepared[len(own.prepares) :]
                if not _has(files, block):
                    _write(files, block.start, (states, inputs, measured), own, captions, images)
            bar.update(min(_done(files) for files, _ in sinks) - bar.n)  # of all processes


def _done(files: RowFiles) -> int:
    """How many images are measured, by all processes."""
    return int((files.read("states") > 0).sum())


def _has(files: RowFiles, block: range) -> bool:
    """Whether all images of a block are measured."""
    return bool(files.read("states")[block.start : block.stop].all())


def _key(images: NumberedImages, networks: MetricNetworks, captions: Sequence[str] | None) -> Any:
    """What the rows depend on; not the batch size, which can change the last bits only, nor `strict`, which changes no
    row: `_refuse_odd` reads it from the states."""
    key = {
        "pictures": images.fingerprint(),
        "captions": hashlib.sha256(json.dumps(list(captions or ())).encode()).hexdigest()
        if networks.clip or networks.scorer
        else None,
        "feature_extractor": networks.extractor and dict(networks.extractor.protocol),
        "clip": networks.clip and dict(networks.clip.protocol),
    }
    if networks.scorer:
        key["scorer"] = dict(networks.scorer.protocol)
    return json.loads(json.dumps(key))


def _refuse_odd(files: RowFiles, images: NumberedImages) -> None:
    """ValueError if a pass that was not strict met images that a strict one refuses."""
    states = files.read("states")
    odd = np.flatnonzero(states >= BROKEN)
    if len(odd):
        files.check(("states",))  # a state that was changed on disk is no such image
        kind = "broken" if states[odd[0]] == BROKEN else f"not plain 8-bit RGB, but {ODD[states[odd[0]] - BROKEN - 1]}"
        count, name = f"{len(odd)} of {len(images)} images are unusual or broken", images.name(int(odd[0]))
        raise ValueError(
            f"{count}; the first, {name}, is {kind}; without strict they are converted or left out, and counted"
        )


def _row_files(decoder: ImageDecoder, folder: Path, networks: MetricNetworks, key: dict[str, Any]) -> RowFiles:
    """The files in the folder; the layout of new ones comes from the first image: its size, and what is measured."""
    if layout := read_layout(folder):
        if decoder.size and layout.size != decoder.size:
            found, wanted = ("x".join(map(str, size)) for size in (layout.size, decoder.size))
            raise ValueError(f"{folder} holds measurements of images of {found}, and {wanted} are judged; delete it")
        return open_rows(folder, replace(layout, key=key))
    index, image = first_image(decoder)
    fields = list(decoder.measure(index, image)) if decoder.measure else []
    width = networks.extractor.width if networks.extractor else 0
    scored = networks.clip is not None or networks.scorer is not None
    return open_rows(folder, PassLayout(key, len(decoder), image.size, width, scored, fields))


def _write(
    files: RowFiles,
    start: int,
    batch: DecodedBatch,
    networks: MetricNetworks,
    captions: Sequence[str] | None,
    images: NumberedImages,
) -> None:
    """Run the networks on a block, and write its rows; the states last."""
    states, (*prepared,), measured = batch
    mask = states != BROKEN
    numbers = (np.flatnonzero(mask) + start).tolist()
    if numbers and networks.extractor:
        features = networks.extractor(prepared.pop(0))
        _check_finite("features", features, numbers, images)
        files.write("features", start, mask, features.numpy())
    if numbers and networks.clip:
        embeddings = features if networks.shared else networks.clip.embed_images(prepared.pop(0))
        scores = networks.clip.scores(embeddings, [captions[index] for index in numbers] if captions else [])
        _check_finite("CLIP score", scores[:, None], numbers, images)
        files.write("scores", start, mask, scores.numpy())
    if numbers and networks.scorer:
        scores = networks.scorer(prepared.pop(0), [captions[index] for index in numbers] if captions else [])
        _check_finite(f"score by {networks.scorer.name}", scores[:, None], numbers, images)
        files.write("scores", start, mask, scores.numpy())
    if files.layout.fields:
        files.write("measured", start, mask, measured)
    files.write("states", start, np.ones_like(mask), states)


def _check_finite(what: str, values: torch.Tensor, numbers: Sequence[int], images: NumberedImages) -> None:
    finite = values.isfinite().all(1).tolist()
    if not all(finite):
        raise ValueError(f"the {what} of {images.name(numbers[finite.index(False)])} is not finite")
