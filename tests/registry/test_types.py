"""The values that flow from encoders to denoisers: joined, dropped, moved and indexed as a whole."""

from dataclasses import replace

import torch

from ediffi.registry.types import Conditioning, Embedding, Paint


def embedding(batch: int, tokens: int, weight: float | None = None) -> Embedding:
    return Embedding(
        torch.rand(batch, tokens, 4) + 1,
        torch.ones(batch, tokens, dtype=torch.bool),
        torch.rand(batch, 3) + 1,
        None if weight is None else torch.full((batch, tokens), weight),
    )


def painted(batch: int, tokens: int, regions: int) -> Paint:
    return Paint(
        torch.ones(batch, regions, 2, 2), {"t5": torch.ones(batch, regions, tokens)}, torch.full((batch,), 0.5)
    )


def test_joined_embeddings_are_padded_and_neutral_where_they_have_no_weight() -> None:
    joined = Embedding.cat([embedding(1, 2), embedding(2, 3, weight=0.5)])
    assert joined.tokens.shape == (3, 3, 4)
    assert joined.mask.tolist() == [[True, True, False]] + [[True] * 3] * 2
    assert not joined.tokens[0, 2].any()
    assert joined.weight is not None
    assert joined.weight.tolist() == [[1, 1, 0]] + [[0.5] * 3] * 2
    assert Embedding.cat([embedding(1, 2), embedding(1, 2)]).weight is None


def test_a_part_without_paint_is_unpainted_in_the_joined_batch() -> None:
    parts = [
        Conditioning({"t5": embedding(2, 3)}),
        Conditioning({"t5": embedding(1, 2)}, paint=painted(1, 2, regions=1)),
        Conditioning({"t5": embedding(1, 3)}, paint=painted(1, 3, regions=2)),
    ]
    paint = Conditioning.cat(parts).paint
    assert paint is not None
    assert paint.strength.tolist() == [0, 0, 0.5, 0.5]
    assert paint.tokens["t5"].sum((1, 2)).tolist() == [0, 0, 2, 6]
    assert paint.areas.sum((1, 2, 3)).tolist() == [0, 0, 4, 8]
    assert Conditioning.cat(parts[:1]).paint is None


def test_the_null_condition_keeps_the_low_resolution_images_only() -> None:
    cond = Conditioning({"t5": embedding(2, 3, weight=2.0)}, paint=painted(2, 3, 1))
    null = cond.with_low_res(torch.ones(2, 3, 4, 4), torch.ones(2)).null()
    source = null.sources["t5"]
    assert not any(t.any() for t in (source.tokens, source.mask, source.pooled, source.weight) if t is not None)
    assert null.paint is None
    assert null.low_res is not None
    assert null.low_res.all()
    assert null.aug_level is not None
    assert null.aug_level.all()


def test_a_source_is_dropped_for_the_chosen_samples() -> None:
    dropped = Conditioning({"t5": embedding(2, 3), "clip_text": embedding(2, 3)}).drop(
        "t5", torch.tensor([True, False])
    )
    assert dropped.sources["t5"].mask.any(1).tolist() == [False, True]
    assert dropped.sources["clip_text"].mask.all()


def test_moving_and_indexing_reach_every_tensor() -> None:
    cond = Conditioning({"t5": embedding(3, 2, weight=1.5)}, paint=painted(3, 2, 1))
    cond = cond.with_low_res(torch.ones(3, 3, 4, 4), torch.ones(3))
    tensors: list[torch.Tensor] = []

    def seen(tensor: torch.Tensor) -> torch.Tensor:
        tensors.append(tensor)
        return tensor

    cond[1:].to(torch.bfloat16).apply(seen)
    assert len(tensors) == 9
    assert {len(tensor) for tensor in tensors} == {2}
    assert [t.dtype for t in tensors].count(torch.bool) == 1
    assert {t.dtype for t in tensors} == {torch.bool, torch.bfloat16}


def test_the_batch_size_is_that_of_the_sources_or_of_the_low_resolution_images() -> None:
    assert Conditioning({"t5": embedding(3, 2)}).batch_size == 3
    assert Conditioning(low_res=torch.ones(2, 3, 4, 4)).batch_size == 2
    assert Conditioning().batch_size == 0


def test_that_every_token_is_real_is_known_as_long_as_it_is_true() -> None:
    known = replace(embedding(2, 3), all_tokens=True)
    assert known.neutral
    assert known[1:].neutral
    assert Conditioning({"t5": known}).to(torch.bfloat16).sources["t5"].neutral
    assert Embedding.cat([known, known]).neutral
    dropped = known.drop(torch.tensor([True, False]))
    for other in (
        embedding(2, 3),
        replace(known, weight=torch.ones(2, 3)),
        dropped,
        Conditioning({"t5": known}).null().sources["t5"],
        Embedding.cat([known, dropped]),
        Embedding.cat([known, embedding(2, 3)]),
        Embedding.cat([known, replace(embedding(1, 2), all_tokens=True)]),
    ):
        assert not other.neutral


def test_a_source_is_padded_to_a_multiple_of_tokens_that_nobody_sees() -> None:
    short = replace(embedding(2, 3), weight=torch.full((2, 3), 2.0))
    padded = Conditioning({"t5": short, "clip_image": embedding(2, 1)}).padded(4).sources
    longer, alone = padded["t5"], padded["clip_image"]
    assert longer.weight is not None
    assert longer.tokens.shape[1] == longer.mask.shape[1] == longer.weight.shape[1] == 4
    assert torch.equal(longer.tokens[:, :3], short.tokens)
    assert torch.equal(longer.mask[:, :3], short.mask)
    assert not longer.mask[:, 3:].any()
    assert longer.pooled is short.pooled
    assert alone.tokens.shape[1] == 1
    assert embedding(2, 8).padded(4).tokens.shape[1] == 8
