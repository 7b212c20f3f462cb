"""Handles: runs, steps and calls whose value somebody wants, and references to stored values."""

import threading
import time
from collections.abc import Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future
from concurrent.futures import wait as wait_for_futures
from typing import Any, Generic, TypeVar

from weftline.api.checks import checked_seconds
from weftline.app import home
from weftline.codecs.references import ObjectRef
from weftline.codecs.references import put as put_object
from weftline.codecs.values import decode
from weftline.core.events import RunStatus
from weftline.engine.active import Ended, Gone

T = TypeVar("T")


class RunHandle(Future[T], Generic[T]):
    """A run, one step of it, or one call of an actor, whose value can be asked for.

    It is a `concurrent.futures.Future`, so that `concurrent.futures.wait` and `as_completed` take
    it, and it can be awaited. Asking never drives the run; letting go of the handle never stops
    it. It can be pickled, and asks afresh where it is loaded.
    """

    def __init__(self, workflow_id: str, name: str | None = None) -> None:
        self._is_followed = True
        super().__init__()
        self._is_followed = False
        self.workflow_id = workflow_id
        self._name = name
        self._follow_lock = threading.Lock()

    def result(self, timeout: float | None = None) -> T:
        """The value, as soon as there is one.

        Raises: the error that the run (or step) ended with; TimeoutError after `timeout` seconds.
        """
        ended = self._ended(timeout)
        return home().results.result_of(self.workflow_id, ended, self._name)  # type: ignore[no-any-return]

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What `result` raises; None when there is a value. Raises: TimeoutError."""
        ended = self._ended(timeout)
        if ended.status is RunStatus.SUCCESSFUL:
            return None
        try:
            home().results.result_of(self.workflow_id, ended, self._name)
        except BaseException as error:
            return error
        return None

    def status(self) -> RunStatus:
        """The run's status now. Raises: WorkflowNotFoundError."""
        app = home()
        return app.owners.status_of(app.records.get_run(self.workflow_id))

    def cancel(self) -> bool:
        """End the run: what runs of it is killed, and nothing of it starts any more.

        Returns: whether it is CANCELED now; it may have ended just before.
        """
        app = home()
        app.steering.cancel(self.workflow_id)
        return app.owners.status_of(app.records.get_run(self.workflow_id)) is RunStatus.CANCELED

    def __await__(self) -> Generator[Any, None, T]:
        """The value, without holding up the event loop. Canceling whoever awaits changes nothing
        for the run."""
        import asyncio  # 60 ms that only those need who have imported it already

        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()

        def tell() -> None:
            if not ended.done():
                ended.set_result(None)

        def wake(_: Future[T]) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(tell)

        self.add_done_callback(wake)
        yield from ended
        return self.result(0)

    def __repr__(self) -> str:
        of = f" {self._name!r}" if self._name else ""
        return f"<workflow run {self.workflow_id!r}{of}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return RunHandle, (self.workflow_id, self._name)

    # -- how it ends ----------------------------------------------------------------------------

    def settle(self, ended: "Ended | Gone") -> None:
        """Take note of how the run, step or call has ended; any further time nothing happens."""
        condition = self.__dict__["_condition_"]
        with condition:
            if self.done():
                return
        super().set_result(ended)  # type: ignore[arg-type]

    def followed(self) -> "RunHandle[T]":
        """The same handle, whose end is told to it by whoever made it."""
        self._is_followed = True
        return self

    def _ended(self, timeout: float | None) -> Ended:
        try:
            ended: Any = super().result(timeout)
        except TimeoutError:
            # Whoever watches it may not have heard yet of what is recorded already.
            if (found := home().ends.find(self.workflow_id, self._name)) is not None:
                self.settle(found)
                return found
            what = f"{self._name!r} of run" if self._name else "run"
            text = f"{what} {self.workflow_id!r} has no result after {timeout:g} s"
            raise TimeoutError(text) from None
        if isinstance(ended, Gone):
            raise ended.error
        assert isinstance(ended, Ended)
        return ended

    def _follow(self) -> None:
        with self._follow_lock:
            if self._is_followed:
                return
            self._is_followed = True
        home().ends.watch(self.workflow_id, self._name, self.settle)

    # Whoever waits, in whichever way, takes this lock first: only then is the run followed.
    @property
    def _condition(self) -> threading.Condition:
        if not self._is_followed:
            self._follow()
        condition: threading.Condition = self.__dict__["_condition_"]
        return condition

    @_condition.setter
    def _condition(self, condition: threading.Condition) -> None:
        self.__dict__["_condition_"] = condition


# Pickled handles name their class by this module, which never changes.
RunHandle.__module__ = "weftline.workflow"


def put(value: Any) -> ObjectRef:
    """Store a value, once however often it is used, and return a reference to it.

    A reference that is itself an argument of a step arrives there as the value; inside a list or
    another object it stays a reference. A step that returns one returns the value.

    The value is kept for as long as a run uses it. One that no run uses is kept for 24 hours after
    it was last stored; after that `weft gc` may remove it.
    Raises: TypeError for a reference; ValueError for what cannot be pickled.
    """
    return put_object(value, home().objects)


def get(what: Any, timeout: float | None = None) -> Any:
    """The value of a reference or handle, or the list of values of a list of them.

    Raises: what the run failed of; TimeoutError after `timeout` seconds; TypeError for anything
        else.
    """
    if timeout is not None:
        timeout = checked_seconds(timeout, "timeout")
    if isinstance(what, list | tuple):
        deadline = None if timeout is None else time.monotonic() + timeout
        return [_value(one, _left(deadline)) for one in what]
    return _value(what, timeout)


def _value(what: Any, timeout: float | None) -> Any:
    if isinstance(what, ObjectRef):
        return decode(what.packed, home().objects)
    if isinstance(what, RunHandle):
        return what.result(timeout)
    raise TypeError(f"get takes references and handles, not {type(what).__name__}")


def wait(
    handles: Sequence[Any], *, num_returns: int = 1, timeout: float | None = None
) -> tuple[list[Any], list[Any]]:
    """Those of the handles (or references) that are ready, and the others, both in order.

    Returns as soon as `num_returns` are, at most so many, or after `timeout` seconds.
    Raises: TypeError, ValueError for anything but a list of different handles.
    """
    if not isinstance(handles, list | tuple):
        raise TypeError(f"wait takes a list of handles, not {type(handles).__name__}")
    if not all(isinstance(one, RunHandle | ObjectRef) for one in handles):
        raise TypeError("wait takes a list of references and handles")
    if len(set(map(id, handles))) < len(handles):
        raise ValueError("wait takes each handle once")
    if not 1 <= num_returns <= len(handles):
        raise ValueError(f"num_returns={num_returns} must be from 1 to {len(handles)}")
    if timeout is not None:
        timeout = checked_seconds(timeout, "timeout")
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        ready = [one for one in handles if isinstance(one, ObjectRef) or one.done()][:num_returns]
        left = _left(deadline)
        if len(ready) == num_returns or left == 0.0:
            chosen = set(map(id, ready))
            return ready, [one for one in handles if id(one) not in chosen]
        waiting = [one for one in handles if isinstance(one, RunHandle) and not one.done()]
        wait_for_futures(waiting, left, FIRST_COMPLETED)


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())
