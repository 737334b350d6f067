"""YAML that remembers its line numbers, so that a mistake is reported where it stands."""

from typing import Any

import yaml

Problem = tuple[int, str]
"""Line (from 1; 0 when there is none) and what is wrong, in words."""


class Mapping(dict[str, Any]):
    """A YAML mapping that knows the line of each of its keys; keys written twice are in ``repeated``."""

    def __init__(self) -> None:
        super().__init__()
        self.line = 0
        self.lines: dict[str, int] = {}
        self.repeated: list[str] = []


class _Loader(yaml.SafeLoader):
    pass


def _mapping(loader: _Loader, node: yaml.MappingNode) -> Any:
    found = Mapping()
    found.line = node.start_mark.line + 1
    yield found
    loader.flatten_mapping(node)
    for key_node, value_node in node.value:
        key = str(loader.construct_object(key_node, deep=True))
        if key in found:
            found.repeated.append(key)
        found[key] = loader.construct_object(value_node, deep=True)
        found.lines[key] = key_node.start_mark.line + 1


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read(text: str) -> tuple[Any, list[Problem]]:
    """The document in ``text``, mappings as ``Mapping``; a syntax error comes as the one problem and no document."""
    try:
        return yaml.load(text, _Loader), []
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = " ".join(part for part in (error.context, error.problem) if part)
        return None, [(mark.line + 1 if mark else 0, f"not YAML: {said}")]
    except yaml.YAMLError as error:
        return None, [(0, f"not YAML: {' '.join(str(error).split())}")]
