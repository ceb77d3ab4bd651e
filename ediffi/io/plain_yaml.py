"""YAML as plain values; a duplicate key is an error, where PyYAML silently takes the last."""

from typing import Any

import yaml

MERGE = "tag:yaml.org,2002:merge"


def load(text: str) -> Any:
    """The content of a YAML text; ValueError names the line if it is not YAML or has a duplicate key."""
    try:
        return yaml.load(text, _Once)
    except yaml.YAMLError as error:
        raise ValueError(_sentence(error)) from None


class _Once(yaml.SafeLoader):
    """PyYAML's loader of plain values."""


def _mapping(loader: _Once, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[tuple[str, str]] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag == MERGE:
            continue
        if (key.tag, key.value) in seen:
            raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is there twice", key.start_mark)
        seen.add((key.tag, key.value))
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


_Once.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def _sentence(error: yaml.YAMLError) -> str:
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return " ".join(str(error).split())
    return f"{error.problem} in line {error.problem_mark.line + 1}"
