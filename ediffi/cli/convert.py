"""`ediffi convert`: weights as safetensors, without running what a pickle says."""

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
    """Write weights from elsewhere as safetensors; nothing is unpickled but tensors and plain values.

    A training checkpoint of ediffi (last.ckpt) gives the averaged weights of its denoiser, any other file of torch.save
    (.bin, .pt, .pth, .ckpt) its tensors as they are. A file that holds code is refused, and nothing of it is run.

    With --layout adm64, guided-diffusion's ADM-64, published as 64x64_diffusion.pt (openai/guided-diffusion, ImageNet
    64x64), becomes a unet_adm64 whose text says nothing yet: a trunk that a recipe starts from, as is printed.

    Args:
        source: file to read
        output: file to write, which ends in .safetensors and must not exist
        layout: plain keeps names and tensors; adm64 renames those of guided-diffusion's ADM
        arguments: with adm64, arguments of unet_adm64 that are not its defaults, as JSON: '{"context_width": 512}'
        attention: with adm64, how q, k and v lie in its attention; new in 64x64_diffusion.pt, legacy in networks
            trained without use_new_attention_order
        key: entry of the file that holds the weights, where it holds more, as in model_ema

    Raises:
        FileExistsError: the output is there.
        ValueError: the source is broken, holds code, or is no such network.
    """
    if layout != "adm64" and (arguments is not None or attention != "new"):
        raise UsageError("--arguments and --attention go with --layout adm64")
    from ediffi.cli.params import readable
    from ediffi.training import convert as conversion

    if layout == "plain":
        print(f"{output}: {readable(conversion.convert(source, output, key))} parameters")
        return
    number = conversion.convert_adm(source, output, arguments or {}, attention, key)
    print(f"{output}: {readable(number)} parameters of {conversion.ADM}\n\nIn a recipe of ediffi fit:\n")
    print(_recipe(output, conversion.ADM, arguments or {}), end="")


def _recipe(output: Path, name: str, arguments: dict[str, Any]) -> str:
    import yaml

    denoiser = {"class_path": f"ediffi.registry.denoisers.{name}", "init_args": arguments}
    if not arguments:
        denoiser.pop("init_args")
    recipe = {"start": {"weights": str(output)}, "model": {"denoiser": denoiser}}
    return yaml.safe_dump(recipe, sort_keys=False)
