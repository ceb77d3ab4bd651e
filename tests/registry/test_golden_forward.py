"""Forwards of the networks at tiny size against stored numbers, so that no term of them is lost unnoticed.

`forward(name)` made the numbers: `print({name: forward(name) for name in GOLDEN})` after a change that is meant. They
were made in float64 on a CPU.
"""

from typing import Any

import pytest
import torch

from ediffi.registry import denoisers
from ediffi.registry.types import Conditioning, Embedding

TINY: dict[str, Any] = {
    "channels": 8,
    "head_channels": 4,
    "norm_groups": 2,
    "context_width": 12,
    "tokens": {"t5": 6, "clip_text": 5, "clip_image": 5},
    "pooled": {"clip_text": 5, "clip_image": 5},
}
UNET = TINY | {"channel_mults": (1, 2), "attention_levels": (1,), "num_res_blocks": 1}
EFFICIENT = TINY | {"channel_mults": (1, 2), "num_res_blocks": (1, 2), "cross_attention_levels": (1,)}
NETWORKS: dict[str, dict[str, Any]] = {
    "unet_base64": UNET,
    "unet_adm64": UNET,
    "unet_toybox": UNET | {"patch_size": 2},
    "efficient_sr256": EFFICIENT | {"self_attention_levels": (1,)},
    "efficient_sr1024": EFFICIENT | {"patch_size": 2},
    "efficient_toybox64": EFFICIENT | {"patch_size": 2},
}


def forward(name: str) -> list[float]:
    """Eight values of what the network denoises, and their standard deviation; weights and inputs from one seed."""
    generator = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    denoiser = denoisers.create(name, **NETWORKS[name]).double().eval()
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.copy_(0.3 * normal(*parameter.shape))
    padded = torch.tensor([[True] * 4, [True, True, False, False]])
    weight = torch.tensor([[1.0, 2.0, 1.0, 1.0], [1.0, 0.5, 3.0, 1.0]], dtype=torch.float64)
    cond = Conditioning(
        {
            "t5": Embedding(normal(2, 4, 6), padded, None, weight),
            "clip_text": Embedding(normal(2, 3, 5), torch.ones(2, 3, dtype=torch.bool), normal(2, 5)),
            "clip_image": Embedding(normal(2, 1, 5), torch.ones(2, 1, dtype=torch.bool), normal(2, 5)),
        }
    )
    if name.startswith("efficient"):
        cond = cond.with_low_res(normal(2, 3, 4, 4), torch.tensor([0.05, 0.3], dtype=torch.float64))
    with torch.no_grad():
        out = denoiser(2 * normal(2, 3, 8, 8), torch.tensor([0.3, 4.0], dtype=torch.float64), cond)
    return [round(value, 8) for value in [*out.flatten()[::48].tolist(), out.std().item()]]


GOLDEN = {
    "unet_base64": [
        -0.64970045, 0.43850803, -1.66590217, -1.61556941, 0.73427845,
        0.41066048, -0.04323678, -0.08384082, 1.08820409,
    ],
    "unet_adm64": [
        -1.45709569, 0.32698694, -2.14661231, -2.2826637, -2.11837284,
        -3.86829492, 0.73069945, 0.5672751, 2.72512754,
    ],
    "unet_toybox": [
        0.82786171, -0.95046749, -0.97403456, -0.61983287, -0.3497103,
        0.18927268, -0.11373558, -0.31931239, 1.03121508,
    ],
    "efficient_sr256": [
        -1.22642883, 3.78372382, -2.53081904, -0.64124416, 0.15398119,
        0.07173624, -0.22428968, 0.02673881, 1.06509771,
    ],
    "efficient_sr1024": [
        -0.4168334, -0.95957188, 0.15519684, 0.53041099, 0.06552061,
        -0.69328802, -0.40032201, 0.09616529, 1.05801694,
    ],
    "efficient_toybox64": [
        0.8006248, -0.22426623, 0.17794722, 0.3241103, -0.47088904,
        -0.51025379, 0.43373388, 1.09718796, 0.87711215,
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_a_forward_is_what_it_was(name: str) -> None:
    assert forward(name) == pytest.approx(GOLDEN[name], rel=1e-6, abs=1e-7)
