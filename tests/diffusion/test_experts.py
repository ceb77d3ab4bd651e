"""The ensemble: clones equal the trunk bit for bit, one network call per evaluation, streamed equals resident."""

import copy
import os
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from ediffi.diffusion.experts import AutocastDenoiser, Expert, ExpertTree, expert_tree
from ediffi.diffusion.noise import ROOT, Complement, Interval, LogNormal, NoiseInterval
from ediffi.diffusion.streaming import StreamedDenoisers
from ediffi.io.files import CheckedFile, sha256
from ediffi.pipeline.stage import Sampling, Stage
from ediffi.registry import denoisers, samplers
from ediffi.registry.random import Philox
from ediffi.registry.samplers.presets import PRESETS
from ediffi.registry.types import Conditioning, Denoiser, Embedding

NOISE = LogNormal(-1.2, 1.2)
LOW, HIGH = Interval(3, 0), Interval(9, 511)
MIDDLE = Complement((LOW, HIGH))
EIGHT = tuple(Interval(3, index) for index in range(8))


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    tiny = {"channels": 16, "channel_mults": (1, 1), "head_channels": 8, "norm_groups": 4, "context_width": 16}
    denoiser = denoisers.create("unet_toybox", **tiny)
    for parameter in denoiser.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    return denoiser.eval().requires_grad_(False)


def cond(batch: int) -> Conditioning:
    def embedding(tokens: int) -> Embedding:
        generator = torch.Generator().manual_seed(tokens)
        values = torch.randn(1, tokens, 128, generator=generator).expand(batch, -1, -1)
        return Embedding(values, torch.ones(batch, tokens, dtype=torch.bool), values.mean(1))

    t5 = embedding(5)
    return Conditioning({"t5": Embedding(t5.tokens, t5.mask), "clip_text": embedding(4), "clip_image": embedding(1)})


@pytest.fixture(scope="module")
def trunk() -> ExpertTree:
    return ExpertTree(NOISE, [Expert(ROOT)], nn.ModuleList([network()]))


def clones(trunk: ExpertTree, *regions: NoiseInterval) -> ExpertTree:
    """An expert for each region, with the trunk's weights."""
    networks = [copy.deepcopy(trunk.denoisers[0]) for _ in regions]
    return ExpertTree(trunk.noise, [Expert(region, ROOT) for region in regions], nn.ModuleList(networks))


def paint(denoiser: nn.Module, sampling: Sampling) -> Tensor:
    stage = Stage("base", 8, denoiser, sampling)
    return stage(cond(2), Philox(0, range(2)))


class Counting(nn.Module):
    """Counts the samples and the calls of a denoiser, and remembers their noise levels."""

    def __init__(self, denoiser: nn.Module) -> None:
        super().__init__()
        self.denoiser, self.sigmas, self.calls = denoiser, [], 0

    def forward(self, x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
        self.calls += 1
        self.sigmas += sigma.tolist()
        return self.denoiser(x, sigma, cond)


def counted(tree: ExpertTree) -> ExpertTree:
    return ExpertTree(tree.noise, tree.experts, nn.ModuleList([Counting(d) for d in tree.denoisers]))


@pytest.mark.parametrize("sampler", samplers.REGISTRY.names())
def test_clones_equal_the_trunk_with_one_network_call_per_evaluation(trunk: ExpertTree, sampler: str) -> None:
    """Steps that straddle an edge, and steps over a whole expert, are among them."""
    sampling = Sampling(sampler, num_inference_steps=12, guidance_scale=2.0, sigma_min=0.02, sigma_max=20.0)
    eight = counted(clones(trunk, *EIGHT))
    assert torch.equal(paint(eight, sampling), paint(trunk.denoisers[0], sampling))
    assert sum(expert.calls for expert in eight.denoisers) == sampling.nfe
    assert sum(expert.calls > 0 for expert in eight.denoisers) >= 6
    for expert, known in zip(eight.denoisers, eight.experts, strict=True):
        spans = NOISE.bounds(known.interval)
        assert all(any(low <= sigma < high for low, high in spans) for sigma in expert.sigmas)


@pytest.mark.parametrize("preset", PRESETS)
def test_clones_equal_the_trunk_under_the_papers_presets(trunk: ExpertTree, preset: str) -> None:
    sampling = Sampling(guidance_scale=1.0).with_sampler(preset, super_resolution=True)
    assert torch.equal(paint(clones(trunk, LOW, MIDDLE, HIGH), sampling), paint(trunk, sampling))


def test_an_expert_that_differs_is_seen_in_the_picture(trunk: ExpertTree) -> None:
    three = clones(trunk, LOW, MIDDLE, HIGH)
    three.denoisers[2] = network(seed=1)
    sampling = Sampling("euler", num_inference_steps=12)
    assert not torch.equal(paint(three, sampling), paint(trunk, sampling))


def test_a_mixed_batch_reaches_each_owner_once(trunk: ExpertTree) -> None:
    watched = counted(clones(trunk, LOW, MIDDLE, HIGH))
    for index in range(3):
        watched.denoisers[index].denoiser = network(seed=index)
    sigma = torch.tensor([0.01, 20.0, 0.5, 0.02, 3.0, 12.0])
    x = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    scale = torch.arange(1.0, 7.0).view(-1, 1, 1)
    sources = {name: replace(one, tokens=one.tokens * scale) for name, one in cond(6).sources.items()}
    told = Conditioning(sources)
    mixed = watched(x, sigma, told)
    assert [expert.calls for expert in watched.denoisers] == [1, 1, 1]
    assert [expert.sigmas for expert in watched.denoisers] == [
        pytest.approx([0.01, 0.02]),
        pytest.approx([0.5, 3.0]),
        pytest.approx([20.0, 12.0]),
    ]
    for row, owner in enumerate([0, 2, 1, 0, 1, 2]):
        alone = watched.denoisers[owner](x[row : row + 1], sigma[row : row + 1], told[row : row + 1])
        torch.testing.assert_close(mixed[row : row + 1], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("regions", [(LOW, MIDDLE, HIGH), EIGHT, (Interval(2, 1), Complement((Interval(2, 1),)))])
def test_an_edge_belongs_to_the_noisier_side(trunk: ExpertTree, regions: tuple[NoiseInterval, ...]) -> None:
    tree = clones(trunk, *regions)
    for index, region in enumerate(regions):
        for low, high in NOISE.bounds(region):
            inside = torch.tensor([low, min(high, 1e6)], dtype=torch.float64)
            inside[1] = torch.nextafter(inside[1], torch.zeros_like(inside[1]))
            assert tree.route(inside).tolist() == [index, index]
            below = torch.nextafter(inside[:1], torch.zeros(1, dtype=torch.float64))
            assert low == 0 or tree.route(below).tolist() != [index]


def test_a_tree_is_a_denoiser_and_weighs_as_its_experts_do(trunk: ExpertTree) -> None:
    assert isinstance(trunk, Denoiser)
    sigma = torch.tensor([0.1, 2.0])
    assert torch.equal(trunk.loss_weight(sigma), trunk.denoisers[0].loss_weight(sigma))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tree: ExpertTree(NOISE, [Expert(LOW)], tree.denoisers), "no expert owns"),
        (
            lambda tree: ExpertTree(NOISE, clones(tree, *ROOT.children).experts, tree.denoisers),
            "2 experts need as many",
        ),
    ],
)
def test_wrong_trees_are_named(trunk: ExpertTree, change, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        change(trunk)


@pytest.fixture(scope="module")
def three(trunk: ExpertTree) -> ExpertTree:
    tree = clones(trunk, LOW, MIDDLE, HIGH)
    for index in range(3):
        tree.denoisers[index] = network(seed=index)
    return tree


@pytest.fixture
def streamed(three: ExpertTree, tmp_path: Path) -> ExpertTree:
    files = []
    for index, denoiser in enumerate(three.denoisers):
        files.append(tmp_path / f"{index}.safetensors")
        safetensors.torch.save_file({k: v.contiguous() for k, v in denoiser.state_dict().items()}, files[-1])
    checked = [CheckedFile(file, sha256(file), "an expert") for file in files]
    return ExpertTree(three.noise, three.experts, StreamedDenoisers(network(seed=9), checked))


@pytest.mark.parametrize("copies_ahead", [False, True], ids=["reads ahead", "copies ahead"])
@pytest.mark.parametrize("sampler", ["dpmpp_2m", "kutta3"])
def test_streamed_experts_paint_the_same_bits(
    three: ExpertTree, streamed: ExpertTree, sampler: str, copies_ahead: bool
) -> None:
    """Copies ahead as on CUDA, by the same thread, into memory instead of the device's."""
    sampling = Sampling(sampler, num_inference_steps=8, guidance_scale=2.0)
    expected = paint(three, sampling)
    streamed.denoisers._copies_ahead = lambda device: copies_ahead
    for _ in range(2):
        assert torch.equal(paint(streamed, sampling), expected)


def test_streamed_experts_hold_one_network_and_switch_only_at_edges(
    three: ExpertTree, streamed: ExpertTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ediffi.diffusion import streaming

    loaded = []
    load = streaming.load_checked
    monkeypatch.setattr(streaming, "load_checked", lambda net, file: (loaded.append(file.path.stem), load(net, file)))
    for _ in range(2):
        paint(streamed, Sampling("kutta3", num_inference_steps=8))
    assert loaded == ["1", "0", "2", "1", "0"], "it begins with the noisiest"
    assert sum(p.numel() for p in streamed.parameters()) * 3 == sum(p.numel() for p in three.parameters())


def test_a_switch_keeps_the_addresses_that_a_captured_graph_reads(streamed: ExpertTree) -> None:
    denoisers_ = streamed.denoisers
    before = [parameter.data_ptr() for parameter in denoisers_.network.parameters()]
    for ahead in (False, True, True):
        denoisers_._copies_ahead = lambda device, ahead=ahead: ahead
        for index in (2, 1, 0):
            denoisers_[index]
    assert [parameter.data_ptr() for parameter in denoisers_.network.parameters()] == before


@pytest.mark.parametrize("copies_ahead", [False, True], ids=["reads ahead", "copies ahead"])
def test_a_file_that_was_overwritten_after_loading_is_refused(streamed: ExpertTree, copies_ahead: bool) -> None:
    """Also by other weights of the same size, at the same time of writing."""
    denoisers_ = streamed.denoisers
    denoisers_._copies_ahead = lambda device: copies_ahead
    denoisers_[0]
    denoisers_._prepared.result()
    path = denoisers_.files[1].path
    status, content = path.stat(), bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    denoisers_[2]  # whose thread meets the changed file first
    for _ in range(2):
        with pytest.raises(ValueError, match=r"1\.safetensors has sha256 .* is listed: (truncated or )?changed"):
            denoisers_[1]
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    denoisers_[1]


# Half precision


def test_autocast_computes_what_torch_s_own_context_does(three: ExpertTree) -> None:
    sigma, x = torch.tensor([0.01, 20.0]), torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        expected = three(x, sigma, cond(2))
    half = AutocastDenoiser(three, torch.bfloat16)
    assert torch.equal(half(x, sigma, cond(2)), expected)
    assert not torch.equal(three(x, sigma, cond(2)), expected)


def test_a_copy_of_an_autocast_denoiser_has_weights_of_its_own(three: ExpertTree) -> None:
    half = AutocastDenoiser(three, torch.bfloat16)
    sigma, x = torch.tensor([0.01, 20.0]), torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    before = half(x, sigma, cond(2))
    changed = copy.deepcopy(half)
    for parameter in changed.parameters():
        parameter.mul_(0.5)
    assert torch.equal(half(x, sigma, cond(2)), before)
    assert not torch.equal(changed(x, sigma, cond(2)), before)
    again = pickle.loads(pickle.dumps(half))
    assert torch.equal(again(x, sigma, cond(2)), before)


def test_the_tree_is_found_in_its_wrapper(three: ExpertTree) -> None:
    assert expert_tree(three) is three
    assert expert_tree(AutocastDenoiser(three, torch.float16)) is three
    assert expert_tree(network()) is None
