"""Attempts for an executor, and a driver of executors that is no engine."""

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from errno import ENOSPC
from pathlib import Path
from typing import Any

from weftline.adapters.objects.local import LocalObjectStore
from weftline.code.functions import dump_function
from weftline.codecs.arguments import capture_arguments
from weftline.codecs.values import decode, encode
from weftline.core.actions import PythonCall
from weftline.core.environment import Environment
from weftline.core.policy import DEFAULT_PLACEMENT, Placement
from weftline.errors import StorageFull
from weftline.ports.executor import (
    Attempt,
    Done,
    Executor,
    GivenBack,
    Lane,
    Refused,
    Report,
    Started,
    Succeeded,
)
from weftline.ports.objects import ObjectStore
from weftline.workers.children import Children
from weftline.workers.slots import Slots

PATIENCE_S = 60.0
"""How long anything may take before a test gives up on it; none waits for it to pass."""


def environment_here(**changed: Any) -> Environment:
    found: dict[str, Any] = {
        "python": sys.executable,
        "sys_path": tuple(sys.path),
        "cwd": os.getcwd(),
    }
    return Environment(**(found | changed))


class Attempts:
    """Makes attempts, and drives them through an executor."""

    def __init__(self, executor: Executor, objects: ObjectStore) -> None:
        self.executor, self.objects = executor, objects
        self.environment = environment_here()
        self._last_key = 0

    def call(
        self,
        function: Callable[..., Any],
        *args: Any,
        retry_on: Any = None,
        listens: bool = False,
        **kwargs: Any,
    ) -> PythonCall:
        code = dump_function(function, self.objects)
        captured, _ = capture_arguments(args, kwargs, self.objects, is_hole, label="test")
        classes = None if retry_on is None else encode(retry_on, self.objects).packed
        return PythonCall(
            code.value, captured.arguments, code.fingerprint, captured.plain, classes, listens
        )

    def make(
        self,
        function: Callable[..., Any] | PythonCall,
        *args: Any,
        inputs: Iterable[bytes] = (),
        timeout_s: float | None = None,
        forward: bool = False,
        step: str = "step",
        run_id: str = "run",
        number: int = 1,
        retry_on: Any = None,
        listens: bool = False,
        state: bytes | None = None,
        is_volatile: bool = False,
        beside: int | None = None,
        **kwargs: Any,
    ) -> Attempt:
        self._last_key += 1
        if isinstance(function, PythonCall):
            call = function
        else:
            call = self.call(function, *args, retry_on=retry_on, listens=listens, **kwargs)
        return Attempt(
            key=self._last_key,
            run_id=run_id,
            step=step,
            number=number,
            call=call,
            inputs=list(inputs),
            timeout_s=timeout_s,
            forward=forward,
            state=state,
            is_volatile=is_volatile,
            beside=beside,
        )

    def lane(self, attempt: Attempt, placement: Placement = DEFAULT_PLACEMENT) -> Lane:
        call = attempt.call
        return Lane(self.environment, call.function.hash, placement, call.listens)

    def start(self, *attempts: Attempt, placement: Placement = DEFAULT_PLACEMENT) -> None:
        """Have the executor take them on at once, whatever room it has."""
        self.executor.start(self.lane(attempts[0], placement), list(attempts))

    def wait_for(self, condition: Callable[[list[Report]], Any]) -> list[Report]:
        """All reports until the condition holds for them."""
        reports: list[Report] = []
        deadline = time.monotonic() + PATIENCE_S
        while not condition(reports):
            if time.monotonic() > deadline:
                raise TimeoutError(f"not in {PATIENCE_S:g} s; there were {reports}")
            reports += self.executor.wait(1.0)
        return reports

    def drive(
        self, *attempts: Attempt, placement: Placement = DEFAULT_PLACEMENT
    ) -> dict[int, list[Report]]:
        """What was reported on each attempt, all of them being done; 0: on environments.

        What is given back is started again, as an engine would; news of others is left out.
        """
        by_key = {attempt.key: attempt for attempt in attempts}
        left = set(by_key)
        reports: dict[int, list[Report]] = {key: [] for key in [0, *by_key]}
        lanes: dict[Lane, deque[Attempt]] = {}
        for attempt in attempts:
            lanes.setdefault(self.lane(attempt, placement), deque()).append(attempt)
        deadline = time.monotonic() + PATIENCE_S
        while left:
            for lane, queue in lanes.items():
                room = self.executor.room(lane) if queue else 0
                if room > 0:
                    count = min(room, len(queue))
                    self.executor.start(lane, [queue.popleft() for _ in range(count)])
            for report in self.executor.wait(1.0):
                if isinstance(report, Refused):
                    reports[0].append(report)
                    return reports
                if report.key not in by_key:
                    continue
                reports[report.key].append(report)
                if isinstance(report, GivenBack):
                    attempt = by_key[report.key]
                    lanes[self.lane(attempt, placement)].appendleft(attempt)
                elif isinstance(report, Done):
                    left.remove(report.key)  # an attempt that is done twice is an error
            if time.monotonic() > deadline:
                raise TimeoutError(f"not in {PATIENCE_S:g} s: {left}")
        return reports

    def end_of(self, attempt: Attempt, placement: Placement = DEFAULT_PLACEMENT) -> Report:
        """The last report on one attempt that is driven alone."""
        reports = self.drive(attempt, placement=placement)
        return (reports[attempt.key] + reports[0])[-1]

    def value_of(
        self, function: Callable[..., Any], *args: Any, placement: Placement = DEFAULT_PLACEMENT
    ) -> Any:
        """What the function returns when it is called as an attempt."""
        report = self.end_of(self.make(function, *args), placement)
        assert isinstance(report, Succeeded), report
        return decode(report.value, self.objects)

    def value_of_listening(self, function: Callable[..., Any], *args: Any) -> Any:
        """What a function returns that is awaited beside others; reports on those are lost."""
        report = self.end_of(self.make(function, *args, listens=True))
        assert isinstance(report, Succeeded), report
        return decode(report.value, self.objects)


class FullObjects(LocalObjectStore):
    """A store that has no room as long as there is a file `full` in it. It notes in a file `loose`
    the names of objects that need not survive."""

    def put(self, content: bytes, *, durable: bool = True) -> str:
        self._look()
        return super().put(content, durable=durable)

    def writer(self, *, durable: bool = True) -> Any:
        self._look()
        writer: Any = super().writer(durable=durable)
        if not durable:
            commit = writer.commit

            def noting_commit() -> str:
                name: str = commit()
                with open(self.root / "loose", "a") as file:
                    file.write(f"{name}\n")
                return name

            writer.commit = noting_commit
        return writer

    def _look(self) -> None:
        if (self.root / "full").exists():
            raise StorageFull(ENOSPC, "there is no room")


def ends_of(reports: Iterable[Report]) -> dict[int, Done]:
    """What became of attempts, by key."""
    return {each.key: each for each in reports if isinstance(each, Done)}


def done(reports: Iterable[Report], *keys: int) -> bool:
    """Whether all of them have come to an end."""
    return ends_of(reports).keys() >= set(keys)


def kinds(reports: Iterable[Report]) -> list[str]:
    """What was told, but for starts: on a busy machine any attempt may take so long that its start
    is told. That happens once, and before it is told what became of it."""
    found: list[str] = []
    barred: set[int] = set()
    for each in reports:
        if isinstance(each, Started):
            assert each.key not in barred, f"a start is told twice, or after the end: {each}"
            barred.add(each.key)
            continue
        found.append(type(each).__name__)
        if isinstance(each, GivenBack):
            barred.discard(each.key)  # it may be started again
        elif isinstance(each, Done):
            barred.add(each.key)
    return found


def is_hole(thing: object) -> bool:
    return False


def make_children(home: Path, slots: Slots, engine: str = "engine", **changed: Any) -> Children:
    """Children with a home of their own. The store is in its folder `objects`."""
    (home / "objects").mkdir(parents=True, exist_ok=True)
    given: dict[str, Any] = {
        "home": home,
        "engine": engine,
        "objects_factory": f"{__name__}:{FullObjects.__name__}",
        "objects_root": str(home / "objects"),
        "slots": slots,
    }
    return Children(**(given | changed))


def open_objects(home: Path) -> FullObjects:
    (home / "objects").mkdir(parents=True, exist_ok=True)
    return FullObjects(home / "objects")
