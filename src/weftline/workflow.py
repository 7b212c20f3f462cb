"""Durable workflows written in Python: `from weftline import workflow`.

    @workflow.step
    def double(x: int) -> int:
        return 2 * x

    double.step(double.step(1)).run()  # 4

The names and their behaviour are those of Ray Workflow 1.12 (its `.step()` API). Chosen departures:
`init` is implied by the first call that needs it; `.run()` is driven by the calling process (when
that ends, the run is RESUMABLE; one of `run_async` goes on); a step's own exception is raised as
it is.
"""

import os
import warnings

from weftline.api.actors import ActorClass, VirtualActor, get_actor, virtual_actor
from weftline.api.compositions import Step, Workflow, step, submit_many
from weftline.api.handles import RunHandle, get
from weftline.api.runs import (
    cancel,
    delete,
    get_metadata,
    get_output,
    get_status,
    list_all,
    pause,
    resume,
    resume_all,
    signal,
    unpause,
)
from weftline.api.waits import sleep, wait, wait_for_event, wait_for_signal
from weftline.app import open_home
from weftline.authoring.events import EventListener
from weftline.core.events import RunStatus
from weftline.errors import (
    StepMemoryError,
    StepNotFoundError,
    StepTimeoutError,
    StorageFull,
    VirtualActorNotInitializedError,
    WorkflowCanceledError,
    WorkflowExecutionError,
    WorkflowNotFoundError,
    WorkflowNotResumableError,
    WorkflowQueueFull,
    WorkflowRunningError,
)
from weftline.workers.attempt import Current, current

__all__ = [
    "CANCELED",
    "FAILED",
    "PAUSED",
    "PENDING",
    "RESUMABLE",
    "RUNNING",
    "SUCCESSFUL",
    "ActorClass",
    "Current",
    "EventListener",
    "RunHandle",
    "Step",
    "StepMemoryError",
    "StepNotFoundError",
    "StepTimeoutError",
    "StorageFull",
    "VirtualActor",
    "VirtualActorNotInitializedError",
    "Workflow",
    "WorkflowCanceledError",
    "WorkflowExecutionError",
    "WorkflowNotFoundError",
    "WorkflowNotResumableError",
    "WorkflowQueueFull",
    "WorkflowRunningError",
    "WorkflowStatus",
    "cancel",
    "current",
    "delete",
    "get",
    "get_actor",
    "get_metadata",
    "get_output",
    "get_status",
    "init",
    "list_all",
    "pause",
    "resume",
    "resume_all",
    "signal",
    "sleep",
    "step",
    "submit_many",
    "unpause",
    "virtual_actor",
    "wait",
    "wait_for_event",
    "wait_for_signal",
]

WorkflowStatus = RunStatus
PENDING, RUNNING, PAUSED = RunStatus.PENDING, RunStatus.RUNNING, RunStatus.PAUSED
SUCCESSFUL, FAILED = RunStatus.SUCCESSFUL, RunStatus.FAILED
CANCELED, RESUMABLE = RunStatus.CANCELED, RunStatus.RESUMABLE


def init(
    storage: str | os.PathLike[str] | None = None,
    *,
    database: str | os.PathLike[str] | None = None,
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    resources: dict[str, float] | None = None,
    executor: str | None = None,
    max_running_workflows: int | None = None,
    max_pending_workflows: int | None = None,
) -> None:
    """Choose where runs are kept, and declare what this machine has.

    `storage` and `database` are directories or file:// URLs; without them it is
    `$WEFTLINE_HOME`, else `~/.weftline`. What is not declared is found out. Of all runs of the
    home, at most `max_running_workflows` run at the same time; at most `max_pending_workflows` wait
    (PENDING) for that. Implied, with the defaults, by the first call that needs a home. The same
    again is a warning.

    Of all workflows of the home at most `max_running_workflows` run at once; others are PENDING,
    and beyond `max_pending_workflows` of those a new one is refused with WorkflowQueueFull. -1 is
    no limit, as is saying nothing.

    Raises: ValueError for what cannot be used; RuntimeError when this process has chosen another
        home, or declared something else, already.
    """
    for name, place in (("storage", storage), ("database", database)):
        if not isinstance(place, str | os.PathLike | None):
            raise TypeError(f"{name} must be a directory or a URL, not {type(place).__name__}")
    is_new = open_home(
        storage=None if storage is None else os.fspath(storage),
        database=None if database is None else os.fspath(database),
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        resources=resources,
        executor=executor,
        max_running_workflows=max_running_workflows,
        max_pending_workflows=max_pending_workflows,
    )
    if not is_new:
        text = "workflow.init() was called before; calling it again does nothing"
        warnings.warn(text, stacklevel=2)
