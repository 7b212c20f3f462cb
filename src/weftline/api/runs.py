"""What can be done with runs by their id, and asked of them."""

import logging
from collections.abc import Iterable
from typing import Any

from weftline.api.checks import checked_id, checked_name, checked_statuses
from weftline.api.handles import RunHandle
from weftline.app import home
from weftline.codecs.values import encode
from weftline.core.actions import PythonCall, Wait
from weftline.core.events import RunStatus
from weftline.core.run import Run
from weftline.core.state import StepState
from weftline.errors import (
    StepNotFoundError,
    WorkflowNotResumableError,
    WorkflowRunningError,
)

log = logging.getLogger("weftline")

CANCELED, RESUMABLE = RunStatus.CANCELED, RunStatus.RESUMABLE


def resume(workflow_id: str) -> RunHandle[Any]:
    """Let a run go on that failed, was canceled or lost its driver, and return a handle on it.

    When this returns the run is RUNNING, driven by the controller of the home, whatever becomes of
    this process. A finished one is left as it is.
    Raises: WorkflowNotFoundError; WorkflowRunningError.
    """
    workflow_id = checked_id(workflow_id)
    home().detached.resume(workflow_id)
    return RunHandle(workflow_id)


def resume_all(include_failed: bool = False) -> list[tuple[str, RunHandle[Any]]]:
    """Resume every run that is RESUMABLE, and with `include_failed` those that FAILED, oldest
    first; ids and handles of those that go on. One that cannot is logged and left out.

    Those that were running come before those that were waiting for their turn.
    """
    app = home()
    wanted = {RESUMABLE, RunStatus.FAILED} if include_failed else {RESUMABLE}
    found = [each for each in app.journal.list_runs() if app.owners.status_of(each) in wanted]
    found.reverse()
    found.sort(key=lambda each: each.summary.status is RunStatus.PENDING)
    if not found:
        return []
    resumed: list[tuple[str, RunHandle[Any]]] = []
    problems = app.detached.resume_many([record.run_id for record in found])
    for record, problem in zip(found, problems, strict=True):
        if problem is None:
            resumed.append((record.run_id, RunHandle(record.run_id)))
        elif not isinstance(problem, WorkflowRunningError):  # else somebody was faster
            log.warning("run %s cannot be resumed: %s", record.run_id, problem)
    return resumed


def cancel(workflow_id: str) -> None:
    """End a run: what runs of it is killed, no further step starts, and a late success changes
    nothing. It is CANCELED when this returns, unless it had ended already.

    `resume_all` leaves it alone; `resume` lets it go on.
    Raises: WorkflowNotFoundError; TypeError for an id that is no str.
    """
    home().steering.cancel(checked_id(workflow_id))


def pause(workflow_id: str) -> None:
    """Let no further step of the run start; what runs is not disturbed.

    Raises: WorkflowNotFoundError; ValueError for one that has ended.
    """
    home().steering.pause(checked_id(workflow_id))


def unpause(workflow_id: str) -> None:
    """Let steps of a paused run start again. Raises: WorkflowNotFoundError."""
    home().steering.unpause(checked_id(workflow_id))


def signal(
    workflow_id: str, name: str, payload: Any = None, *, idempotency_key: str | None = None
) -> bool:
    """Send news to a run, for whichever of its steps waits for a signal of this name, now or
    later. When this returns it is recorded, and is not lost.

    Of several with the same key only the first counts. Returns: whether this one counts.
    Raises: WorkflowNotFoundError; ValueError for a run that has ended for good.
    """
    workflow_id = checked_id(workflow_id)
    name = checked_name(name, "the name of a signal")
    if idempotency_key is not None:
        idempotency_key = checked_name(idempotency_key, "an idempotency key")
    app = home()
    encoded = encode(payload, app.objects, f"the payload of signal {name!r}")
    return app.steering.signal(workflow_id, name, encoded.packed, encoded.objects, idempotency_key)


def get_output(workflow_id: str, *, name: str | None = None) -> RunHandle[Any]:
    """A handle on the value of a run, or of its step `name`; never resumes anything.

    A run that was started detached goes on by itself: where its controller has died, waiting for
    the value starts a new one.
    Raises: WorkflowNotFoundError; ValueError for a RESUMABLE or CANCELED run without a name.
    """
    workflow_id = checked_id(workflow_id)
    app = home()
    record = app.records.get_run(workflow_id)
    status = app.owners.status_of(record)
    goes_on = status is RESUMABLE and app.link is not None and app.owners.is_elsewhere(record)
    if name is None and status in (RESUMABLE, CANCELED) and not goes_on:
        raise WorkflowNotResumableError(
            f"run {workflow_id!r} is {status} and has no result: resume it first", workflow_id
        )
    return RunHandle(workflow_id, name)


def get_status(workflow_id: str) -> RunStatus:
    """The run's status. Raises: WorkflowNotFoundError; TypeError for an id that is no str."""
    workflow_id = checked_id(workflow_id)
    app = home()
    return app.owners.status_of(app.records.get_run(workflow_id))


def list_all(
    status_filter: str | RunStatus | Iterable[str | RunStatus] | None = None,
) -> list[tuple[str, RunStatus]]:
    """Ids and statuses of all runs, newest first; only those with a status of the filter.

    Raises: TypeError for a filter that is no status, status name, or set of them.
    """
    wanted = checked_statuses(status_filter)
    app = home()
    found = [(record.run_id, app.owners.status_of(record)) for record in app.journal.list_runs()]
    return [one for one in found if wanted is None or one[1] in wanted]


def delete(workflow_id: str) -> None:
    """Forget a run and everything recorded of it; its id may be used anew.

    Raises: WorkflowNotFoundError; WorkflowRunningError while it is driven.
    """
    home().records.delete(checked_id(workflow_id))


def get_metadata(workflow_id: str, name: str | None = None) -> dict[str, Any]:
    """What was said about a run or one of its steps, and its times; partial while it runs.

    A run's has `status`, `user_metadata` and `stats`; a step's also `name` and `step_options`.
    Times are seconds since 1970. Source: Ray Workflow 1.12.
    Raises: ValueError for an unknown id or step.
    """
    workflow_id = checked_id(workflow_id)
    app = home()
    if name is None:
        record = app.records.get_run(workflow_id)
        stats = {"start_time": record.summary.started_at, "end_time": record.summary.ended_at}
        status = app.owners.status_of(record)
        return {
            "status": status,
            "user_metadata": record.creation.metadata,
            "stats": _known(stats, without=("end_time",) if status is CANCELED else ()),
        }
    found = app.records.find_step(workflow_id, name)
    if found is None:
        raise StepNotFoundError(f"No such step_id {name} in workflow {workflow_id}", workflow_id)
    return _step_metadata(*found)


def _known(stats: dict[str, float | None], without: tuple[str, ...] = ()) -> dict[str, float]:
    return {k: v for k, v in stats.items() if v is not None and k not in without}


def _step_type(step: StepState) -> str:
    """As Ray calls kinds of steps; it has no word for a wait that holds no worker."""
    action = step.spec.action
    if isinstance(action, Wait):
        return "WAIT"
    assert isinstance(action, PythonCall)
    return "ACTOR_METHOD" if action.is_writer else "FUNCTION"


def _step_metadata(run: Run, step: StepState) -> dict[str, Any]:
    spec = step.spec
    policy, placement = spec.policy, spec.placement
    inputs = list(dict.fromkeys(spec.upstream()))
    first = run.scopes[step.scope].first
    # One that returned steps ended before they began; its value comes later.
    ended_at = step.ended_at if step.returned_at is None else step.returned_at
    return {
        "name": step.name,
        "step_options": {
            "step_type": _step_type(step),
            "max_retries": policy.tries,
            "catch_exceptions": policy.catch,
            "checkpoint": policy.checkpoint,
            "allow_inplace": policy.inplace,
            "timeout_s": policy.timeout_s,
            "retry_delay_s": policy.retry_delay_s,
            "retry_backoff": policy.retry_backoff,
            "retry_jitter": policy.retry_jitter,
            "ray_options": {
                "num_cpus": placement.num_cpus,
                "num_gpus": placement.num_gpus,
                "memory": placement.memory or None,
                "resources": dict(placement.resources),
                "runtime_env": {"env_vars": dict(placement.env_vars)},
            },
        },
        "user_metadata": spec.metadata or {},
        "workflows": [run.steps[first + n].name for n in inputs],
        "workflow_refs": [run.steps[n].name for n in run.outer_of(spec)],
        "status": run.status_of(step),
        "attempts": step.attempt,
        "stats": _known({"start_time": step.started_at, "end_time": ended_at}),
    }
