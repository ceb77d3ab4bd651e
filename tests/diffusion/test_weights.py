"""Weights: none while a network is built, then those of a file, in the dtype, layout and place that are asked for."""

import threading
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from ediffi.diffusion.weights import load_weights, without_weights
from ediffi.registry import denoisers
from ediffi.registry.types import Conditioning, Embedding

TINY = {"channels": 16, "head_channels": 8, "norm_groups": 4, "context_width": 16}
TINY |= {"tokens": {"t5": 8}, "pooled": {}}
LEVELS = {"channel_mults": (1, 2), "num_res_blocks": 1, "attention_levels": (1,)}
SR = {"channel_mults": (1, 2), "num_res_blocks": (1, 1), "cross_attention_levels": (1,)}


class Plugin(nn.Module):
    """What constructors of others do: buffers that files have and have not, and constants that are no buffers."""

    kept: Tensor
    computed: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.register_buffer("kept", torch.arange(3.0))
        self.register_buffer("computed", torch.linspace(0, 1, 3), persistent=False)
        self.constant = torch.tensor([1.0, 2.0, 3.0])

    def forward(self, x: Tensor, *_: object) -> Tensor:
        return self.linear(x) * self.kept + self.computed * self.constant


def nets() -> dict[str, nn.Module]:
    """Small networks of each kind."""
    return {
        "unet_base64": denoisers.create("unet_base64", **TINY, **LEVELS),
        "unet_adm64": denoisers.create("unet_adm64", **TINY, **LEVELS),
        "efficient_sr256": denoisers.create("efficient_sr256", **TINY, **SR, self_attention_levels=(1,)),
        "efficient_sr1024": denoisers.create("efficient_sr1024", **TINY, **SR),
        "plug-in": Plugin(),
    }


def cond() -> Conditioning:
    torch.manual_seed(1)
    embedding = Embedding(torch.randn(1, 3, 8), torch.ones(1, 3, dtype=torch.bool))
    return Conditioning({"t5": embedding}).with_low_res(torch.randn(1, 3, 4, 4), torch.full((1,), 0.1))


@pytest.fixture(scope="module")
def trained() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    made = nets()
    for network in made.values():
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.1)
        if isinstance(network, Plugin):
            network.kept += 1
    return made


def written(network: nn.Module, path: Path, dtype: torch.dtype = torch.float32) -> Path:
    safetensors.torch.save_file({k: v.to(dtype).contiguous() for k, v in network.state_dict().items()}, path)
    return path


@pytest.mark.parametrize("name", list(nets()))
def test_built_without_weights_and_loaded_it_is_the_same_network(
    name: str, trained: dict[str, nn.Module], tmp_path: Path
) -> None:
    wanted = trained[name]
    with without_weights():
        network = nets()[name]
    assert all(parameter.is_meta for parameter in network.parameters())
    assert not any(buffer.is_meta for buffer in network.buffers())
    network.requires_grad_(False)
    load_weights(network, written(wanted, tmp_path / "w.safetensors"))
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert all(type(parameter) is nn.Parameter for parameter in network.parameters()), "it can be trained as any other"
    x = torch.randn(3, generator=torch.Generator().manual_seed(0)) if name == "plug-in" else torch.ones(1, 3, 8, 8)
    with torch.no_grad():
        made, expected = (one(x, torch.tensor([2.0]), cond()) for one in (network, wanted))
    assert torch.equal(made, expected)
    assert made.abs().sum() > 0


def test_the_parameter_s_dtype_and_layout_stay_whatever_the_file_s(
    trained: dict[str, nn.Module], tmp_path: Path
) -> None:
    path = written(trained["unet_base64"], tmp_path / "w.safetensors", torch.bfloat16)
    with without_weights():
        network = nets()["unet_base64"].to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.half()
    load_weights(network, path)
    layers = dict(network.named_modules())
    for key, value in trained["unet_base64"].state_dict().items():
        layer, made = layers[key.rpartition(".")[0]], network.state_dict()[key]
        assert made.dtype == (torch.float16 if isinstance(layer, nn.Conv2d) else torch.float32), key
        assert torch.equal(made, value.bfloat16().to(made.dtype)), key
        assert made.ndim != 4 or made.is_contiguous(memory_format=torch.channels_last), key


def test_initialising_a_parameter_that_is_not_there_costs_no_random_numbers() -> None:
    state = torch.get_rng_state()
    with without_weights():
        layer = nn.Conv2d(3, 3, 3)
        for fill in (nn.init.uniform_, nn.init.normal_, nn.init.zeros_, nn.init.trunc_normal_, nn.init.xavier_normal_):
            fill(layer.weight)
    assert layer.weight.is_meta
    assert torch.equal(torch.get_rng_state(), state)


def test_other_threads_build_with_weights() -> None:
    built: list[nn.Linear] = []
    with without_weights():
        other = threading.Thread(target=lambda: built.append(nn.Linear(2, 2)))
        other.start()
        other.join()
    assert not built[0].weight.is_meta
    assert not nn.Linear(2, 2).weight.is_meta


@pytest.mark.parametrize("meta", [False, True])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("linear.bias"), r"shape of 'linear.bias' is none in the file, \[3\] in the network"),
        (lambda w: w.update(more=torch.ones(1)), r"shape of 'more' is \[1\] in the file, none in the network"),
        (lambda w: w.update(kept=torch.ones(4)), r"shape of 'kept' is \[4\] in the file, \[3\] in the network"),
    ],
)
def test_a_file_of_another_network_is_refused_before_anything_is_copied(
    change, message: str, meta: bool, tmp_path: Path
) -> None:
    weights = dict(Plugin().state_dict())
    change(weights)
    safetensors.torch.save_file(weights, tmp_path / "w.safetensors")
    if meta:
        with without_weights():
            network = Plugin()
    else:
        network = Plugin()
    before = [parameter.clone() for parameter in network.parameters()]
    with pytest.raises(ValueError, match=rf"w\.safetensors has the weights of another network: the {message}"):
        load_weights(network, tmp_path / "w.safetensors")
    assert all(one.is_meta or torch.equal(one, other) for one, other in zip(network.parameters(), before, strict=True))


def test_what_is_loaded_does_not_change_with_the_file(trained: dict[str, nn.Module], tmp_path: Path) -> None:
    """Memory-mapped weights would; a shorter file would even end the process."""
    path = written(trained["plug-in"], tmp_path / "w.safetensors")
    network = Plugin()
    load_weights(network, path)
    path.write_bytes(b"")
    assert torch.equal(network.linear.weight, trained["plug-in"].linear.weight)  # type: ignore[union-attr, arg-type]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_weights_that_would_paint_noise_are_refused(tmp_path: Path, value: float, device: str) -> None:
    network = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    state = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    state["1.weight"][2, 3] = value
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"'1\.weight' has values up to"):
        load_weights(network.to(device), tmp_path / "w.safetensors")


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.bool, torch.int64, torch.float8_e4m3fn])
def test_weights_are_floats(tmp_path: Path, dtype: torch.dtype) -> None:
    network = torch.nn.Linear(4, 4)
    state = {key: torch.ones_like(tensor).to(dtype) for key, tensor in network.state_dict().items()}
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="weights are F32, BF16, F16, F64"):
        load_weights(network, tmp_path / "w.safetensors")
