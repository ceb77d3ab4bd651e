"""YAML as plain values, of bounded size; a duplicate key is an error, where PyYAML silently takes the last."""

from typing import Any

import yaml

MERGE = "tag:yaml.org,2002:merge"
CHARACTERS, VALUES, DEPTH = 1 << 20, 100_000, 50
"""At most so many characters, values with all aliases written out, and levels. Our recipes have 4,000, 100 and 6."""


def load(text: str) -> Any:
    """The content of a YAML text; ValueError names the line if it is not YAML, has a duplicate key, or is too large."""
    try:
        check(text)
        return yaml.load(text, _Once)
    except yaml.YAMLError as error:
        raise ValueError(_sentence(error)) from None


def check(text: str) -> None:
    """YAMLError for a text that is not YAML, refers to itself, or grows beyond the limits; nothing is built of it."""
    if len(text) > CHARACTERS:
        raise yaml.YAMLError(f"it has {len(text)} characters, and at most {CHARACTERS} are read")
    sizes: dict[str, int] = {}  # of what has a name, all aliases in it written out
    opened: list[tuple[str | None, int]] = []
    total = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        line = event.start_mark.line + 1 if event.start_mark else 0
        if isinstance(event, yaml.AliasEvent):
            if any(event.anchor == name for name, _ in opened):
                raise yaml.YAMLError(f"*{event.anchor} in line {line} contains itself")
            total += sizes.get(str(event.anchor), 1)
        elif isinstance(event, yaml.CollectionStartEvent):
            opened.append((event.anchor, total))
            total += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            name, before = opened.pop()
            if name is not None:
                sizes[name] = total - before
        elif isinstance(event, yaml.ScalarEvent):
            total += 1
        if total > VALUES or len(opened) > DEPTH:
            limit = f"more than {VALUES} values" if total > VALUES else f"more than {DEPTH} levels"
            raise yaml.YAMLError(f"it has {limit}, up to line {line}")


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
