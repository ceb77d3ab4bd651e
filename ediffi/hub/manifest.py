"""The schema of `config.json`: every value has a type, a range and a length, and nothing else is in it.

A config comes from anyone, so it is bounded before anything is built of it: no network of 10^9 layers, no NaN, no
text of megabytes. Values are taken as they are: True is no number, and "64" neither.
"""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.errors import PydanticSchemaGenerationError

FORMAT = "ediffi-cascade-2"
WEIGHTS = r"[A-Za-z0-9][A-Za-z0-9_.-]*\.safetensors"
SIZE, DEPTH = 10 << 20, 6
"""At most so many bytes of a config, and levels of the arguments of a part."""
LARGEST, LONGEST = 1 << 16, 4096
"""The largest whole number in the arguments of a part, and the longest text or list."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Finite = Annotated[float, Field(allow_inf_nan=False, ge=-1e6, le=1e6)]
Sigma = Annotated[float, Field(allow_inf_nan=False, gt=0, le=1e6)]


def _bounded(value: Any, depth: int = 0) -> Any:
    """A JSON value as the argument of a part; ValueError if it is too deep, too long, or too large."""
    if depth > DEPTH:
        raise ValueError(f"is nested deeper than {DEPTH} levels")
    if isinstance(value, float) and not abs(value) <= 1e6:
        raise ValueError(f"must be finite and at most 1e6, got {value}")
    if isinstance(value, int) and abs(value) > LARGEST:
        raise ValueError(f"must be at most {LARGEST}, got a number of {len(hex(value)) - 2} hexadecimal digits")
    if isinstance(value, str | list | dict) and len(value) > LONGEST:
        raise ValueError(f"must be at most {LONGEST} long, got {len(value)}")
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for one in inside:
        _bounded(one, depth + 1)
    return value


Arguments = Annotated[dict[str, Any], AfterValidator(_bounded)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Node(_Strict):
    """A node of the tree of noise intervals."""

    level: int = Field(ge=0, le=30)
    index: int = Field(ge=0, lt=1 << 30)


class Rest(_Strict):
    """All noise without some nodes."""

    without: list[Node] = Field(min_length=1, max_length=LONGEST)


class ExpertEntry(_Strict):
    """An expert: what it owns, what it was trained from, and its file."""

    interval: Node | Rest
    parent: Node | Rest | None
    steps: int = Field(ge=0, le=10**9)
    file: str = Field(max_length=200)
    sha256: Digest


class PartEntry(_Strict):
    """A registered part by name, with its arguments."""

    name: Name
    arguments: Arguments


class NoiseEntry(_Strict):
    """The training noise."""

    mean: Finite = Field(ge=-20, le=20)
    std: Finite = Field(gt=0, le=20)


class SamplingEntry(_Strict):
    """The sampling settings; those after `rho` came later than the format, and a config may lack them."""

    sampler: Name
    num_inference_steps: int = Field(ge=1, le=10_000)
    guidance_scale: Finite = Field(ge=0)
    sigma_min: Sigma
    sigma_max: Sigma
    rho: Finite = Field(gt=0, le=1000)
    arguments: Arguments = {}
    guidance_interval: list[Finite] | None = Field(default=None, min_length=2, max_length=2)
    dynamic_threshold: Finite | None = None
    paint_weight: Finite = 0.0
    grid: Name = "karras"

    @model_validator(mode="after")
    def _rising(self) -> "SamplingEntry":
        if not self.sigma_min < self.sigma_max:
            raise ValueError(f"sigma_min must be below sigma_max, got {self.sigma_min} and {self.sigma_max}")
        return self


class StageEntry(_Strict):
    """A stage."""

    name: Name
    resolution: int = Field(ge=1, le=16384)
    denoiser: PartEntry
    noise: NoiseEntry
    experts: list[ExpertEntry] = Field(min_length=1, max_length=LONGEST)
    sampling: SamplingEntry
    aug_level: Finite | None = Field(ge=0, le=100)


class Manifest(_Strict):
    """The whole config."""

    format: Literal["ediffi-cascade-2"]
    name: str = Field(min_length=1, max_length=200)
    encoders: dict[Name, PartEntry] = Field(max_length=100)
    stages: list[StageEntry] = Field(min_length=1, max_length=100)
    files: dict[str, Digest] = Field(default={}, max_length=10_000)
    packages: dict[str, str] = Field(default={}, max_length=1000)

    @model_validator(mode="after")
    def _names_are_different(self) -> "Manifest":
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError(f"the stages {', '.join(names)} must have different names")
        return self


def is_a(value: Any, hint: Any) -> bool:
    """Whether a JSON value is of a type; True for a type that JSON has not, as plug-ins may declare."""
    try:
        TypeAdapter(hint).validate_json(json.dumps(value), strict=True)
    except ValidationError:
        return False
    except PydanticSchemaGenerationError:
        return True
    return True


def read_json(path: Path) -> Any:
    """The content of a config; ValueError if it is too large, no JSON, nested too deeply, or has a key twice."""
    if not path.is_file():
        raise ValueError(f"{path} is no file")
    if (size := path.stat().st_size) > SIZE:
        raise ValueError(f"{path} has {size} bytes; a config has at most {SIZE}")
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise ValueError(f"{path} is not JSON: {reason}") from None


def check(content: dict[str, Any], where: str) -> None:
    """ValueError unless a config is complete and typed; it names the first value that is not."""
    _check(Manifest, content, f"{where} is not a complete {FORMAT}")


def check_sampling(content: dict[str, Any], where: str) -> None:
    """As `check`, of the sampling settings of a stage."""
    _check(SamplingEntry, content, f"{where} are broken")


def _check(schema: type[BaseModel], content: dict[str, Any], said: str) -> None:
    try:
        schema.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(one) for one in first["loc"] if one not in ("Node", "Rest"))
        shown = "" if first["type"] in ("missing", "value_error") else f", got {str(first.get('input'))[:60]!r}"
        message = first["msg"].removeprefix("Value error, ")
        raise ValueError(f"{said}: {place or 'it'}: {message}{shown}") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)[:60]!r} is there twice")
    return found
