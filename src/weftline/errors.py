"""Every error of Weftline, as one tree under `WeftlineError`.

A message names the thing, says what is wrong and what to do next. Where users of Ray Workflow
expect a built-in class (ValueError, RuntimeError, TypeError), the error derives from it as well.
"""

import queue
from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The text `; did you mean 'x'?`, or nothing when no known word is near."""
    near = get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


class WeftlineError(Exception):
    """The root: `except WeftlineError` catches all that Weftline itself raises."""


# -- what a person wrote ------------------------------------------------------------------------


class InvalidWorkflow(WeftlineError, ValueError):
    """A graph cannot run as it is written; the message lists every problem found."""


class InvalidOption(WeftlineError, ValueError):
    """An option of a step, a run or `init` is unknown or has a value that cannot be used."""


class NotPicklable(WeftlineError, ValueError):
    """A function, an argument or a result cannot be turned into bytes; says which one and why."""


class ResourcesUnavailable(WeftlineError, ValueError):
    """A step asks for more than this machine was declared to have."""


class InvalidSettings(WeftlineError, ValueError):
    """A setting of the process (argument, environment variable or weftline.toml) cannot be used."""


# -- runs ---------------------------------------------------------------------------------------


class WorkflowError(WeftlineError):
    """Something about one run; `workflow_id` names it."""

    def __init__(self, message: str, workflow_id: str | None = None) -> None:
        super().__init__(message)
        self.workflow_id = workflow_id


class WorkflowNotFoundError(WorkflowError, ValueError):
    """No run has this id."""


class StepNotFoundError(WorkflowError, ValueError):
    """The run has no step of this name."""


class WorkflowRunningError(WorkflowError, RuntimeError, ValueError):
    """The run is being driven right now, so it can neither be started again nor deleted."""


class WorkflowQueueFull(WorkflowError, queue.Full):
    """The limit on workflows that run, and the one on those that wait for it, are both reached."""


class VirtualActorNotInitializedError(WorkflowError, RuntimeError):
    """The actor's `__init__` has not ended yet, so there is no state to read."""


class WorkflowNotResumableError(WorkflowError, ValueError):
    """The run is in a state from which this call cannot go on; the message tells what can."""


class WorkflowExecutionError(WorkflowError, RuntimeError):
    """A run ended badly and the original exception cannot be raised here.

    `error_type`, `error_text` and `traceback` hold what is known of the cause.
    """

    def __init__(
        self,
        message: str,
        workflow_id: str | None = None,
        *,
        error_type: str | None = None,
        error_text: str | None = None,
        traceback: str | None = None,
    ) -> None:
        super().__init__(message, workflow_id)
        self.error_type, self.error_text, self.traceback = error_type, error_text, traceback


class WorkflowCanceledError(WorkflowExecutionError):
    """The run was canceled before it had a result."""


class StepMemoryError(WeftlineError, MemoryError):
    """A step's processes took more memory than its `memory`; they were ended."""


class StepTimeoutError(WeftlineError, TimeoutError):
    """A step ran longer than its `timeout_s`; its process was ended."""


# -- the controller -----------------------------------------------------------------------------


class ControllerRunning(WeftlineError, RuntimeError):
    """Another controller serves the home already; a home has one."""


class ControllerUnavailable(WeftlineError, RuntimeError):
    """The controller of the home cannot be started, or does not answer; says which and why."""


# -- what is stored -----------------------------------------------------------------------------


class StorageError(WeftlineError):
    """The home (database or object store) cannot do what is asked of it."""


class StorageFull(StorageError, OSError):
    """No space is left where the home is; nothing half-written remains, free some and resume."""


class NewerHome(StorageError):
    """The home was written by a newer Weftline."""


class CommitUnknown(StorageError):
    """Whether a commit took place is not known; the engine reads back before anything else."""


class OtherPython(StorageError):
    """Stored code was written by another version of Python, in which alone it runs."""


class ObjectNotFound(StorageError):
    """The object store has no object of this name."""


class ObjectDamaged(StorageError):
    """The content of a stored object does not match its name."""


class ImpossibleEvent(WeftlineError):
    """An event does not follow from the ones before it: the journal or the engine is wrong."""


def find_error(name: str) -> type[WeftlineError] | None:
    """The error class of this qualified name, as it is recorded; None when it is no own one."""
    module, _, last = name.rpartition(".")
    found = globals().get(last) if module == __name__ else None
    return found if isinstance(found, type) and issubclass(found, WeftlineError) else None
