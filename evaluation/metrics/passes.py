"""One pass over pictures: each is decoded once, and features, CLIP score and what else is measured come of it."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ediffi.evaluation.images.numbered import Pictures
from ediffi.evaluation.metrics.clip_score import ClipScorer
from ediffi.evaluation.metrics.decoding import Batch, Decoder, Measure, batches, deaths_said, first_picture
from ediffi.evaluation.metrics.features import FeatureExtractor
from ediffi.evaluation.metrics.rows import BROKEN, Layout, Table, open_table, read_layout


@dataclass(frozen=True)
class Networks:
    """What looks at the pictures.

    Attributes:
        extractor: takes features; None for none.
        clip: scores captions; None for none. Where the extractor is the same CLIP, it runs once.
    """

    extractor: FeatureExtractor | None = None
    clip: ClipScorer | None = None

    @property
    def shared(self) -> bool:
        """Whether one CLIP does both."""
        return self.clip is not None and getattr(self.extractor, "clip", None) is self.clip

    @property
    def device(self) -> torch.device:
        """Where the networks run, as far as is known."""
        return getattr(self.extractor, "device", None) or (self.clip.device if self.clip else torch.device("cpu"))


def measure(
    pictures: Pictures,
    folder: Path,
    networks: Networks,
    *,
    captions: Sequence[str] | None = None,
    measure: Measure | None = None,
    strict: bool = True,
    batch_size: int = 32,
    num_workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
) -> None:
    """Measure this process's share of the pictures, and write the rows into `folder`; `Rows.read` reads them.

    Block j, the pictures j·batch_size and following, belongs to process j mod world_size, so that a row depends neither
    on the number of processes nor on which wrote it. Rows that are there are not made again. With several processes the
    folder lies on a disk that all of them see. Nobody waits for anybody here: let them meet before the rows are read.

    Args:
        pictures: all of one size.
        folder: of this pass; made if it is missing.
        networks: what looks at them.
        captions: of the pictures, where a CLIP scores.
        measure: what else is measured of a picture: the same names for each, nan where one does not apply.
        strict: refuse an odd or broken picture; otherwise convert the odd and leave out the broken, and count them.
        batch_size: pictures at a time.
        num_workers: processes that decode.
        rank: number of this process.
        world_size: of how many.

    Raises:
        ValueError: no pictures, a number is out of range, there are not as many captions as pictures, sizes are mixed,
            a picture is broken or odd, features are not finite, or the folder is for something else.
        FileNotFoundError: a picture is missing.
    """
    if batch_size < 1 or num_workers < 0 or not 0 <= rank < world_size:
        raise ValueError(
            "batch_size must be at least 1, num_workers at least 0 and rank below world_size, "
            f"got {batch_size}, {num_workers}, {rank} and {world_size}"
        )
    if networks.clip and (captions is None or len(captions) != len(pictures)):
        raise ValueError(f"there are {len(captions or ())} captions for {len(pictures)} pictures")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # else they complain when the loader forks
    decoder = Decoder(pictures, strict, measure=measure)
    table = _table(decoder, folder, networks, _key(pictures, networks, captions, strict))
    decoder = Decoder(pictures, strict, table.layout.size, _prepares(networks), measure, tuple(table.layout.fields))
    blocks = [range(start, min(start + batch_size, len(pictures))) for start in range(0, len(pictures), batch_size)]
    states = table.read("states")
    mine = [block for block in blocks[rank::world_size] if not states[block.start : block.stop].all()]
    with (
        deaths_said(),
        tqdm(
            total=len(pictures),
            initial=int((states > 0).sum()),
            unit="picture",
            desc="measuring",
            disable=rank > 0 or None,
        ) as bar,
    ):
        for batch in batches(decoder, mine, num_workers, networks.device.type == "cuda"):
            _write(table, batch, networks, captions, pictures)
            bar.update(int((table.read("states") > 0).sum()) - bar.n)  # of all processes


def _prepares(networks: Networks) -> list[Any]:
    clip = None if networks.shared else networks.clip
    return [network.prepare for network in (networks.extractor, clip) if network is not None]


def _key(pictures: Pictures, networks: Networks, captions: Sequence[str] | None, strict: bool) -> dict[str, Any]:
    """What the rows of a pass depend on, but for the last bit: the batch size is left out."""
    key = {
        "pictures": pictures.fingerprint(),
        "captions": networks.clip and hashlib.sha256(json.dumps(list(captions or ())).encode()).hexdigest(),
        "feature_extractor": networks.extractor and dict(networks.extractor.protocol),
        "clip": networks.clip and dict(networks.clip.protocol),
        "strict": strict,
    }
    return dict(json.loads(json.dumps(key)))


def _table(decoder: Decoder, folder: Path, networks: Networks, key: dict[str, Any]) -> Table:
    """The table in the folder; a new one is laid out by the first picture: its size, and what is measured of it."""
    layout = read_layout(folder)
    if layout is None:
        index, image = first_picture(decoder)
        fields = list(decoder.measure(index, image)) if decoder.measure else []
        width = networks.extractor.width if networks.extractor else 0
        layout = Layout(key, len(decoder), image.size, width, networks.clip is not None, fields)
    return open_table(folder, replace(layout, key=key))


def _write(table: Table, batch: Batch, networks: Networks, captions: Sequence[str] | None, pictures: Pictures) -> None:
    """Run the networks on a block, and write its rows; the states last."""
    whole = np.nonzero(batch.states != BROKEN)[0] + batch.start
    prepared, embeddings = list(batch.prepared), None
    if len(whole) and networks.extractor:
        features = networks.extractor(prepared.pop(0))
        for row in (~features.isfinite().all(1)).nonzero().flatten().tolist():
            raise ValueError(f"the features of {pictures.name(int(whole[row]))} are not finite")
        embeddings = features if networks.shared else None
        _spread(table, "features", batch, whole, features.numpy())
    if len(whole) and networks.clip:
        embeddings = networks.clip.embed_pictures(prepared.pop(0)) if embeddings is None else embeddings
        scores = networks.clip.scores(embeddings, [captions[index] for index in whole] if captions else [])
        for row in (~scores.isfinite()).nonzero().flatten().tolist():
            raise ValueError(f"the CLIP score of {pictures.name(int(whole[row]))} is not finite")
        _spread(table, "scores", batch, whole, scores.numpy())
    if table.layout.fields:
        _spread(table, "measured", batch, whole, batch.measured)
    table.write("states", batch.start, batch.states)


def _spread(table: Table, name: str, batch: Batch, whole: np.ndarray, rows: np.ndarray) -> None:
    """Write the rows of a block's whole pictures; those of broken ones are 0."""
    column = table.columns[name]
    block = np.zeros((len(batch.states), *column.shape[1:]), column.dtype)
    block[whole - batch.start] = rows
    table.write(name, batch.start, block)
