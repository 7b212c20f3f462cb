"""Hands steps that may begin to the executor, and knows which attempts that has.

Steps that may begin queue up by lane. One is handed over when there is room in its lane, and when
everything that it reads is durable.
"""

import logging
from collections import deque
from collections.abc import Iterable
from errno import ENOSPC
from heapq import heappop, heappush
from itertools import count
from typing import NamedTuple

from msgspec import Struct

from weftline.core.actions import PythonCall
from weftline.core.graph import Graph, Join, Step, problems_of
from weftline.core.policy import Placement
from weftline.core.references import reference_problems
from weftline.core.run import Run
from weftline.core.state import READY, RUNNING, StepState
from weftline.engine.active import ActiveRun, Stalled
from weftline.engine.writer import RETRY_COMMIT_S, Writer
from weftline.errors import InvalidWorkflow, ResourcesUnavailable, StorageFull, WeftlineError
from weftline.ports.clock import Clock
from weftline.ports.executor import Attempt, Executor, Lane, Starved

RETRY_STARVED_S = 5.0
"""At most so long until a step is tried again whose result found no room."""

WINDOW = 4096
"""Ready steps that are taken into attempts at once; bounds what one turn can cost."""

log = logging.getLogger("weftline.engine")


class InFlight(Struct, frozen=True, gc=False):
    """An attempt that an executor has."""

    active: ActiveRun
    step: int
    number: int
    lane: Lane


class Queued(Struct, frozen=True, gc=False):
    """Steps of one run that are to be started; void once the run is of another generation."""

    active: ActiveRun
    steps: deque[int]
    generation: int


class Aside(NamedTuple):
    """A step that is to be started again after a while; void as above."""

    active: ActiveRun
    step: int
    generation: int


class Dispatcher:
    """Starts and ends the attempts of all runs. Other threads may only ask for `refusal_of` and
    `lacking`."""

    def __init__(self, executor: Executor, clock: Clock, writer: Writer) -> None:
        self._executor, self._clock, self._writer = executor, clock, writer
        self.in_flight: dict[int, InFlight] = {}
        """The attempts that the executor has, by their keys."""
        self.lanes: dict[Lane, deque[Queued]] = {}
        """Steps that wait until there is room for them."""
        self._last_key = 0
        self._aside: list[tuple[float, int, Aside]] = []
        self._ticket = count()  # breaks ties, so that runs are never compared

    # -- what the executor could not do ---------------------------------------------------------

    def refusal_of(
        self, graph: Graph, run: Run | None = None, owner: int | None = None
    ) -> WeftlineError | None:
        """Why the graph cannot run here, or None; in `run`, `owner` returns it."""
        found = problems_of(graph) + reference_problems(graph, run, owner)
        for step in graph.steps:
            if step.when is not None:
                text = "has a condition, which this engine does not carry out"
                found.append(f"step {step.name!r} {text}")
        if found:
            return InvalidWorkflow("the workflow cannot run: " + "; ".join(found[:20]))
        return self.lacking(graph.steps)

    def lacking(self, steps: Iterable[Step]) -> WeftlineError | None:
        """What the steps ask for and this machine never has, or None."""
        asked: dict[Placement, str] = {}
        for step in steps:
            if type(step.action) is PythonCall:
                asked.setdefault(step.placement, step.name)
        reasons = [
            f"step {name!r} {reason}"
            for placement, name in asked.items()
            if (reason := self._executor.check(placement)) is not None
        ]
        return ResourcesUnavailable("; ".join(reasons)) if reasons else None

    # -- steps that may begin -------------------------------------------------------------------

    def start(self, active: ActiveRun, ready: Iterable[int]) -> None:
        """Start these steps as soon as there is room for them. They stay READY where the run may
        not start anything: whatever lets it do so lists them anew."""
        if not active.run.may_start:
            self.let_kept_go(active, active.kept)
            return
        steps, kept, lane = active.run.steps, active.kept, None
        queue: deque[int] = deque()
        for number in ready:
            if number in kept:
                if not self._waits_for_commit(active, steps[number]):
                    self._start_beside(active, number)
            elif number not in active.attempts:
                spec = steps[number].spec
                if lane is None or not _is_for(spec, lane):
                    lane = _lane_of(active, spec)
                    queue = self._queue(active, lane)
                queue.append(number)

    def start_again(self, active: ActiveRun, number: int) -> None:
        """Start a step that came back; not before a resume that allows it is durable."""
        if self._writer.has_unwritten(active):
            active.run.ready.appendleft(number)
            self._writer.note(active)
        else:
            lane = _lane_of(active, active.run.steps[number].spec)
            entry = Queued(active, deque([number]), active.run.generation)
            self.lanes.setdefault(lane, deque()).appendleft(entry)

    def set_aside(self, flight: InFlight, report: Starved) -> None:
        """Give the step back in a while: there is no room for its result. Tell who listens."""
        active, now = flight.active, self._clock.monotonic()
        since = active.starved.setdefault(flight.step, now)
        if since == now:
            log.warning("run %s: %s", active.run_id, report.reason)
        due = now + max(RETRY_COMMIT_S, min((now - since) / 2, RETRY_STARVED_S))
        entry = Aside(active, flight.step, active.run.generation)
        heappush(self._aside, (due, next(self._ticket), entry))
        active.tell(Stalled(since, StorageFull(ENOSPC, report.reason)))

    @property
    def next_look(self) -> float | None:
        """When (monotonic seconds) `come_back` may have the next step; None: there is none."""
        return self._aside[0][0] if self._aside else None

    def come_back(self, now: float) -> Aside | None:
        """A step that was set aside for long enough."""
        if not self._aside or self._aside[0][0] > now:
            return None
        return heappop(self._aside)[2]

    def dispatch(self) -> None:
        """Start what may start now."""
        if not self.lanes:
            return
        for lane, queue in list(self.lanes.items()):
            room = min(self._executor.room(lane), WINDOW)
            attempts = self._take(lane, queue, room) if room > 0 else []
            if attempts:
                self._executor.start(lane, attempts)
            if not queue:
                del self.lanes[lane]
            elif attempts:  # to the end, so that lanes take turns
                self.lanes[lane] = self.lanes.pop(lane)

    def _take(self, lane: Lane, queue: deque[Queued], room: int) -> list[Attempt]:
        """Attempts of the next steps of the lane, at most so many."""
        attempts: list[Attempt] = []
        while queue and len(attempts) < room:
            queued = queue[0]
            active, numbers, run = queued.active, queued.steps, queued.active.run
            # Else they are void, by a resume or by parking, or held back.
            if queued.generation == run.generation and run.may_start:
                while numbers and len(attempts) < room:
                    step = run.steps[numbers.popleft()]
                    if self._may_begin(active, step):
                        attempts.append(self._attempt(active, step, lane))
                if numbers:
                    break
            queue.popleft()
        return attempts

    def _may_begin(self, active: ActiveRun, step: StepState) -> bool:
        """Not if its scope was closed meanwhile, or it was listed twice, and has begun since."""
        if step.status is not READY and (step.status is not RUNNING or not step.may_begin):
            return False
        if step.number in active.attempts:
            return False
        return not self._waits_for_commit(active, step)

    def _queue(self, active: ActiveRun, lane: Lane) -> deque[int]:
        """Where steps of the run that are to be started in this lane are listed."""
        queue, generation = self.lanes.get(lane), active.run.generation
        if queue is None:
            queue = self.lanes[lane] = deque()
        elif queue[-1].active is active and queue[-1].generation == generation:
            return queue[-1].steps
        queued = Queued(active, deque(), generation)
        queue.append(queued)
        return queued.steps

    def _start_beside(self, active: ActiveRun, number: int) -> None:
        """Give the step to the process that waits for it."""
        step = active.run.steps[number]
        lane = _lane_of(active, step.spec)
        attempt = self._attempt(active, step, lane)
        attempt.beside = active.kept.pop(number)
        self._executor.start(lane, [attempt])

    def _waits_for_commit(self, active: ActiveRun, step: StepState) -> bool:
        """One that begins with the first success may do so beside steps that end just now: what it
        reads of them must be durable first."""
        if step.spec.join is not Join.ONE_SUCCEEDED or not self._writer.has_unwritten(active):
            return False
        active.run.ready.append(step.number)
        self._writer.note(active)
        return True

    def _attempt(self, active: ActiveRun, step: StepState, lane: Lane) -> Attempt:
        """The next attempt of the step, which the executor is to get now."""
        run, spec, number = active.run, step.spec, step.number
        action = spec.action
        assert type(action) is PythonCall
        self._last_key = key = self._last_key + 1
        active.attempts[number] = key
        self.in_flight[key] = InFlight(active, number, step.attempt + 1, lane)
        return Attempt(
            key=key,
            run_id=active.run_id,
            step=step.name,
            number=step.attempt + 1,
            call=action,
            inputs=run.inputs_of(number) if spec.inputs else [],
            timeout_s=spec.policy.timeout_s,
            forward=active.forward,
            state=run.state if action.is_writer else None,
            is_volatile=run.may_be_volatile(number),
        )

    # -- attempts that are of no use ------------------------------------------------------------

    def only_listens(self, active: ActiveRun) -> bool:
        """Whether all attempts of the run under way, if any, occupy nothing."""
        return all(self.in_flight[key].lane.listens for key in active.attempts.values())

    def drop(self, active: ActiveRun) -> None:
        """Kill the attempts of steps that are of no use any more."""
        dropped = active.run.dropped
        keys = {active.attempts.pop(n) for n in dropped if n in active.attempts}
        if active.kept:
            self.let_kept_go(active, dropped)
        dropped.clear()
        self._kill(keys)

    def let_kept_go(self, active: ActiveRun, steps: Iterable[int]) -> None:
        """Processes that wait to carry out these steps wait no more."""
        keys = {active.kept.pop(number) for number in list(steps) if number in active.kept}
        if keys:
            self._executor.kill(keys)

    def let_process_go(self, key: int) -> None:
        """The process of this attempt, which has ended, waits for no other one."""
        self._executor.kill({key})

    def forget(self, active: ActiveRun) -> None:
        """End everything that is under way of the run."""
        self.let_kept_go(active, active.kept)
        keys = set(active.attempts.values())
        active.attempts.clear()
        self._kill(keys)

    def clear(self) -> None:
        """Start nothing any more. What is under way is known here no longer."""
        # These are out of the garbage collector's sight, and would keep their runs for ever.
        self.lanes.clear()
        self.in_flight.clear()

    def _kill(self, keys: set[int]) -> None:
        under_way = {key for key in keys if self.in_flight.pop(key, None) is not None}
        if under_way:
            self._executor.kill(under_way)


def _lane_of(active: ActiveRun, spec: Step) -> Lane:
    action = spec.action
    assert type(action) is PythonCall
    return Lane(active.environment, action.function.hash, spec.placement, action.listens)


def _is_for(spec: Step, lane: Lane) -> bool:
    """Whether a step is for the lane of another one of its run: cheaper than to make its own."""
    action = spec.action
    assert type(action) is PythonCall
    return (
        action.function.hash == lane.function
        and spec.placement == lane.placement
        and action.listens == lane.listens
    )
