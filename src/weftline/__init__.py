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

__all__ = [
    "WeftlineError",
    "WorkflowCanceledError",
    "WorkflowExecutionError",
    "WorkflowNotFoundError",
    "WorkflowRunningError",
    "__version__",
    "workflow",
]


def __getattr__(name: str) -> Any:
    # `import weftline` alone stays cheap; the API is loaded by whoever asks for it.
    if name == "workflow":
        from importlib import import_module

        return import_module("weftline.workflow")
    raise AttributeError(f"module 'weftline' has no attribute {name!r}")
