"""Steps, and their compositions that can be run."""

import warnings
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar, overload

from weftline.api.checks import checked_id, checked_metadata, new_id
from weftline.api.handles import RunHandle
from weftline.app import App, home
from weftline.authoring.options import Options
from weftline.authoring.step import Composition, StepFunction, to_workflow
from weftline.core.events import RunStatus
from weftline.driving.planned import Planned
from weftline.engine.active import Ended
from weftline.errors import InvalidOption, WorkflowRunningError
from weftline.workers.attempt import current

T = TypeVar("T")


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
        run is RESUMABLE; `run_async` starts one that goes on.

        Raises: what the step raised that made the run fail; WorkflowRunningError when the id is
            running; WorkflowExecutionError when the error is no Exception or cannot be rebuilt;
            ValueError for metadata that JSON cannot hold.
        """
        if workflow_id is not None:
            workflow_id = checked_id(workflow_id)
        checked_metadata(metadata)
        _refuse_own_run(workflow_id)
        app = home()
        if workflow_id is not None:
            record = app.journal.find_run(workflow_id)
            if record is not None and record.summary.status is not RunStatus.SUCCESSFUL:
                return self._proceed(app, workflow_id, quiet)
            if record is not None:
                summary = record.summary
                done = Ended(summary.status, summary.value, summary.error, None, None)
                return app.results.result_of(workflow_id, done)  # type: ignore[no-any-return]
        run_id = workflow_id or new_id()
        written, objects, warned = to_workflow(self, app.objects, metadata)
        for text in warned:
            warnings.warn(text, stacklevel=2)
        drive = app.attached.start(
            written, run_id=run_id, objects=objects, warned=warned, quiet=quiet
        )
        return app.results.result_of(run_id, drive.wait())  # type: ignore[no-any-return]

    def run_async(
        self, workflow_id: str | None = None, metadata: dict[str, Any] | None = None
    ) -> RunHandle[T]:
        """Start a run that goes on whatever becomes of this process, and return a handle on it.

        When this returns the run is recorded, and RUNNING. It is driven by the controller of the
        home, which is started if there is none. With an id that was used before, that run goes on,
        as with `run`.

        Raises: WorkflowRunningError when the id is running; WorkflowQueueFull (a queue.Full) beyond
            `init(max_pending_workflows=)`; ValueError for metadata that JSON cannot hold.
        """
        if workflow_id is not None:
            workflow_id = checked_id(workflow_id)
        checked_metadata(metadata)
        app = home()
        record = None if workflow_id is None else app.journal.find_run(workflow_id)
        if workflow_id is not None and record is not None:
            if record.summary.status is not RunStatus.SUCCESSFUL:
                written, _, _ = to_workflow(self, app.objects, None)
                app.detached.resume(workflow_id, written=written)
            return RunHandle(workflow_id)
        handle: RunHandle[T] = RunHandle(workflow_id or new_id())
        refused = app.detached.start([_plan(self, app, handle, metadata)])[0]
        if refused is not None:
            raise refused
        return handle

    def _proceed(self, app: App, run_id: str, quiet: bool) -> T:
        written, _, _ = to_workflow(self, app.objects, None)
        found = app.attached.proceed(run_id, written=written, quiet=quiet)
        ended = found if isinstance(found, Ended) else found.wait()
        return app.results.result_of(run_id, ended)  # type: ignore[no-any-return]


def submit_many(
    workflows: Iterable[Composition[Any]], *, max_running: int | None = None
) -> list[RunHandle[Any]]:
    """Start many runs at once, as `run_async` does one, and return their handles in order.

    With `max_running` at most so many of them run at the same time; the others are PENDING.
    Raises: TypeError for what is no composition; WorkflowQueueFull when not all are accepted
        (those before the first refused one are running then: `error.accepted` has their handles).
    """
    compositions = list(workflows)
    for one in compositions:
        if not isinstance(one, Composition):
            raise TypeError(f"submit_many takes compositions, not {type(one).__name__}")
    if max_running is not None:
        is_count = isinstance(max_running, int) and not isinstance(max_running, bool)
        if not is_count or max_running < 1:
            raise InvalidOption(f"max_running={max_running!r} must be a whole number, at least 1")
    app = home()
    group = None if max_running is None else (new_id(), max_running)
    handles: list[RunHandle[Any]] = [RunHandle(new_id()) for _ in compositions]
    refused = app.detached.start(
        [_plan(one, app, to, None, group) for one, to in zip(compositions, handles, strict=True)]
    )
    for error in refused:
        if error is not None:
            accepted = zip(handles, refused, strict=True)
            error.accepted = [each for each, no in accepted if no is None]  # type: ignore[attr-defined]
            raise error
    return handles


def _plan(
    composition: Composition[Any],
    app: App,
    handle: RunHandle[Any],
    metadata: dict[str, Any] | None,
    group: tuple[str, int] | None = None,
) -> Planned:
    written, objects, warned = to_workflow(composition, app.objects, metadata)
    for text in warned:
        warnings.warn(text, stacklevel=3)
    listener = handle.followed().settle
    return Planned(handle.workflow_id, written, listener, objects, warned, group=group)


def _refuse_own_run(workflow_id: str | None) -> None:
    here = current()
    if here is not None and workflow_id == here.run_id:
        raise WorkflowRunningError(
            f"step {here.step!r} runs its own run {here.run_id!r}, which would wait for itself:"
            " return the composition instead, or give it another id",
            here.run_id,
        )


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
    `checkpoint`, `allow_inplace`, `num_cpus`, `num_gpus`, `memory`, `resources`, `runtime_env`
    (`env_vars`), `timeout_s`, `retry_delay_s`, `retry_backoff`, `retry_jitter`, `retry_on`.

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
