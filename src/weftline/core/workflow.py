"""What every front-end makes: a named graph that can be run."""

from typing import Any

from msgspec import Struct

from weftline.core.graph import Graph


class Workflow(Struct, frozen=True, kw_only=True):
    """A graph with a name people know it by."""

    name: str
    graph: Graph
    metadata: dict[str, Any] = {}
