"""`ediffi embed`: the embeddings of shards, once. See also `ediffi data`."""

from ediffi.cli.data import Engine, cluster_of, encoders_of
from ediffi.cli.parser import UsageError


def embed(
    *,
    shards: list[str],
    out: str,
    encoders: list[str] | None = None,
    batch_tokens: int = 8192,
    batch_pictures: int = 64,
    background: str = "white",
    allow_unknown: bool = False,
    device: str = "auto",
    devices: int = 1,
    num_nodes: int = 1,
    engine: Engine = "processes",
    address: str = "auto",
    dry_run: bool = False,
) -> None:
    """Compute the embeddings of captions and images of shards, once, and write shards to train on.

    Each input shard becomes one output shard: images, captions and metadata unchanged, with the embeddings, unpadded,
    in bfloat16; those of other sources that it has already stay. An index has counts, hashes and the encoders. The same
    command resumes an interrupted run; two that run at a time share the work.

    Args:
        shards: files or URLs with braces, as in 'in-{0000..0999}.tar', or folders of .tar files; several as ["a","b"].
        out: folder of the shards to write; with ray also a URL, of a store that all machines reach.
        encoders: required: a model (the shipped toybox, a folder, or ORG/REPO of the Hub), whose encoders are used; the
            recipe of a cascade, or a YAML file, that names them; or registered ones, as in [t5_xxl,clip_l14_text].
        batch_tokens: padded tokens in a batch of captions; fewer need less memory.
        batch_pictures: images in a batch.
        background: the colour (a name, or a code such as "#ff8800") that transparent images are laid on; training takes
            the same (data.background).
        allow_unknown: also begin with a text encoder to which more than a quarter of the first captions' tokens are
            unknown, or more than a quarter of the captions the same as another one.
        dry_run: time a few batches, print an estimate of space and time, and write nothing.
    """
    if not encoders:
        raise UsageError(
            "--encoders is missing: give the recipe of a cascade (own/cascade, paper/cascade), a model whose "
            "encoders know the words of the captions (a folder, or ORG/REPO of the Hub; toybox knows its own 74), or "
            "registered encoders such as [minilm] or [t5_xxl,clip_l14_text,clip_l14_image] (ediffi registry)"
        )
    from ediffi.data.embedding.run import EmbedRun
    from ediffi.io.distributed import launch
    from ediffi.io.urls import expand

    cluster = cluster_of(engine, address, device, devices, num_nodes)
    request = EmbedRun(
        expand(shards), out, encoders_of(encoders), batch_tokens, batch_pictures, background, allow_unknown
    )
    if cluster is not None:
        from ediffi.data.embedding import on_ray

        on_ray.embed(request, cluster, dry_run)
        return
    here = launch(device, 1, 1) if dry_run else launch(device, devices, num_nodes)
    request(here, devices * num_nodes, dry_run)
