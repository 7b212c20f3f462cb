"""Runs that go on whatever becomes of this process: the controller of the home drives them."""

import time
import warnings
from collections.abc import Sequence

from weftline.control import Accepted
from weftline.core.environment import Environment
from weftline.core.events import RunStatus
from weftline.core.workflow import Workflow
from weftline.driving.controllers import FindController, Listener
from weftline.driving.drive import Answer
from weftline.driving.ends import Ends
from weftline.driving.engines import Engines
from weftline.driving.environment import environment_here
from weftline.driving.owners import Owners
from weftline.driving.planned import (
    Planned,
    ignore,
    message_of,
    submission_of,
    warn_of_changes,
)
from weftline.driving.records import Records
from weftline.engine.recovery import read_run
from weftline.errors import WeftlineError, WorkflowRunningError
from weftline.ports.journal import WholeJournal


class Detached:
    """Has runs driven by the controller. A home in memory has none: there this process does."""

    def __init__(
        self,
        journal: WholeJournal,
        engines: Engines,
        owners: Owners,
        records: Records,
        ends: Ends,
        find_controller: FindController,
    ) -> None:
        self._journal, self._engines, self._owners = journal, engines, owners
        self._records, self._ends, self._find_controller = records, ends, find_controller

    def start(self, planned: Sequence[Planned]) -> list[WeftlineError | None]:
        """Submit new runs, which go on whatever becomes of this process.

        Returns, for each, when it is durable: None, or why it was refused. A home in memory has no
        controller: there this process drives them.
        Raises: ControllerUnavailable.
        """
        self._journal.change_count()  # a home that cannot be used says so here
        now, environment = time.time(), environment_here()
        answers: list[WeftlineError | None] = [None] * len(planned)
        first: dict[str, int] = {}
        for at, each in enumerate(planned):
            if first.setdefault(each.run_id, at) != at:
                text = f"the workflow id {each.run_id!r} is given twice"
                answers[at] = WorkflowRunningError(text, each.run_id)
        wanted = list(first.values())
        controller = self._find_controller()
        if controller is None:
            for at in wanted:
                answers[at] = self._start_here(planned[at], now, environment)
            return answers
        runs = [
            message_of(planned[at], controller.next_number(), now, environment) for at in wanted
        ]
        listeners = [self._teller(planned[at]) for at in wanted]
        for at, answer in zip(wanted, controller.submit(runs, listeners), strict=True):
            answers[at] = answer
        return answers

    def _start_here(
        self, planned: Planned, now: float, environment: Environment
    ) -> WeftlineError | None:
        engine = self._engines.open().engine
        problem = engine.refusal_of(planned.workflow.graph)
        if problem is not None:
            return problem
        submission = submission_of(planned, now, environment, detached=True)
        answer = Answer(self._teller(planned))
        engine.submit(submission, answer.listen, on_accepted=answer.accept)
        return answer.wait()

    def _teller(self, planned: Planned) -> Listener:
        return self._ends.or_else(planned.run_id, None, planned.listener)

    def resume(self, run_id: str, *, written: Workflow | None = None) -> None:
        """Let a run go on, detached, also one that failed, was canceled or is held back; returns
        when that is durable. One that has its result is left alone. `written` is as for `proceed`.

        Raises: WorkflowNotFoundError, WorkflowRunningError, ControllerUnavailable.
        """
        recorded = None if written is None else self._records.read(run_id)
        problem = self.resume_many([run_id])[0]
        if problem is not None:
            raise problem
        if recorded is not None and written is not None:
            warn_of_changes(recorded, written, stacklevel=4)

    def resume_many(self, run_ids: Sequence[str]) -> list[WeftlineError | None]:
        """The same for several at once; for each None, or why it does not go on.

        Raises: ControllerUnavailable.
        """
        self._journal.change_count()
        own = {run_id: self._rejoin(run_id) for run_id in run_ids if self._is_finishing(run_id)}
        if own:
            others = [run_id for run_id in run_ids if run_id not in own]
            rest = iter(self.resume_many(others) if others else ())
            return [own[run_id] if run_id in own else next(rest) for run_id in run_ids]
        idle = {run_id for run_id in run_ids if self._is_left(run_id)}
        found = self._adopt(run_ids, is_resume=True)
        for at, run_id in enumerate(run_ids):
            # A controller that this has started takes up such runs by itself, and may have done so
            # before it was asked to.
            if isinstance(found[at], WorkflowRunningError) and run_id in idle:
                found[at] = None
        return found

    def _is_finishing(self, run_id: str) -> bool:
        """Whether it is a failed run of which steps still run here: they are not begun anew."""
        return self._engines.drives(run_id) is False

    def _rejoin(self, run_id: str) -> WeftlineError | None:
        """Let such a run go on here; a controller does when this process ends."""
        answer = Answer(ignore)
        engine = self._engines.open().engine
        engine.rejoin(run_id, answer.listen, detached=True, on_accepted=answer.accept)
        return answer.wait()

    def _is_left(self, run_id: str) -> bool:
        """Whether it is a run that controllers drive, and none does."""
        record = self._journal.find_run(run_id)
        if record is None or not record.creation.detached:
            return False
        return self._owners.status_of(record) is RunStatus.RESUMABLE

    def carry_on(self, run_id: str) -> WeftlineError | None:
        """Have a run driven on that nobody drives, if it goes on by itself; None, or why it does
        not.

        Raises: ControllerUnavailable.
        """
        return self._adopt([run_id], is_resume=False)[0]

    def _adopt(self, run_ids: Sequence[str], *, is_resume: bool) -> list[WeftlineError | None]:
        controller = self._find_controller()
        if controller is None:
            return [self._adopt_here(run_id, is_resume) for run_id in run_ids]
        found: list[WeftlineError | None] = []
        for answer in controller.adopt(run_ids, is_resume=is_resume):
            if isinstance(answer, Accepted):
                for text in answer.warnings:
                    warnings.warn(text, stacklevel=4)
            found.append(None if isinstance(answer, Accepted) else answer)
        return found

    def _adopt_here(self, run_id: str, is_resume: bool) -> WeftlineError | None:
        engine = self._engines.open().engine
        try:
            recorded = read_run(self._journal, run_id, to_drive=True)
            run = recorded.run
            if run.finished is RunStatus.SUCCESSFUL or (run.is_at_rest and is_resume):
                return None
            if engine.drives(run_id):
                raise WorkflowRunningError(f"run {run_id!r} is running in this process", run_id)
            self._owners.make_free(recorded.record)
        except WeftlineError as error:
            return error
        answer = Answer(ignore)
        engine.adopt(
            recorded,
            answer.listen,
            lost=self._records.find_lost(run),
            detached=True,
            on_accepted=answer.accept,
        )
        return answer.wait()
