"""What the references in a JSON schema stand for, as far as that is in the schema itself: nothing is fetched."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, cast
from urllib.parse import unquote, urldefrag, urljoin

from mistill.structured.keywords import Schema, direct_subschemas
from mistill.structured.response_schema import referred

_ANCHORS = ("$anchor", "$dynamicAnchor")
_DRAFT_4 = "draft-04"


class _Resource(NamedTuple):
    """A schema with an address of its own; what has none belongs to the one that it stands in."""

    address: str
    schema: Schema


class SchemaReferences:
    """Looks up references of a schema's own parts: by a pointer, by an anchor, or by the ``$id`` of a part of it.

    Args:
        root: the whole schema.
    """

    def __init__(self, root: Schema) -> None:
        self._id_keyword = "id" if _DRAFT_4 in str(root.get("$schema", "")) else "$id"
        self._whole = _Resource("", root)
        self._resources: dict[str, Schema] = {"": root}
        self._homes: dict[int, _Resource] = {}
        self._anchors: dict[tuple[str, str], Schema] = {}
        self._dynamic: set[tuple[str, str]] = set()
        waiting: list[tuple[Any, _Resource]] = [(root, self._whole)]
        while waiting:
            node, home = waiting.pop()
            if isinstance(node, dict):
                node = cast("Schema", node)
                home = self._note(node, home)
                waiting += ((one, home) for one in direct_subschemas(node))

    def _note(self, node: Schema, home: _Resource) -> _Resource:
        name = node.get(self._id_keyword)
        if isinstance(name, str) and name.startswith("#"):  # how drafts 4 to 7 write an anchor
            self._anchors.setdefault((home.address, name[1:]), node)
        elif isinstance(name, str):
            home = _Resource(urldefrag(urljoin(home.address, name)).url, node)
            self._resources.setdefault(home.address, node)
            if node is self._whole.schema:
                self._whole = home
        self._homes[id(node)] = home
        for keyword in _ANCHORS:
            if isinstance(anchor := node.get(keyword), str):
                self._anchors.setdefault((home.address, anchor), node)
                if keyword != "$anchor":
                    self._dynamic.add((home.address, anchor))
        return home

    def of(self, node: Schema) -> Iterator[Any]:
        """What the references in ``node`` itself stand for; nothing where that is nowhere in the schema."""
        home = self._homes.get(id(node), self._whole)
        if isinstance(reference := node.get("$ref"), str):
            yield self._target(reference, home)
        if isinstance(reference := node.get("$dynamicRef"), str):
            # The outermost schema that has it goes first.
            key = (self._whole.address, reference.removeprefix("#"))
            yield self._anchors[key] if key in self._dynamic else self._target(reference, home)
        if node.get("$recursiveRef") == "#":
            is_outer = self._whole.schema.get("$recursiveAnchor") is True
            yield self._whole.schema if is_outer else home.schema

    def _target(self, reference: str, home: _Resource) -> Any:
        if reference.startswith("#"):  # not every address has others beside it, as urljoin wants
            address, fragment = home.address, unquote(reference[1:])
        else:
            address, fragment = urldefrag(urljoin(home.address, reference))
            fragment = unquote(fragment)
        resource = self._resources.get(address)
        if resource is None:
            return None
        if fragment and not fragment.startswith("/"):
            return self._anchors.get((address, fragment))
        return referred(f"#{fragment}", resource)
