"""What the training of an encoder leaves in its run directory: the tokenizer, first, and the encoder, at the end."""

import json
import logging
from pathlib import Path
from typing import Any, Protocol

import lightning as L
import torch

from ediffi.data.module import ShardData
from ediffi.io.files import replacing_folder, sha256

TOKENIZER, ENCODER = "tokenizer", "encoder"
RECORD = "training.json"

logger = logging.getLogger(__name__)


class TrainedEncoder(Protocol):
    """What `EncoderFolder` needs of the module that it serves."""

    tokenizer: Any

    def learn_tokenizer(self, captions: Any) -> Any:
        """A tokenizer of transformers, with a vocabulary of these captions."""

    def write(self, folder: Path) -> None:
        """Write config, weights and tokenizer, as the registered encoders load them."""


class EncoderFolder(L.Callback):
    """Learns the tokenizer before the first step, and writes the encoder after the last.

    `tokenizer/` of the run directory is learned once, from all captions of the training shards, and read by every
    process and every resumed run. `encoder/` is the folder that `path` of `clip_text`, `clip_image` or `t5` names.
    """

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Give the module its tokenizer. ValueError: the data is not `ShardData`, or has no captions."""
        from transformers import AutoTokenizer

        module: Any = pl_module
        place = Path(trainer.default_root_dir) / TOKENIZER
        if trainer.is_global_zero and not place.is_dir():
            data = getattr(trainer, "datamodule", None)
            if not isinstance(data, ShardData):
                raise ValueError(f"an encoder is trained on ShardData, not on {type(data).__name__}")
            with replacing_folder(place) as folder:
                module.learn_tokenizer(data.captions()).save_pretrained(folder)
        trainer.strategy.barrier(TOKENIZER)
        module.tokenizer = AutoTokenizer.from_pretrained(place, local_files_only=True, trust_remote_code=False)
        self._sha256 = sha256(place / "tokenizer.json")

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint records: which tokenizer its weights belong to."""
        return {TOKENIZER: self._sha256}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """ValueError if the checkpoint is of another tokenizer."""
        if state_dict[TOKENIZER] != self._sha256:
            raise ValueError(
                f"the checkpoint was trained with another tokenizer than {TOKENIZER}/ of its run directory"
            )

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the encoder, and how it was trained, once the run is at its last step."""
        if not trainer.is_global_zero or trainer.global_step < trainer.max_steps:
            return
        module: Any = pl_module
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        logged = trainer.callback_metrics.items()
        measured = {
            name: round(float(value), 4) for name, value in logged if name == "train/loss" or name[:4] == "val/"
        }
        steps = trainer.global_step
        record = {"steps": steps, "samples": steps * data.samples_per_step, "torch": torch.__version__, **measured}
        place = Path(trainer.default_root_dir) / ENCODER
        with replacing_folder(place) as folder:
            module.write(folder)
            (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
            for path in folder.iterdir():
                path.chmod(0o644)  # safetensors writes files that only their owner may read
        logger.info("%s", place)
