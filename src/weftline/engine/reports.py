"""What an executor's reports are for their runs."""

from collections.abc import Callable, Iterable
from random import Random

from msgspec import UNSET, DecodeError, Raw

from weftline.core.actions import PythonCall
from weftline.core.events import (
    GraphExtended,
    Quarantined,
    StepFailed,
    StepLost,
    StepStarted,
    StepSucceeded,
)
from weftline.core.graph import Graph, decode_pages
from weftline.core.values import Error
from weftline.engine.active import ActiveRun, Output, error_of
from weftline.engine.dispatcher import Dispatcher, InFlight
from weftline.engine.parking import Parking
from weftline.engine.recorder import Recorder
from weftline.engine.runs import Runs
from weftline.engine.timers import Timers
from weftline.errors import (
    ImpossibleEvent,
    InvalidWorkflow,
    StepMemoryError,
    StepTimeoutError,
)
from weftline.ports.clock import Clock
from weftline.ports.executor import (
    Done,
    Extended,
    Failed,
    GivenBack,
    Lost,
    Outgrown,
    Printed,
    Refused,
    Report,
    Started,
    Starved,
    Succeeded,
    TimedOut,
)


class Reports:
    """Takes in what an executor reports. Only the engine's thread touches it."""

    def __init__(
        self,
        clock: Clock,
        dispatcher: Dispatcher,
        timers: Timers,
        recorder: Recorder,
        runs: Runs,
        parking: Parking,
        seed: int | None,
    ) -> None:
        self._clock, self._dispatcher, self._timers = clock, dispatcher, timers
        self._recorder, self._runs, self._parking = recorder, runs, parking
        self._random = Random(seed)
        self._postponed: list[Report] = []

    @property
    def are_postponed(self) -> bool:
        """Whether there are some on parked runs that could not be loaded."""
        return bool(self._postponed)

    def take(self, reports: Iterable[Report]) -> None:
        """Take in these reports, oldest first, behind those that were postponed."""
        if self._postponed:
            reports, self._postponed = [*self._postponed, *reports], []
        for report in reports:
            self._take(report)

    def come_back(self, now: float) -> None:
        """Start again what was set aside for long enough."""
        while (back := self._dispatcher.come_back(now)) is not None:
            active, number, generation = back
            if generation == active.run.generation:
                self._start_again(active, number)
            elif active.is_loaded:
                self._runs.rest(active)

    def _take(self, report: Report) -> None:
        in_flight = self._dispatcher.in_flight
        if isinstance(report, Done):
            is_done, flight = True, in_flight.pop(report.key, None)
        elif isinstance(report, Refused):
            self._refuse_environment(report)
            return
        else:
            is_done, flight = False, in_flight.get(report.key)
        if flight is None:  # of an attempt that was given up; whatever it did is void
            return
        active = flight.active
        if not active.is_loaded:
            if not self._parking.wake(active):
                in_flight[report.key] = flight
                self._postponed.append(report)
                return
            if not active.is_loaded:
                return  # it could not be gone on with
        if is_done:
            active.attempts.pop(flight.step, None)
            if active.starved and type(report) not in (Starved, GivenBack):
                active.starved.pop(flight.step, None)
        try:
            _RULES[type(report)](self, flight, report)
        except ImpossibleEvent as error:
            self._runs.give_up(active, error)

    # -- one rule a report ----------------------------------------------------------------------

    def _printed(self, flight: InFlight, text: Printed) -> None:
        flight.active.tell(Output(_name(flight), text.stream, text.text))

    def _started(self, flight: InFlight, started: Started) -> None:
        event = StepStarted(flight.step, flight.number, started.worker, started.at, started.log)
        self._recorder.record(flight.active, event)

    def _starved(self, flight: InFlight, done: Starved) -> None:
        self._dispatcher.set_aside(flight, done)

    def _given_back(self, flight: InFlight, done: GivenBack) -> None:
        self._start_again(flight.active, flight.step)

    def _succeeded(self, flight: InFlight, done: Succeeded) -> None:
        active = flight.active
        if done.objects:
            active.objects += done.objects
        event = StepSucceeded(
            flight.step,
            flight.number,
            Raw(done.value),
            done.started_at,
            done.worker,
            done.preview,
            done.log,
            done.picture,
            UNSET if done.state is None else Raw(done.state),
            done.is_volatile,
        )
        self._recorder.record(active, event)

    def _extended(self, flight: InFlight, done: Extended) -> None:
        active = flight.active
        try:
            graph = Graph(steps=decode_pages(done.pages), output=done.output)
            problem = self._dispatcher.refusal_of(graph, active.run, flight.step)
        except DecodeError as error:
            problem = InvalidWorkflow(f"the steps that it returned cannot be read: {error}")
        if problem is not None:
            if done.stays:
                self._dispatcher.let_process_go(done.key)
            self._fail(flight, done, error_of(problem), False)
            return
        active.graphs.append((done.graph, done.pages))
        active.objects += done.objects
        event = GraphExtended(
            flight.step,
            flight.number,
            done.graph,
            done.output,
            done.started_at,
            done.worker,
            done.log,
            UNSET if done.state is None else Raw(done.state),
        )
        if done.stays:
            output = graph.output
            action = graph.steps[output].action if isinstance(output, int) else None
            if isinstance(output, int) and isinstance(action, PythonCall) and not action.listens:
                active.kept[len(active.run.steps) + output] = done.key
            else:  # what it waits for will never be carried out by a process
                self._dispatcher.let_process_go(done.key)
        self._recorder.record(active, event, graph)

    def _failed(self, flight: InFlight, done: Failed) -> None:
        flight.active.objects += done.objects
        self._fail(flight, done, done.error, done.retryable)

    def _timed_out(self, flight: InFlight, done: TimedOut) -> None:
        text = f"step {_name(flight)!r} ran longer than its timeout_s={done.after_s:g}"
        self._fail(flight, done, error_of(StepTimeoutError(text)), True, timeout=True)

    def _outgrown(self, flight: InFlight, done: Outgrown) -> None:
        text = (
            f"step {_name(flight)!r} had {done.resident} bytes of memory, more than its"
            f" memory={done.limit}"
        )
        self._fail(flight, done, error_of(StepMemoryError(text)), True)

    def _fail(
        self,
        flight: InFlight,
        done: Done,
        error: Error,
        retryable: bool,
        *,
        timeout: bool = False,
    ) -> None:
        now = self._clock.time()
        active = flight.active
        retry_at = active.run.judge_failure(
            flight.step, retryable=retryable, now=now, luck=self._random.random()
        )
        event = StepFailed(
            step=flight.step,
            attempt=flight.number,
            error=error,
            retry_at=retry_at,
            is_timeout=timeout,
            started_at=done.started_at,
            worker=done.worker,
            log=done.log,
        )
        self._recorder.record(active, event)
        if retry_at is not None:
            self._timers.set(active)

    def _lost(self, flight: InFlight, done: Lost) -> None:
        event = StepLost(
            flight.step, flight.number, done.reason, done.started_at, done.worker, done.log
        )
        self._recorder.record(flight.active, event)

    def _start_again(self, active: ActiveRun, number: int) -> None:
        """Start a step that came back, if its run goes on."""
        if active.run.may_start:
            self._dispatcher.start_again(active, number)
        else:
            self._runs.rest(active)
            self._parking.look_later(active)  # no commit will make anybody look

    def _refuse_environment(self, report: Refused) -> None:
        for active in self._runs:
            is_meant = active.is_loaded and active.environment == report.environment
            if is_meant and active.run.is_open:
                self._recorder.record(active, Quarantined(reason=report.reason))


def _name(flight: InFlight) -> str:
    return flight.active.run.steps[flight.step].name


_RULES: dict[type[Report], Callable[..., None]] = {
    Printed: Reports._printed,
    Started: Reports._started,
    Succeeded: Reports._succeeded,
    Extended: Reports._extended,
    Failed: Reports._failed,
    TimedOut: Reports._timed_out,
    Outgrown: Reports._outgrown,
    Lost: Reports._lost,
    Starved: Reports._starved,
    GivenBack: Reports._given_back,
}
