"""All families. A room whose code this version lacks has none, so that older versions can be measured, too."""

import importlib
from contextlib import suppress

from tests.faults.harness import FAMILIES as FAMILIES

for _room in ("models", "recipes", "servers", "runs", "shards", "evaluations", "inputs", "operations"):
    with suppress(ImportError):
        importlib.import_module(f"tests.faults.{_room}")
