"""`ediffi convert`: weights as safetensors, without running the code in a pickle."""

from pathlib import Path
from typing import Any, Literal

from ediffi.cli.parser import UsageError


def convert(
    source: Path,
    output: Path,
    *,
    layout: Literal["plain", "adm64"] = "plain",
    arguments: dict[str, Any] | None = None,
    attention: Literal["new", "legacy"] = "new",
    key: str | None = None,
) -> None:
    """Convert weights of other code to safetensors; of a pickle, only tensors and plain values are read.

    Of a training checkpoint of ediffi (last.ckpt), the averaged weights of the denoiser are written; of any other file
    of torch.save (.bin, .pt, .pth, .ckpt), its tensors. A file that contains code is refused, and none of it is run.

    With --layout adm64, guided-diffusion's ADM-64, published as 64x64_diffusion.pt (openai/guided-diffusion, ImageNet
    64x64), becomes a unet_adm64 whose cross-attention has no effect yet. A recipe that starts from it is printed.

    Args:
        source: file to read
        output: file to write; ends in .safetensors, must not exist
        layout: plain keeps names and tensors; adm64 renames those of guided-diffusion's ADM
        arguments: with adm64, arguments of unet_adm64 other than its defaults, as JSON: '{"context_width": 512}'
        attention: with adm64, the order of q, k and v in its attention; new in 64x64_diffusion.pt, legacy in networks
            trained without use_new_attention_order
        key: entry of the file that has the weights, such as model_ema
    """
    if layout != "adm64" and (arguments is not None or attention != "new"):
        raise UsageError("--arguments and --attention go with --layout adm64")
    import yaml

    from ediffi.cli.plan import readable
    from ediffi.training import convert as conversion

    if layout == "plain":
        print(f"{output}: {readable(conversion.convert(source, output, key))} parameters")
        return
    number = conversion.convert_adm(source, output, arguments or {}, attention, key)
    print(f"{output}: {readable(number)} parameters of {conversion.ADM}\n\nIn a recipe of ediffi fit:\n")
    denoiser: dict[str, Any] = {"class_path": f"ediffi.registry.denoisers.{conversion.ADM}"}
    denoiser |= {"init_args": arguments} if arguments else {}
    recipe = {"start": {"weights": str(output)}, "model": {"denoiser": denoiser}}
    print(yaml.safe_dump(recipe, sort_keys=False), end="")
