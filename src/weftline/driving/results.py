"""What runs and steps come to: their values, and what they failed of."""

import time
from typing import Any

from weftline.codecs.exceptions import decode_error
from weftline.codecs.values import decode
from weftline.core.events import RunStatus
from weftline.core.values import Error
from weftline.driving.ends import Ends
from weftline.driving.owners import Owners
from weftline.driving.records import Records
from weftline.engine.active import Ended
from weftline.engine.lookout import MAX_LOOK_S, MIN_LOOK_S
from weftline.engine.recovery import Recorded, RunReader
from weftline.errors import (
    StepNotFoundError,
    WorkflowCanceledError,
    WorkflowExecutionError,
    WorkflowNotResumableError,
)
from weftline.ports.journal import WholeJournal
from weftline.ports.objects import ObjectStore


class Results:
    """Gives values as Python objects, and raises the exceptions of users again."""

    def __init__(
        self,
        journal: WholeJournal,
        objects: ObjectStore,
        owners: Owners,
        records: Records,
        ends: Ends,
    ) -> None:
        self._journal, self._objects = journal, objects
        self._owners, self._records, self._ends = owners, records, ends

    def result_of(self, run_id: str, ended: Ended, name: str | None = None) -> Any:
        """The value that the run, or its step `name`, ended with. Raises: what it failed of."""
        if ended.status is RunStatus.SUCCESSFUL and (name is None or ended.value is not None):
            return None if ended.value is None else decode(ended.value, self._objects)
        if ended.status is RunStatus.CANCELED:
            raise WorkflowCanceledError(
                f"run {run_id!r} was canceled; resume it to let it go on", run_id
            )
        if name is not None and ended.error is None:
            raise WorkflowExecutionError(f"run {run_id!r}: {ended.reason}", run_id)
        if ended.error is None:
            raise WorkflowExecutionError(
                f"run {run_id!r} is held back: {ended.reason}. Mend the cause, then resume it with"
                f" workflow.resume({run_id!r})",
                run_id,
            )
        raise self.exception_of(run_id, ended.error, ended.step)

    def exception_of(self, run_id: str, error: Error, step: str | None) -> BaseException:
        """The user's own exception again, with a note; else a WorkflowExecutionError."""
        if step is None:
            note = f"Nothing of it was carried out; {run_id!r} goes on as if nobody had called."
        else:
            note = (
                f"Raised in step {step!r} of run {run_id!r}. What has finished is kept, and"
                f" workflow.resume({run_id!r}) tries the rest again, with the code as it was"
                " recorded: changed code needs another id."
            )
        found = decode_error(error, self._objects)
        if found is None:
            found = WorkflowExecutionError(
                f"step {step!r} of run {run_id!r} failed: {error.type}: {error.text}",
                run_id,
                error_type=error.type,
                error_text=error.text,
                traceback=error.traceback,
            )
        if error.traceback:
            found.add_note("In the step:\n" + error.traceback.rstrip())
        found.add_note(note)
        return found

    def wait_for(self, run_id: str, name: str | None, timeout_s: float | None) -> Any:
        """The value of the run, or of its step `name`, as soon as there is one; drives nothing.

        Raises: TimeoutError, the step's or run's own error, WorkflowNotFoundError,
        StepNotFoundError, WorkflowNotResumableError when it is RESUMABLE or CANCELED.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        if timeout_s is None or timeout_s > 0:
            try:
                ended = self._ends.hear(self._records.get_run(run_id), name, timeout_s)
            except TimeoutError:
                raise _no_result(run_id, name, timeout_s) from None
            if ended is not None:
                return self.result_of(run_id, ended, name)
        reader = RunReader(self._journal, run_id)
        pause = MIN_LOOK_S
        while True:
            seen = self._journal.change_count()
            reader.refresh()
            recorded = reader.recorded()
            if self._has_answer(recorded, name):
                return self._answer(recorded, name)
            while self._journal.change_count() == seen:
                left = MAX_LOOK_S if deadline is None else deadline - time.monotonic()
                if left <= 0:
                    raise _no_result(run_id, name, timeout_s)
                if self._owners.status_of(recorded.record) is RunStatus.RESUMABLE:
                    break
                time.sleep(min(pause, left))
                pause = min(pause * 1.5, MAX_LOOK_S)

    def _has_answer(self, recorded: Recorded, name: str | None) -> bool:
        run = recorded.run
        if not run.is_open or self._owners.status_of(recorded.record) is RunStatus.RESUMABLE:
            return True
        step = run.find_step(name) if name is not None else None
        if step is None:
            return False
        return run.value_of(step.number) is not None or step.is_ended

    def _answer(self, recorded: Recorded, name: str | None) -> Any:
        run, run_id = recorded.run, recorded.record.run_id
        if name is None:
            if run.is_open:
                raise WorkflowNotResumableError(
                    f"run {run_id!r} is RESUMABLE and has no result: resume it first", run_id
                )
            return self.result_of(run_id, Ended.of(run))
        step = run.find_step(name)
        if step is None:
            raise StepNotFoundError(f"No such step_id {name} in workflow {run_id}", run_id)
        value = run.value_of(step.number)
        if value is not None:
            return decode(value, self._objects)
        error = run.error_of(step.number)
        if error is not None:
            raise self.exception_of(run_id, error, step.name)
        raise WorkflowExecutionError(
            f"step {name!r} of run {run_id!r} has no value: it is {run.status_of(step)} and the"
            f" run is {self._owners.status_of(recorded.record)}",
            run_id,
        )


def _no_result(run_id: str, name: str | None, timeout_s: float | None) -> TimeoutError:
    what = f"step {name!r} of run {run_id!r}" if name else f"run {run_id!r}"
    return TimeoutError(f"{what} has no result after {timeout_s or 0:g} s")
