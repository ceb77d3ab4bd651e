"""Denoisers: sizes, identities, and agreement with k-diffusion's preconditioning."""

import warnings

import pytest
import torch

from ediffi.registry import denoisers
from ediffi.registry.denoisers.attention import attend
from ediffi.registry.denoisers.conditioning import ConditionEmbedding, widths
from ediffi.registry.denoisers.layers import ResidualBlock
from ediffi.registry.denoisers.precondition import Preconditioned, upsample
from ediffi.registry.types import Conditioning, Embedding

BASE, SUPER = ["unet_toybox"], ["efficient_toybox64", "efficient_toybox256"]
PAPER = {"unet_base64": 64, "efficient_sr256": 256, "efficient_sr1024": 256}
MILLIONS = {"unet_base64": 715, "efficient_sr256": 468, "efficient_sr1024": 206}
"""Parameters of the defaults."""
READING = {"context_width": None, "feed_forward": 4, "normalize_pooled": True}
"""Of appendix A, in recipes/paper."""
READINGS = pytest.mark.parametrize("reading", [{}, READING], ids=["default", "paper"])


def conditioning(batch: int, low_res: int | None = None, words: int = 5) -> Conditioning:
    def embedding(tokens: int, pooled: bool) -> Embedding:
        return Embedding(
            torch.randn(batch, tokens, 128),
            torch.ones(batch, tokens, dtype=torch.bool),
            torch.randn(batch, 128) if pooled else None,
        )

    cond = Conditioning(
        {"t5": embedding(words, False), "clip_text": embedding(words, True), "clip_image": embedding(1, True)}
    )
    if low_res is None:
        return cond
    return cond.with_low_res(torch.randn(batch, 3, low_res, low_res), torch.full((batch,), 0.1))


def awake(denoiser: Preconditioned) -> Preconditioned:
    """The denoiser with its zero-initialised layers made random, so that every path matters; float64."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            if not parameter.any():
                parameter.normal_(0, 0.05, generator=generator)
    return denoiser.double().eval()


def tiny(name: str, **overrides: object) -> Preconditioned:
    torch.manual_seed(0)
    return awake(denoisers.create(name, **overrides))


def double(cond: Conditioning) -> Conditioning:
    return cond.to(torch.float64)


@pytest.mark.parametrize("name", denoisers.names())
def test_every_denoiser_builds_on_the_meta_device(name: str) -> None:
    with torch.device("meta"):
        denoiser = denoisers.create(name)
    assert all(parameter.is_meta for parameter in denoiser.parameters())


@pytest.mark.parametrize(("name", "size"), PAPER.items())
def test_paper_networks_have_the_paper_shape(name: str, size: int) -> None:
    with torch.device("meta"):
        denoiser = denoisers.create(name)
        x = torch.empty(1, 3, size, size)
        cond = Conditioning({"t5": Embedding(torch.empty(1, 7, 4096), torch.empty(1, 7, dtype=torch.bool))})
        if name != "unet_base64":
            cond = cond.with_low_res(torch.empty(1, 3, size // 4, size // 4), torch.empty(1))
        assert denoiser(x, torch.empty(1), cond).shape == x.shape
    assert round(sum(parameter.numel() for parameter in denoiser.parameters()) / 1e6) == MILLIONS[name]
    kinds = [type(module).__name__ for module in denoiser.modules()]
    assert kinds.count("CrossAttention") >= 2
    assert "FeedForward" not in kinds
    if name == "unet_base64":
        assert kinds.count("SelfAttention") == kinds.count("CrossAttention") == 3 * 3 + 1 + 4 * 3
    if name == "efficient_sr1024":
        assert "SelfAttention" not in kinds


def parameters(name: str, **arguments: object) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in denoisers.create(name, **arguments).parameters())


def test_the_readings_of_appendix_a_cost_what_their_formulas_say() -> None:
    """Of the base network: 7 layers with attention of 512 channels (3 down, 4 up) and 15 of 1024 (7 a side, 1 between).

    Keys and values are 2c numbers a token, a feed-forward has two products of c by 4c and a norm.
    """
    layers, sources = [512] * 7 + [1024] * 15, [768, 4096, 768]
    plain, common, norms = parameters("unet_base64"), 1024, 2
    straight = sum(2 * c * (sum(sources) + len(sources)) + 2 * c for c in layers) + norms * sum(sources)
    projected = sum(2 * c * (common + 1) for c in layers) + sum((d + 1 + norms) * common for d in sources) + common
    assert parameters("unet_base64", context_width=None) == plain - projected + straight
    fed = sum(4 * c * c + 4 * c + 4 * c * c + c + norms * c for c in layers)
    assert parameters("unet_base64", feed_forward=4) == plain + fed
    assert parameters("unet_base64", context_width=None, feed_forward=4) == plain - projected + straight + fed


def test_pooled_embeddings_enter_at_the_scale_of_the_noise_level() -> None:
    """CLIP's have unit length."""
    torch.manual_seed(0)
    unit = torch.nn.functional.normalize(torch.randn(64, 768), dim=-1)
    cond = Conditioning({"clip_text": Embedding(torch.zeros(64, 1, 768), torch.ones(64, 1, dtype=torch.bool), unit)})
    deviations = []
    for normalize in (False, True):
        embedding = ConditionEmbedding(1024, None, {"clip_text": 768}, {"clip_text": 768}, normalize)
        noise, seen = embedding.noise(torch.linspace(-1.6, 1.1, 64)).detach(), []
        embedding.pooled["clip_text"].register_forward_hook(lambda *args, seen=seen: seen.append(args[2].detach()))
        null = embedding(torch.zeros(64), cond.null())[0]
        assert torch.equal(null, embedding(torch.zeros(64), Conditioning())[0]), "a dropped one stays zero"
        embedding(torch.zeros(64), cond)
        deviations.append(float(seen[-1].std(0).mean() / noise.std(0).mean()))
    assert deviations[0] < 0.2
    assert 0.5 < deviations[1] < 5


def test_base_attention_is_at_32_16_and_8() -> None:
    """PAPER: "attention at 32, 16, 8" of a 64² image, self-attention first and cross-attention after it."""
    with torch.device("meta"):
        network = denoisers.create("unet_base64").network
    for block in [*network.down, *network.up]:
        assert (block.self_attention is None) == (block.cross_attention is None)
    attending = [block.self_attention is not None for block in network.down]
    assert attending == [False] * 4 + [True] * 3 + [False] + [True] * 3 + [False] + [True] * 3


@pytest.mark.parametrize("sigma_data", [0.5, 0.19])
def test_preconditioning_agrees_with_k_diffusion(sigma_data: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from k_diffusion.layers import Denoiser

    class Network(torch.nn.Module):
        def forward(self, x: torch.Tensor, sigma: torch.Tensor, *rest: object) -> torch.Tensor:
            return torch.tanh(x) + 0 * sigma.view(-1, 1, 1, 1)

    x, sigma = torch.randn(6, 3, 4, 4), torch.tensor([0.002, 0.1, 0.5, 1.0, 10.0, 80.0])
    ours, theirs = Preconditioned(Network(), sigma_data), Denoiser(Network(), sigma_data=sigma_data)
    torch.testing.assert_close(ours(x, sigma, Conditioning()), theirs(x, sigma), atol=1e-5, rtol=1e-5)


def test_preconditioning_keeps_unit_variance() -> None:
    """EDM, table 1: the network's input has variance 1 at every noise level, and an idle network costs a loss of 1."""
    seen = []

    class Idle(torch.nn.Module):
        def forward(self, x: torch.Tensor, c_noise: torch.Tensor, cond: Conditioning) -> torch.Tensor:
            seen.append(x)
            return torch.zeros_like(x)

    denoiser = Preconditioned(Idle(), sigma_data=0.5)
    for sigma in (0.01, 0.5, 20.0):
        clean = 0.5 * torch.randn(64, 3, 16, 16)
        level = torch.full((64,), sigma)
        denoised = denoiser(clean + sigma * torch.randn_like(clean), level, Conditioning())
        assert seen[-1].std().item() == pytest.approx(1, abs=0.02)
        loss = denoiser.loss_weight(level)[0] * (denoised - clean).square().mean()
        assert loss.item() == pytest.approx(1, abs=0.05)


def test_preconditioning_scales_in_float32_at_least() -> None:
    class Idle(torch.nn.Module):
        def forward(self, x: torch.Tensor, c_noise: torch.Tensor, cond: Conditioning) -> torch.Tensor:
            assert c_noise.dtype == torch.float32
            return torch.zeros_like(x)

    x, sigma = torch.full((1, 3, 2, 2), 1.5, dtype=torch.bfloat16), torch.tensor([0.3001], dtype=torch.bfloat16)
    denoised = Preconditioned(Idle())(x, sigma, Conditioning())
    exact = 1.5 * 0.25 / (0.25 + sigma.double().item() ** 2)
    torch.testing.assert_close(denoised, torch.full((1, 3, 2, 2), exact), rtol=1e-6, atol=0)


def test_residual_denoiser_starts_at_the_upsampled_image() -> None:
    denoiser = denoisers.create("efficient_toybox64")
    low_res = torch.rand(1, 3, 16, 16)
    cond = Conditioning().with_low_res(low_res, torch.zeros(1))
    mean = upsample(low_res, (64, 64))
    torch.testing.assert_close(denoiser(mean, torch.ones(1), cond), mean)


@READINGS
@pytest.mark.parametrize("name", BASE + SUPER)
def test_a_batch_equals_its_single_runs(name: str, reading: dict[str, object]) -> None:
    denoiser = tiny(name, **reading)
    size, low = (16, None) if name in BASE else (32, 8)
    cond, x, sigma = double(conditioning(3, low)), torch.randn(3, 3, size, size).double(), torch.tensor([0.1, 1.0, 9.0])
    whole = denoiser(x, sigma.double(), cond)
    for k in range(3):
        alone = denoiser(x[k : k + 1], sigma[k : k + 1].double(), cond[k : k + 1])
        torch.testing.assert_close(alone, whole[k : k + 1], atol=1e-5, rtol=1e-5)


@READINGS
@pytest.mark.parametrize("source", ["t5", "clip_text", "clip_image"])
def test_every_source_reaches_the_image(source: str, reading: dict[str, object]) -> None:
    denoiser, cond = tiny("unet_toybox", **reading), double(conditioning(1))
    x, sigma = torch.randn(1, 3, 16, 16).double(), torch.ones(1).double()
    dropped = cond.drop(source, torch.tensor([True]))
    assert not torch.allclose(denoiser(x, sigma, cond), denoiser(x, sigma, dropped), atol=1e-5)


@READINGS
def test_a_dropped_source_equals_an_absent_one(reading: dict[str, object]) -> None:
    denoiser, cond = tiny("unet_toybox", **reading), double(conditioning(2))
    x, sigma = torch.randn(2, 3, 16, 16).double(), torch.ones(2).double()
    torch.testing.assert_close(
        denoiser(x, sigma, cond.null()), denoiser(x, sigma, Conditioning()), atol=1e-5, rtol=1e-5
    )


@READINGS
def test_padding_is_not_read(reading: dict[str, object]) -> None:
    denoiser, cond = tiny("unet_toybox", **reading), double(conditioning(1))
    t5 = cond.sources["t5"]
    padded = Embedding(torch.cat([t5.tokens, torch.randn(1, 4, 128)], 1), torch.cat([t5.mask, ~t5.mask[:, :4]], 1))
    x, sigma = torch.randn(1, 3, 16, 16).double(), torch.ones(1).double()
    longer = Conditioning({**cond.sources, "t5": padded})
    torch.testing.assert_close(denoiser(x, sigma, longer), denoiser(x, sigma, cond), atol=1e-6, rtol=1e-6)


def test_padding_of_a_weighted_caption_is_not_read() -> None:
    """The weights of a prompt's words are 1 on the padding too."""
    denoiser, cond = tiny("unet_toybox"), double(conditioning(1))
    t5 = cond.sources["t5"]
    weight = torch.tensor([[1.0, 2.0, 0.5, 1.0, 1.0]]).double()
    padding = torch.randn(1, 4, 128).double()
    padded = Embedding(
        torch.cat([t5.tokens, padding], 1),
        torch.cat([t5.mask, ~t5.mask[:, :4]], 1),
        None,
        torch.cat([weight, torch.ones(1, 4).double()], 1),
    )
    x, sigma = torch.randn(1, 3, 16, 16).double(), torch.ones(1).double()
    longer, short = (
        denoiser(x, sigma, Conditioning({**cond.sources, "t5": source}))
        for source in (padded, Embedding(t5.tokens, t5.mask, None, weight))
    )
    torch.testing.assert_close(longer, short, atol=1e-6, rtol=1e-6)
    assert not torch.allclose(short, denoiser(x, sigma, cond), atol=1e-5), "the weights do nothing"


@READINGS
@pytest.mark.parametrize("name", ["unet_toybox", "efficient_toybox64"])
def test_gradient_checkpointing_changes_nothing(name: str, reading: dict[str, object]) -> None:
    low = None if name in BASE else 8
    size = 16 if name in BASE else 32
    cond, x = double(conditioning(1, low)), torch.randn(1, 3, size, size).double()
    gradients = []
    for checkpointing in (False, True):
        denoiser = tiny(name, gradient_checkpointing=checkpointing, **reading)
        denoiser(x, torch.ones(1).double(), cond).square().sum().backward()
        gradients.append([parameter.grad for parameter in denoiser.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_checkpointing_runs_a_block_again_in_the_backward_pass(checkpointing: bool) -> None:
    denoiser, runs = tiny("unet_toybox", gradient_checkpointing=checkpointing), []
    denoiser.network.get_submodule("down.0").register_forward_pre_hook(lambda *_: runs.append(1))
    x, sigma, cond = torch.randn(1, 3, 16, 16).double(), torch.ones(1).double(), double(conditioning(1))
    with torch.no_grad():
        denoiser(x, sigma, cond)
    assert len(runs) == 1
    denoiser(x, sigma, cond).sum().backward()
    assert len(runs) == (3 if checkpointing else 2)


def test_dropout_acts_before_the_second_convolution() -> None:
    """At probability 1 the residual branch is the second convolution's bias."""
    block = ResidualBlock(4, 4, embedding_width=6, dropout=1.0, norm_groups=2).train()
    torch.nn.init.normal_(block.conv2.weight)
    torch.nn.init.constant_(block.conv2.bias, 0.5)  # type: ignore[arg-type]
    x, embedding = torch.randn(2, 4, 8, 8), torch.randn(2, 6)
    torch.testing.assert_close(block(x, embedding), x + 0.5)
    assert (block.eval()(x, embedding) - x).std() > 0.1


def test_the_plain_attention_path_agrees_with_the_fused_one() -> None:
    q, k, v = torch.randn(3, 2, 4, 9, 8).unbind(0)
    bias = torch.zeros(2, 1, 1, 9).masked_fill(torch.rand(2, 1, 1, 9) < 0.3, -torch.inf)
    fused = attend(q, k, v, bias)
    plain = attend(q.bfloat16(), k.bfloat16(), v.bfloat16(), bias).float()
    torch.testing.assert_close(plain, fused, atol=0.05, rtol=0.05)


def test_a_super_resolution_stage_without_its_image_says_so() -> None:
    with pytest.raises(ValueError, match="low_res"):
        denoisers.create("efficient_toybox64")(torch.zeros(1, 3, 64, 64), torch.ones(1), Conditioning())


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="sigma_data must be positive and at most 1e6, got 0"):
        denoisers.create("unet_toybox", sigma_data=0.0)
    with pytest.raises(ValueError, match=r"attention_levels has 7; levels are 0 to 1"):
        denoisers.create("unet_toybox", attention_levels=(7,))
    with pytest.raises(ValueError, match="equally long"):
        denoisers.create("efficient_toybox64", num_res_blocks=(1,))
    with pytest.raises(ValueError, match="feed_forward must be at least 0, got -1"):
        denoisers.create("unet_toybox", feed_forward=-1)
    with pytest.raises(ValueError, match="context_width must be at least 1, or None, got 0"):
        denoisers.create("unet_toybox", context_width=0)


def test_attention_has_whole_heads() -> None:
    with pytest.raises(ValueError, match="144 channels"):
        denoisers.create("efficient_toybox64", channel_mults=(1, 2, 3))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("unet_toybox", {"num_res_blocks": 10**9}),
        ("unet_toybox", {"channels": 10**7}),
        ("unet_toybox", {"channel_mults": (1,) * 1000}),
        ("unet_toybox", {"channels": 0}),
        ("efficient_toybox64", {"num_res_blocks": (1, 2, 10**8)}),
    ],
)
def test_a_network_that_no_machine_holds_is_not_begun(name: str, change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(change))} must"):
        denoisers.create(name, **change)


def test_what_a_network_reads_is_known() -> None:
    network = denoisers.create("unet_toybox", channels=16, head_channels=8, norm_groups=4)
    assert widths(network) == {
        "t5": {"width": 128},
        "clip_text": {"width": 128, "pooled_width": 128},
        "clip_image": {"width": 128, "pooled_width": 128},
    }
