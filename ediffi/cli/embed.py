"""`ediffi embed`: the embeddings of a dataset, computed once, so that no encoder runs in training."""

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
    """Compute the embeddings of captions and images of shards, once, and write shards to train on.

    Each input shard becomes one output shard: images, captions and metadata unchanged, with the embeddings, unpadded,
    in bfloat16. An index has counts, hashes and the encoders. The same command resumes an interrupted run; two that run
    at a time share the work.

    Args:
        shards: files or URLs with braces, as in 'in-{0000..0999}.tar', or folders of .tar files; several as ["a","b"].
        out: folder of the shards to write.
        encoders: a model (the shipped toybox, a folder, or ORG/REPO of the Hub), whose encoders are used; or a YAML
            file that names them; or registered ones, as in [t5_xxl,clip_l14_text,clip_l14_image].
        batch_tokens: padded tokens in a batch of captions; fewer need less memory.
        batch_pictures: images in a batch.
        dry_run: time a few batches, print an estimate of space and time, and write nothing.
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
