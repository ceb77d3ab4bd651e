"""Files of `torch.save`, read without running code: tensors and plain values, or an error in one sentence.

A pickle is a program. `torch.load(weights_only=True)` runs only the few calls that make tensors and plain values. Its
own error message explains how to run the rest anyway, which is no advice for a file from an unknown source.

Its archive has a CRC-32 of every tensor, which torch does not compare: a flipped bit would be another weight.
"""

import mmap
import os
import re
import struct
import warnings
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

ZIP = b"PK\x03\x04"
ONLY = "only tensors and plain values are read; no code was run"
CODE = re.compile(r"GLOBAL (\S+)|(?:function|class) (\S+)")


def read(path: Path, check: bool = True) -> Any:
    """The content of a file of `torch.save`, on the CPU, its tensors memory-mapped where the format allows. ValueError:
    it is broken, or holds code; the message names the file and the code. Without `check`, damaged bytes of tensors pass
    unnoticed."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file")
    with path.open("rb") as file:
        mapped = file.read(len(ZIP)) == ZIP  # torch's older format cannot be mapped
    if mapped and check and (damaged := _damaged(path)):
        raise ValueError(f"{path} is damaged: {damaged} has other bytes than were written; use an older one, or a copy")
    try:
        with warnings.catch_warnings(action="ignore"):  # about pickles that torch did not write
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except OSError:
        raise
    except Exception as error:  # the unpickler and the archive reader raise errors of many types
        raise ValueError(refusal(path, error)) from None


def _damaged(path: Path) -> str:
    """The first record of an archive whose bytes have another CRC-32 than was written; "" if there is none. ValueError:
    it is no archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            view = memoryview(content)

            def sound(record: zipfile.ZipInfo) -> bool:
                name, extra = struct.unpack_from("<HH", content, record.header_offset + 26)  # lengths, then both
                start = record.header_offset + 30 + name + extra
                part = view[start : start + record.file_size]
                return record.compress_type == zipfile.ZIP_STORED and zlib.crc32(part) == record.CRC

            with view, ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="crc32") as pool:
                checked = zip(records, pool.map(sound, records), strict=True)
                return next((record.filename for record, same in checked if not same), "")
    except OSError:
        raise
    except Exception as error:  # zipfile raises errors of many types
        reason = str(error).partition("\n")[0][:80]
        raise ValueError(f"{path} is broken, or not a file of torch.save ({reason})") from None


def refusal(path: Path | str, error: Exception) -> str:
    """Why `torch.load(weights_only=True)` refused a file, in one sentence."""
    text = str(error)
    if "TorchScript" in text:
        return f"{path} is a TorchScript archive, which is a program: {ONLY}"
    if found := CODE.search(text):
        return f"{path} holds code ({(found[1] or found[2])[:80]!r}): {ONLY}"
    reason = f" ({text.partition('. ')[0].splitlines()[0]})" if text and type(error) is RuntimeError else ""
    return f"{path} is broken, or not a file of torch.save{reason}"
