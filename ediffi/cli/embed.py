"""`ediffi embed`: the embeddings of a data set, once, so that no encoder runs in training."""

from pathlib import Path


def embed(
    *,
    shards: list[str],
    out: Path,
    encoders: list[str] = ["toybox"],  # noqa: B006
    batch_tokens: int = 8192,
    batch_pictures: int = 64,
    device: str = "cpu",
    devices: int = 1,
    num_nodes: int = 1,
    dry_run: bool = False,
) -> None:
    """Embed the captions and pictures of shards, and write shards to train on.

    The output has a shard for each of the input, with the picture, caption and metadata as they came and the
    embeddings, unpadded, in bfloat16; and an index with counts, hashes and what the encoders are. Killed at any moment,
    the same command goes on with the shards that are not done; given twice at a time, the two share the work.

    Args:
        shards: files or URLs with braces, as in 'in-{0000..0999}.tar', or folders of .tar files; several as ["a","b"].
        out: folder of the shards to write.
        encoders: a model (the shipped toybox, a folder, or ORG/REPO of the Hub), whose encoders are taken; or YAML
            that names them; or registered ones, as in [t5_xxl,clip_l14_text,clip_l14_image].
        batch_tokens: padded tokens a batch of captions; less needs less memory.
        batch_pictures: pictures a batch.
        device: cpu, cuda, ...
        devices: processes on each machine, each with a device of its own. Under torchrun leave it out.
        num_nodes: machines; the command is given on each, with MASTER_ADDR, MASTER_PORT and NODE_RANK set.
        dry_run: measure a few batches, tell what it would take in space and time, and write nothing.
    """
    from ediffi.data.embedding.identity import named_encoders
    from ediffi.data.embedding.run import EmbedRun
    from ediffi.io import distributed
    from ediffi.io.urls import expand

    parts = named_encoders(encoders)
    request = EmbedRun(expand(shards), out, parts, batch_tokens, batch_pictures)
    request(
        distributed.launch(device, 1 if dry_run else devices, 1 if dry_run else num_nodes), devices * num_nodes, dry_run
    )
