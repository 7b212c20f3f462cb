"""Durable workflows written in Python: `from weftline import workflow`.

    @workflow.step
    def double(x: int) -> int:
        return 2 * x

    double.step(double.step(1)).run()  # 4

The names and their behaviour are those of Ray Workflow 1.12 (its `.step()` API). Chosen departures:
`init` is implied by the first call that needs it; `.run()` is driven by the calling process (when
that ends, the run is RESUMABLE); a step's own exception is raised as it is.
"""

import os
import time
import uuid
import warnings
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar, overload

from weftline.app import App, home, open_home
from weftline.authoring.options import Options, is_text, problem_of_metadata
from weftline.authoring.step import Composition, StepFunction, to_workflow
from weftline.core.events import RunStatus
from weftline.core.run import Run, StepState
from weftline.engine.active import Ended
from weftline.errors import (
    InvalidOption,
    StepNotFoundError,
    StepTimeoutError,
    StorageFull,
    WorkflowCanceledError,
    WorkflowExecutionError,
    WorkflowNotFoundError,
    WorkflowNotResumableError,
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
    "Current",
    "RunHandle",
    "StepNotFoundError",
    "StepTimeoutError",
    "StorageFull",
    "Workflow",
    "WorkflowCanceledError",
    "WorkflowExecutionError",
    "WorkflowNotFoundError",
    "WorkflowNotResumableError",
    "WorkflowRunningError",
    "WorkflowStatus",
    "current",
    "delete",
    "get_metadata",
    "get_output",
    "get_status",
    "init",
    "list_all",
    "resume",
    "step",
]

T = TypeVar("T")

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
    `$WEFTLINE_HOME`, else `~/.weftline`. What is not declared is found out. Implied, with the
    defaults, by the first call that needs a home. The same again is a warning.

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


# -- steps --------------------------------------------------------------------------------------


class Workflow(Composition[T], Generic[T]):
    """A composition of steps that can be run."""

    __slots__ = ()

    def run(
        self,
        workflow_id: str | None = None,
        metadata: dict[str, Any] | None = None,
        *,
        quiet: bool = False,
    ) -> T:
        """Run it to its end, driven by this process, and return its value.

        With an id that was used before, that run goes on: a finished one gives its recorded value
        and nothing runs, a failed or resumable one continues from what is recorded. Lines that
        steps print come out here with the step's name, unless `quiet`. When this process ends the
        run is RESUMABLE.

        Raises: what the step raised that made the run fail; WorkflowRunningError when the id is
            running; WorkflowExecutionError when the error is no Exception or cannot be rebuilt;
            ValueError for metadata that JSON cannot hold.
        """
        if workflow_id is not None:
            workflow_id = _checked_id(workflow_id)
        if metadata is not None and (problem := problem_of_metadata(metadata)):
            raise InvalidOption(f"metadata={metadata!r} {problem}")
        here = current()
        if here is not None and workflow_id == here.run_id:
            raise WorkflowRunningError(
                f"step {here.step!r} runs its own run {here.run_id!r}, which would wait for itself:"
                " return the composition instead, or give it another id",
                here.run_id,
            )
        app = home()
        if workflow_id is not None:
            record = app.journal.find_run(workflow_id)
            if record is not None and record.summary.status is not SUCCESSFUL:
                return self._proceed(app, workflow_id, quiet)
            if record is not None:
                summary = record.summary
                done = Ended(summary.status, summary.value, summary.error, None, None)
                return app.result_of(workflow_id, done)  # type: ignore[no-any-return]
        run_id = workflow_id or new_id()
        written, objects, warned = to_workflow(self, app.objects, metadata)
        for text in warned:
            warnings.warn(text, stacklevel=2)
        drive = app.start(written, run_id=run_id, objects=objects, warned=warned, quiet=quiet)
        return app.result_of(run_id, drive.wait())  # type: ignore[no-any-return]

    def _proceed(self, app: App, run_id: str, quiet: bool) -> T:
        written, _, _ = to_workflow(self, app.objects, None)
        found = app.proceed(run_id, written=written, quiet=quiet)
        ended = found if isinstance(found, Ended) else found.wait()
        return app.result_of(run_id, ended)  # type: ignore[no-any-return]


class Step(StepFunction[Workflow[Any]]):
    """A function as a step; see `step`."""

    composition = Workflow


@overload
def step(function: Callable[..., Any], /) -> Step: ...
@overload
def step(**options: Any) -> Callable[[Callable[..., Any]], Step]: ...
def step(*args: Any, **options: Any) -> Any:
    """Make a step of a function, as `@workflow.step`, `@workflow.step(max_retries=3)` or
    `workflow.step(functools.partial(...))`.

    Options: `name`, `max_retries` (tries in all, 1 by default), `catch_exceptions`, `metadata`,
    `num_cpus`, `num_gpus`, `resources`, `runtime_env` (`env_vars`), `timeout_s`, `retry_delay_s`,
    `retry_backoff`, `retry_jitter`, `retry_on`.

    Raises: ValueError for an option that is unknown or cannot be used.
    """
    if args and (len(args) > 1 or not callable(args[0])):
        raise InvalidOption(
            f"workflow.step takes one callable, or options by name; it was given {args!r}"
        )
    checked = Options().merged(options)
    if args:
        return Step(args[0], checked)
    return lambda function: Step(function, checked)


# -- runs ---------------------------------------------------------------------------------------


class RunHandle(Generic[T]):
    """A run, or one step of it, whose value can be asked for."""

    def __init__(self, workflow_id: str, name: str | None = None) -> None:
        self.workflow_id = workflow_id
        self._name = name

    def result(self, timeout: float | None = None) -> T:
        """The value, as soon as there is one; drives nothing.

        Raises: the error that the run (or step) ended with; TimeoutError after `timeout` seconds.
        """
        return home().wait_for(  # type: ignore[no-any-return]
            self.workflow_id, self._name, timeout
        )

    def status(self) -> RunStatus:
        """The run's status now."""
        return get_status(self.workflow_id)

    def __repr__(self) -> str:
        of = f" step {self._name!r}" if self._name else ""
        return f"<workflow run {self.workflow_id!r}{of}>"


def resume(workflow_id: str) -> RunHandle[Any]:
    """Let a run go on that failed, was canceled or lost its driver; returns when it has ended.

    A finished one is left as it is. How it ended comes out of the handle's `result`.
    Raises: WorkflowNotFoundError, WorkflowRunningError.
    """
    workflow_id = _checked_id(workflow_id)
    found = home().proceed(workflow_id)
    if not isinstance(found, Ended):
        found.wait()
    return RunHandle(workflow_id)


def get_output(workflow_id: str, *, name: str | None = None) -> RunHandle[Any]:
    """A handle on the value of a run, or of its step `name`; never starts anything.

    Raises: WorkflowNotFoundError; ValueError for a RESUMABLE or CANCELED run without a name.
    """
    workflow_id = _checked_id(workflow_id)
    app = home()
    status = app.status_of(app.get_run(workflow_id))
    if name is None and status in (RESUMABLE, CANCELED):
        raise WorkflowNotResumableError(
            f"run {workflow_id!r} is {status} and has no result: resume it first", workflow_id
        )
    return RunHandle(workflow_id, name)


def get_status(workflow_id: str) -> RunStatus:
    """The run's status. Raises: WorkflowNotFoundError; TypeError for an id that is no str."""
    workflow_id = _checked_id(workflow_id)
    app = home()
    return app.status_of(app.get_run(workflow_id))


def list_all(
    status_filter: str | RunStatus | Iterable[str | RunStatus] | None = None,
) -> list[tuple[str, RunStatus]]:
    """Ids and statuses of all runs, newest first; only those with a status of the filter.

    Raises: TypeError for a filter that is no status, status name, or set of them.
    """
    wanted = _statuses(status_filter)
    app = home()
    found = [(record.run_id, app.status_of(record)) for record in app.journal.list_runs()]
    return [one for one in found if wanted is None or one[1] in wanted]


def get_metadata(workflow_id: str, name: str | None = None) -> dict[str, Any]:
    """What was said about a run or one of its steps, and its times; partial while it runs.

    A run's has `status`, `user_metadata` and `stats`; a step's also `name` and `step_options`.
    Times are seconds since 1970. Source: Ray Workflow 1.12.
    Raises: ValueError for an unknown id or step.
    """
    workflow_id = _checked_id(workflow_id)
    app = home()
    if name is None:
        record = app.get_run(workflow_id)
        stats = {"start_time": record.summary.started_at, "end_time": record.summary.ended_at}
        status = app.status_of(record)
        return {
            "status": status,
            "user_metadata": record.creation.metadata,
            "stats": _known(stats, without=("end_time",) if status is CANCELED else ()),
        }
    run = app.read(workflow_id).run
    step = run.find_step(name)
    if step is None:
        raise StepNotFoundError(f"No such step_id {name} in workflow {workflow_id}", workflow_id)
    return _step_metadata(run, step)


def delete(workflow_id: str) -> None:
    """Forget a run and everything recorded of it; its id may be used anew.

    Raises: WorkflowNotFoundError; WorkflowRunningError while it is driven.
    """
    workflow_id = _checked_id(workflow_id)
    home().delete(workflow_id)


def new_id() -> str:
    """An id for a run that was given none: random, and with the time in nanoseconds."""
    return f"{uuid.uuid4()}.{time.time_ns() / 1e9:.9f}"


def _checked_id(workflow_id: Any) -> str:
    if not isinstance(workflow_id, str):
        raise TypeError(f"a workflow id is a str, not {type(workflow_id).__name__}")
    if not workflow_id:
        raise InvalidOption("a workflow id is a non-empty string")
    if not is_text(workflow_id):
        raise InvalidOption(f"the workflow id {workflow_id!r} holds what is no character")
    return str.__str__(workflow_id)  # of a subclass, like StrEnum, its text alone


def _statuses(given: Any) -> set[RunStatus] | None:
    if given is None:
        return None
    entries = [given] if isinstance(given, str) else given
    if not isinstance(entries, Iterable):
        raise TypeError(f"a filter is a status or a set of statuses, not {given!r}")
    found = set()
    for entry in entries:
        if not isinstance(entry, str) or entry not in RunStatus.__members__:
            names = ", ".join(RunStatus.__members__)
            raise TypeError(f"{entry!r} is no status; statuses are {names}")
        found.add(RunStatus(entry))
    return found


def _known(stats: dict[str, float | None], without: tuple[str, ...] = ()) -> dict[str, float]:
    return {k: v for k, v in stats.items() if v is not None and k not in without}


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
            "step_type": "FUNCTION",
            "max_retries": policy.tries,
            "catch_exceptions": policy.catch,
            "timeout_s": policy.timeout_s,
            "retry_delay_s": policy.retry_delay_s,
            "retry_backoff": policy.retry_backoff,
            "retry_jitter": policy.retry_jitter,
            "ray_options": {
                "num_cpus": placement.num_cpus,
                "num_gpus": placement.num_gpus,
                "resources": dict(placement.resources),
                "runtime_env": {"env_vars": dict(placement.env_vars)},
            },
        },
        "user_metadata": spec.metadata or {},
        "workflows": [run.steps[first + n].name for n in inputs],
        "workflow_refs": [],
        "status": run.status_of(step),
        "attempts": step.attempt,
        "stats": _known({"start_time": step.started_at, "end_time": ended_at}),
    }
