"""Takes recorded runs over: at the beginning all that lost their engine, later those asked for.

Reading runs and ending what dead engines left behind takes its time, so that it has a thread.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from weftline.app import App
from weftline.core.events import RunStatus
from weftline.driving.environment import usable_environment
from weftline.engine.active import Gone, Listener, News
from weftline.engine.engine import Engine
from weftline.engine.lookout import find_end
from weftline.engine.outside import take_in
from weftline.engine.recovery import Recorded, RunReader, read_run
from weftline.errors import WeftlineError, WorkflowError, WorkflowRunningError
from weftline.ports.journal import RunRecord

LOOK_S = 10.0
"""How often it is looked for runs that lost another driver; the next look comes later if one takes
more than a thousandth of this."""

UNFINISHED = (RunStatus.RUNNING, RunStatus.PAUSED, RunStatus.RESUMABLE, RunStatus.PENDING)
"""RESUMABLE is a run that was let go, or is held: its journal tells which."""

log = logging.getLogger("weftline.controller")

Answer = Callable[[WeftlineError | tuple[str, ...]], None]
"""Told, on any thread, why a run is not driven, or what to warn of."""


class _Wanted(NamedTuple):
    """A run to be taken over; `answer` is None where nobody asked for it."""

    run_id: str
    is_resume: bool
    answer: Answer | None
    tries: int = 5


class _Watched(NamedTuple):
    """Somebody wants to know how a run ends that is not driven here."""

    run_id: str
    name: str | None
    listener: Listener


class Adoption:
    """Gives recorded runs to the engine."""

    def __init__(self, app: App, engine: Engine) -> None:
        self._app, self._engine = app, engine
        self._changed = threading.Condition()
        self._asked: deque[_Wanted | _Watched] = deque()
        self._found: deque[_Wanted] = deque()
        self._is_working = self._is_closed = False
        self._unsettled = 0  # adoptions that the engine has, and has not recorded or refused
        self._seen = -1
        self._look_at = 0.0
        self._left_alone: dict[str, tuple[int, int]] = {}  # by epoch and seq
        self._thread = threading.Thread(target=self._main, name="weftline-adoption", daemon=True)
        self._thread.start()

    @property
    def is_busy(self) -> bool:
        """Whether there is something left to be done, or the engine has not said its word on it."""
        is_waiting = self._look_at == 0.0 or bool(self._asked or self._found)
        return is_waiting or self._is_working or self._unsettled > 0

    def adopt(self, run_id: str, is_resume: bool, answer: Answer) -> None:
        """Drive the run; with `is_resume` also one that has failed, was canceled or is held."""
        self._ask(_Wanted(run_id, is_resume, answer))

    def watch(self, run_id: str, name: str | None, listener: Listener) -> None:
        """Tell how a run ends that is not driven here: as its journal says, or by driving it."""
        self._ask(_Watched(run_id, name, listener))

    def close(self) -> None:
        """Take no more over."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join(30.0)

    def _ask(self, what: _Wanted | _Watched) -> None:
        with self._changed:
            self._asked.append(what)
            self._changed.notify()

    # -- the thread -----------------------------------------------------------------------------

    def _main(self) -> None:
        while (task := self._next()) is not None:
            try:
                task()
            except WeftlineError as error:
                log.warning("looking for runs to go on with: %s", error)
            except Exception:
                log.exception("looking for runs to go on with")
            self._is_working = False

    def _next(self) -> Callable[[], None] | None:
        with self._changed:
            while not self._is_closed:
                queue = self._asked or self._found
                if queue:
                    self._is_working = True
                    what = queue.popleft()
                    return lambda: self._do(what)
                left = self._look_at - time.monotonic()
                if left <= 0:
                    self._is_working = True
                    return self._look
                self._changed.wait(left)
            return None

    def _look(self) -> None:
        """Find the runs that nobody drives and somebody should, if anything has changed."""
        begun = time.monotonic()
        self._look_at = begun + LOOK_S
        journal = self._app.journal
        count = journal.change_count()
        if count == self._seen:
            return
        runs = find_abandoned(self._app)
        self._seen = count
        runs = [r for r in runs if self._left_alone.get(r.run_id) != (r.epoch, r.last_seq)]
        if runs:
            log.info("runs that have no engine any more: %d", len(runs))
        with self._changed:
            self._found.extend(_Wanted(record.run_id, False, None) for record in runs)
        now = time.monotonic()
        self._look_at = now + max(LOOK_S, 1000 * (now - begun))

    def _do(self, what: "_Wanted | _Watched") -> None:
        try:
            if isinstance(what, _Wanted):
                self._adopt(what)
            else:
                self._answer(what)
        except Exception as error:
            # One run that cannot be taken over harms no other.
            if isinstance(error, WeftlineError):
                problem = error
                log.warning("run %s is not taken over: %s", what.run_id, error)
            else:
                log.exception("run %s is not taken over", what.run_id)
                text = f"run {what.run_id!r} cannot be taken over: {type(error).__name__}: {error}"
                problem = WorkflowError(text, what.run_id)
            if isinstance(what, _Watched):
                what.listener(Gone(problem))
            elif what.answer is not None:
                what.answer(problem)

    # -- taking over ----------------------------------------------------------------------------

    def _adopt(self, wanted: _Wanted) -> None:
        run_id, answer = wanted.run_id, wanted.answer or _say_nothing
        if self._engine.drives(run_id):
            if wanted.is_resume:
                raise WorkflowRunningError(f"run {run_id!r} is running already", run_id)
            answer(())
            return
        recorded = read_run(self._app.journal, run_id, to_drive=True)
        run, record = recorded.run, recorded.record
        if run.finished is RunStatus.SUCCESSFUL or (wanted.is_resume and run.is_at_rest):
            self._left_alone[run_id] = (record.epoch, record.last_seq)
            answer(())
            return
        if not wanted.is_resume and not (run.is_open and record.creation.detached):
            self._left_alone[run_id] = (record.epoch, record.last_seq)
            text = f"run {run_id!r} is {run.status} and does not go on by itself: resume it"
            answer(WorkflowError(text, run_id))
            return
        if self._engine.drives(run_id) is not None:
            outcome = self._expect(wanted, answer)
            self._engine.rejoin(run_id, outcome.listen, on_accepted=outcome.accept)
            return
        self._app.owners.make_free(record)
        self._take(recorded, wanted, answer)

    def _take(self, recorded: Recorded, wanted: _Wanted, answer: Answer) -> None:
        run = recorded.run
        environment, noted = usable_environment(recorded.record.creation.environment)
        lacking = self._engine.lacking(step.spec for step in run.steps if not step.is_ended)
        if lacking is not None and wanted.is_resume:
            raise lacking
        if lacking is not None:
            log.warning("run %s waits for what is not here: %s", wanted.run_id, lacking)
        outcome = self._expect(wanted, answer, noted)
        self._engine.adopt(
            recorded,
            outcome.listen,
            environment=environment,
            warnings=noted,
            lost=self._app.records.find_lost(run),
            detached=True,
            on_accepted=outcome.accept,
        )

    def _expect(self, wanted: _Wanted, answer: Answer, noted: tuple[str, ...] = ()) -> "_Outcome":
        with self._changed:
            self._unsettled += 1
        return _Outcome(self, wanted, answer, noted)

    def settle(self, wanted: _Wanted, answer: Answer, news: Gone) -> None:
        """The engine has refused an adoption."""
        self.settled()
        if news.is_outdated and wanted.tries > 1:  # it changed since it was read
            self._ask(wanted._replace(tries=wanted.tries - 1))
        elif not wanted.is_resume and self._engine.drives(wanted.run_id):
            answer(())  # it was asked for twice
        else:
            answer(news.error)

    def settled(self) -> None:
        """The engine has said its word on one more adoption."""
        with self._changed:
            self._unsettled -= 1

    # -- telling how runs end that are not driven here ------------------------------------------

    def _answer(self, watched: _Watched) -> None:
        run_id, name, listener = watched
        reader = RunReader(self._app.journal, run_id, seeks=name)
        reader.refresh()
        recorded = reader.recorded()
        ended = find_end(reader)
        has_news = recorded.run.is_at_rest and bool(self._app.journal.list_inbox(run_id))
        if ended is not None and (name is not None or not has_news):
            listener(ended)
            return
        if not recorded.run.is_open:
            listener(Gone(WorkflowError(f"run {run_id!r} has ended", run_id)))
            return

        def go_on(answer: WeftlineError | tuple[str, ...]) -> None:
            if isinstance(answer, WeftlineError):
                listener(Gone(answer))
            else:
                self._engine.watch(run_id, name, listener, is_expected=True)

        self._adopt(_Wanted(run_id, False, go_on))


class _Outcome:
    """Waits for what the engine says of one adoption, and answers once."""

    def __init__(
        self, adoption: Adoption, wanted: _Wanted, answer: Answer, noted: tuple[str, ...]
    ) -> None:
        self._adoption, self._wanted, self._answer = adoption, wanted, answer
        self._noted = noted
        self._is_settled = False

    def accept(self) -> None:
        self._is_settled = True
        self._adoption.settled()
        self._answer(self._noted)

    def listen(self, news: News) -> None:
        if not self._is_settled and isinstance(news, Gone):
            self._is_settled = True
            self._adoption.settle(self._wanted, self._answer, news)


def find_abandoned(app: App) -> list[RunRecord]:
    """Detached runs that go on by themselves, and that no living engine drives: those that run
    before those that wait for their turn, oldest first.

    Some turn out not to go on when they are read: they are held back.
    """
    journal = app.journal
    found = journal.list_runs(statuses=UNFINISHED, detached=True)
    for run_id in journal.list_unread():
        record = journal.find_run(run_id)
        # An actor at rest is not unfinished, but has to take in what it is called for.
        if record is not None and record.summary.status is RunStatus.SUCCESSFUL:
            found.append(record)
    alive: dict[str, bool] = {}
    for record in found:
        if record.engine is not None and record.engine not in alive:
            alive[record.engine] = journal.is_alive(record.engine)
    left = [each for each in found if each.engine is None or not alive[each.engine]]
    left.sort(key=lambda each: each.creation.created_at)
    left.sort(key=lambda each: each.summary.status is RunStatus.PENDING)
    return left


def has_late_news(app: App) -> bool:
    """Whether an actor got a call just before its engine ended, so that nobody will look at it.

    What else was said to runs that had ended by then is recorded here.
    """
    found = False
    for run_id in app.journal.list_unread():
        record = app.journal.find_run(run_id)
        if record is None or (record.engine is not None and app.journal.is_alive(record.engine)):
            continue
        if record.summary.status is RunStatus.SUCCESSFUL:
            found |= read_run(app.journal, run_id, to_drive=True).run.is_at_rest
        else:
            take_in(app.journal, run_id)
    return found


def _say_nothing(answer: WeftlineError | tuple[str, ...]) -> None:
    """Nobody asked."""
