"""Weftline runs machine-learning workflows, from a function in a notebook to a served pipeline."""

from typing import TYPE_CHECKING, Any

from weftline.errors import (
    WeftlineError,
    WorkflowCanceledError,
    WorkflowExecutionError,
    WorkflowNotFoundError,
    WorkflowRunningError,
)
from weftline.version import __version__

if TYPE_CHECKING:
    from weftline import workflow
    from weftline.api.handles import RunHandle, get, put, wait
    from weftline.codecs.references import ObjectRef

__all__ = [
    "ObjectRef",
    "RunHandle",
    "WeftlineError",
    "WorkflowCanceledError",
    "WorkflowExecutionError",
    "WorkflowNotFoundError",
    "WorkflowRunningError",
    "__version__",
    "get",
    "put",
    "wait",
    "workflow",
]

_LATE = {
    "ObjectRef": "weftline.codecs.references",
    "RunHandle": "weftline.api.handles",
    "get": "weftline.api.handles",
    "put": "weftline.api.handles",
    "wait": "weftline.api.handles",
}


def __getattr__(name: str) -> Any:
    # `import weftline` alone stays cheap; the API is loaded by whoever asks for it.
    from importlib import import_module

    if name == "workflow":
        return import_module("weftline.workflow")
    if name in _LATE:
        return getattr(import_module(_LATE[name]), name)
    raise AttributeError(f"module 'weftline' has no attribute {name!r}")
