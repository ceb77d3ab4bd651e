"""What a step costs on CUDA, as `benchmarks/step_cost.py` counts it on fake tensors: the paper's blocks, small."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from ediffi.registry import denoisers

pytest.importorskip("triton")  # without it, CUDA takes the formula of the norm, which launches more

PATH = Path(__file__).parents[2] / "benchmarks" / "step_cost.py"
spec = importlib.util.spec_from_file_location("step_cost", PATH)
assert spec is not None
assert spec.loader is not None
step_cost: Any = importlib.util.module_from_spec(spec)
spec.loader.exec_module(step_cost)

TINY = {"channels": 64, "context_width": 64, "head_channels": 32}
NETWORKS: dict[str, dict[str, Any]] = {
    "unet_base64": TINY | {"channel_mults": (1, 2), "num_res_blocks": 1, "attention_levels": (1,)},
    "efficient_sr256": TINY
    | {
        "channel_mults": (1, 2),
        "num_res_blocks": (1, 2),
        "self_attention_levels": (1,),
        "cross_attention_levels": (1,),
    },
}


BEFORE = {"training": 1403, "sampling": 455}
"""Launches of this base network at commit 925d412."""


@pytest.mark.parametrize("step", ["training", "sampling"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_keeps_dtype_and_layout_and_never_waits_for_the_gpu(name: str, step: str) -> None:
    cost = getattr(step_cost, step)(name, **NETWORKS[name])
    assert not cost.reads, "the host reads a value"
    assert not cost.wide, "an activation is float32"
    assert not cost.layouts, "the memory layout changes inside the network"
    assert not any("softmax" in operator for operator in cost.operators), "no fused kernel takes this attention"
    assert cost.bytes["copy, cast, layout"] < 0.05 * cost.bytes.total()
    if name == "unet_base64":
        assert cost.launches.total() <= {"training": 0.42, "sampling": 0.5}[step] * BEFORE[step]


def test_contiguous_weights_keep_fused_attention_and_channels_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under fsdp weights are contiguous; activations stay channels-last, and q, k, v have a last stride of 1."""
    monkeypatch.setattr(step_cost, "build", denoisers.create)
    cost = step_cost.sampling("unet_base64", **NETWORKS["unet_base64"])
    assert not any("softmax" in operator for operator in cost.operators)
    assert not cost.layouts


def test_a_prompt_without_padding_needs_no_bias() -> None:
    tiny = NETWORKS["unet_base64"]
    with_bias, without = (step_cost.sampling("unet_base64", all_tokens=known, **tiny) for known in (False, True))
    assert without.launches.total() < with_bias.launches.total()
    assert with_bias.operators["log"] - without.operators["log"] == len(step_cost.TOKENS)  # of the weights


def test_the_count_of_a_known_step() -> None:
    """A convolution with bias is two kernels forwards and three backwards; the sum starts from a gradient of ones."""
    with step_cost.as_on_cuda():
        convolution = torch.nn.Conv2d(4, 4, 1, dtype=torch.bfloat16)
        x = torch.zeros(2, 4, 8, 8, dtype=torch.bfloat16, requires_grad=True)
        with (cost := step_cost.Cost(batch=2, image_numel=1)):
            step_cost.backward(convolution(x).sum())
    assert cost.launches == {"convolution, matmul": 2 + 3, "elementwise": 1, "copy, cast, layout": 1}
