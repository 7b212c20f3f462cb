"""What this process says to the controller of its home, over one connection for all threads.

The connection is made, and the controller started, when there is something to say. When it breaks,
what was not answered is said again to the next controller, and whoever waits for the end of a run
goes on waiting.
"""

import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from weakref import WeakSet

from weftline.control import (
    Accepted,
    Adopt,
    Declared,
    FromController,
    NewRun,
    NotHere,
    Ping,
    Refused,
    RunEnded,
    Submit,
    Watch,
)
from weftline.engine.active import Ended, Gone
from weftline.errors import (
    ControllerUnavailable,
    WeftlineError,
    WorkflowError,
    WorkflowRunningError,
    find_error,
)
from weftline.link.contact import ANSWER_WITHIN_S, Contact, reach
from weftline.ports.journal import RunCatalogue, RunRecord
from weftline.version import __version__
from weftline.wire import unpack_error

MAX_SUBMIT_BYTES = 1 << 26
"""New runs are told in messages of about this size."""

Listener = Callable[[Ended | Gone], None]
"""Called on a thread of the link: it must not block, nor call the link."""

_Key = tuple[str, str | None]


class _Asked:
    """Something about one run that the controller has not answered yet."""

    __slots__ = ("answer", "group", "is_repeated", "listener", "message", "sent_to")

    def __init__(self, message: NewRun | Adopt, listener: Listener | None, group: "_Group") -> None:
        self.message, self.listener, self.group = message, listener, group
        self.sent_to: Contact | None = None
        self.is_repeated = False
        """Whether a controller that is gone may have done it."""
        self.answer: Accepted | WeftlineError | None = None


class _Group:
    """What was asked at once; `done` is set when all of it is answered."""

    __slots__ = ("done", "left")

    def __init__(self, count: int) -> None:
        self.left, self.done = count, threading.Event()
        if not count:
            self.done.set()


class _Watched:
    """A run, or a step of one, of which somebody wants to know how it ends."""

    __slots__ = ("is_expected", "listeners", "sent_to")

    def __init__(self, is_expected: bool = False) -> None:
        self.is_expected = is_expected
        self.listeners: list[Listener] = []
        self.sent_to: Contact | None = None


class Link:
    """Speaks to the controller of a home. May be used by any thread."""

    def __init__(
        self,
        home: Path,
        journal: RunCatalogue,
        *,
        declared: Declared,
        variables: Mapping[str, str],
        version: str = __version__,
    ) -> None:
        """`variables` are what a controller that is started from here is told."""
        self._home, self._journal, self._version = home, journal, version
        self._declared, self._variables = declared, dict(variables)
        self._lock = threading.Lock()  # of all below
        self._contact: Contact | None = None
        self._asked: dict[int, _Asked] = {}
        self._watched: dict[_Key, _Watched] = {}
        self._is_closed = False
        self._reaching = threading.Lock()  # held by who makes a connection
        self._numbers = count(1)
        _links.add(self)

    # -- asking ---------------------------------------------------------------------------------

    def next_number(self) -> int:
        """A number for a message."""
        return next(self._numbers)

    def submit(
        self, runs: Sequence[NewRun], listeners: Sequence[Listener]
    ) -> list[WeftlineError | None]:
        """Have new runs driven; returns when each is durable (None) or refused (why).

        Each listener of a durable one is told once how it ends, or that nobody tells.
        Raises: ControllerUnavailable.
        """
        group = _Group(len(runs))
        asked = [_Asked(*each, group) for each in zip(runs, listeners, strict=True)]
        self._ask(asked, group)
        return [each.answer if isinstance(each.answer, WeftlineError) else None for each in asked]

    def adopt(self, run_ids: Iterable[str], *, is_resume: bool) -> list[Accepted | WeftlineError]:
        """Have recorded runs driven; for each what the controller says.

        Raises: ControllerUnavailable.
        """
        messages = [Adopt(self.next_number(), run_id, is_resume) for run_id in run_ids]
        group = _Group(len(messages))
        asked = [_Asked(message, None, group) for message in messages]
        self._ask(asked, group)
        return [each.answer for each in asked if each.answer is not None]

    def watch(
        self, run_id: str, name: str | None, listener: Listener, *, is_expected: bool = False
    ) -> None:
        """Tell the listener once how the run, or its step or call, ends; `Gone` when the
        controller does not drive it, or cannot be reached. Never waits. `is_expected`: the call
        is made after this."""
        with self._lock:
            watched = self._watched.setdefault((run_id, name), _Watched(is_expected))
            watched.listeners.append(listener)
            contact = self._contact
        if contact is None:
            threading.Thread(target=self._find, name="weftline-link", daemon=True).start()
            return
        with suppress(ControllerUnavailable):  # then it is said to the next one
            self._send_watches(contact)

    def _find(self) -> None:
        try:
            self._reach()
        except WeftlineError as error:
            self._give_up(error)

    def ensure(self) -> int:
        """The id of the controller's process, which is started if there is none.

        Raises: ControllerUnavailable.
        """
        return self._reach().pid

    def close(self) -> None:
        """Say nothing more; whoever still waits is told that nobody tells."""
        with self._lock:
            self._is_closed = True
            contact = self._contact
        if contact is not None:
            contact.hang_up()

    def _ask(self, asked: list[_Asked], group: _Group) -> None:
        with self._lock:
            for each in asked:
                self._asked[each.message.number] = each
        try:
            while self._send_asked(self._reach(), asked):
                pass
            self._wait(group)
        finally:
            with self._lock:
                for each in asked:
                    self._asked.pop(each.message.number, None)

    def _wait(self, group: _Group) -> None:
        """Wait for all answers, and see now and then that the controller lives."""
        while not group.done.wait(ANSWER_WITHIN_S):
            contact = self._contact
            if contact is None:
                continue  # another one is being found
            pinged_at = time.monotonic()
            contact.send(Ping())
            if group.done.wait(ANSWER_WITHIN_S):
                return
            if contact is self._contact and contact.heard_at < pinged_at:
                raise contact.stuck()

    # -- sending --------------------------------------------------------------------------------

    def _send_asked(self, contact: Contact, asked: Iterable[_Asked]) -> bool:
        """Send what was not sent yet; whether another contact is needed for that."""
        with self._lock:
            if contact is not self._contact:
                return True
            fresh = [each for each in asked if each.sent_to is None and each.answer is None]
            for each in fresh:
                each.sent_to = contact
        runs: list[NewRun] = []
        size = 0
        for each in fresh:
            if isinstance(each.message, Adopt):
                contact.send(each.message)
                continue
            runs.append(each.message)
            size += sum(map(len, each.message.pages))
            if size >= MAX_SUBMIT_BYTES:
                contact.send(Submit(runs))
                runs, size = [], 0
        if runs:
            contact.send(Submit(runs))
        return False

    def _send_watches(self, contact: Contact) -> None:
        with self._lock:
            if contact is not self._contact:
                return  # whoever finds the next one sends them all
            fresh = [key for key, each in self._watched.items() if each.sent_to is not contact]
            messages = []
            for key in fresh:
                watched = self._watched[key]
                messages.append(Watch(*key, is_expected=watched.is_expected))
                # Another controller may be told of it when it has long been made.
                watched.sent_to, watched.is_expected = contact, False
        for message in messages:
            contact.send(message)

    # -- the connection -------------------------------------------------------------------------

    def _reach(self) -> Contact:
        """The connection; made if there is none. Raises: ControllerUnavailable."""
        contact = self._contact
        if contact is not None:
            return contact
        with self._reaching:
            if self._contact is not None:
                return self._contact
            if self._is_closed:
                raise ControllerUnavailable("this process has let go of its home")
            contact, _ = reach(self._home, self._version, self._declared, self._variables)
            with self._lock:
                self._contact = contact
                doubtful = [
                    each
                    for each in self._asked.values()
                    if each.sent_to is not None and each.answer is None
                ]
            threading.Thread(
                target=self._read, args=(contact,), name="weftline-link", daemon=True
            ).start()
        self._repeat(contact, doubtful)
        self._send_watches(contact)
        return contact

    def _read(self, contact: Contact) -> None:
        problem: WeftlineError | None = None
        try:
            while (messages := contact.receive()) is not None:
                for message in messages:
                    self._take(contact, message)
        except ControllerUnavailable as error:
            problem = error
        except OSError:
            pass  # closed under us
        self._lose(contact, problem)

    def _lose(self, contact: Contact, problem: WeftlineError | None) -> None:
        """The connection has ended; whoever waits is served by another one."""
        with self._lock:
            if self._contact is not contact:
                return
            self._contact = None
            is_asked = any(each.answer is None for each in self._asked.values())
            is_needed = (is_asked or bool(self._watched)) and not self._is_closed
        contact.close()
        try:
            if problem is not None:
                raise problem
            if is_needed:
                self._reach()
                return
            problem = ControllerUnavailable("this process has let go of its home")
        except WeftlineError as error:
            problem = error
        self._give_up(problem)

    def _give_up(self, problem: WeftlineError) -> None:
        with self._lock:
            asked, watched = list(self._asked.values()), self._watched
            self._watched = {}
        for each in asked:
            if each.sent_to is not None:
                self._settle(each, problem)
        for one in watched.values():
            for listener in one.listeners:
                listener(Gone(problem))

    def _repeat(self, contact: Contact, doubtful: list[_Asked]) -> None:
        """Ask again what another controller may have done already."""
        for each in doubtful:
            each.is_repeated = True
            message = each.message
            try:
                if isinstance(message, NewRun):
                    record = self._journal.find_run(message.run_id)
                    if record is not None:
                        self._accept_or_refuse(each, record)
                        continue
            except WeftlineError as error:
                self._settle(each, error)
                continue
            each.sent_to = None
        self._send_asked(contact, doubtful)

    def _accept_or_refuse(self, asked: _Asked, record: RunRecord) -> None:
        """The id is taken: by this very run, or by another one?"""
        message = asked.message
        assert isinstance(message, NewRun)
        if is_that(record, message):
            self._settle(asked, Accepted(message.number))
            contact = self._contact
            if contact is not None:
                with suppress(ControllerUnavailable):
                    self._send_watches(contact)
        else:
            text = f"the workflow id {message.run_id!r} is in use already"
            self._settle(asked, WorkflowRunningError(text, message.run_id))

    # -- being told -----------------------------------------------------------------------------

    def _take(self, contact: Contact, message: FromController) -> None:
        match message:
            case Accepted(number=number) | Refused(number=number):
                self._answer(contact, number, message)
            case RunEnded(run_id=run_id, name=name):
                self._tell((run_id, name), _ended_of(message))
            case NotHere(run_id=run_id, name=name):
                text = f"run {run_id!r} is not driven by the controller"
                self._tell((run_id, name), Gone(WorkflowError(text, run_id)))

    def _answer(self, contact: Contact, number: int, answer: Accepted | Refused) -> None:
        asked = self._asked.get(number)
        if asked is None:
            return
        if isinstance(answer, Accepted):
            self._settle(asked, answer, contact)  # which tells by itself how the run ends
            return
        error = _error_of(answer, asked.message.run_id)
        if asked.is_repeated and isinstance(error, WorkflowRunningError):
            # It may well be this very call that made it so.
            if isinstance(asked.message, Adopt):
                self._settle(asked, Accepted(number))
                return
            record = self._journal.find_run(asked.message.run_id)
            if record is not None:
                self._accept_or_refuse(asked, record)
                return
        self._settle(asked, error)

    def _settle(
        self, asked: _Asked, answer: Accepted | WeftlineError, teller: Contact | None = None
    ) -> None:
        with self._lock:
            if asked.answer is not None:
                return
            asked.answer = answer
            if asked.listener is not None and isinstance(answer, Accepted):
                watched = self._watched.setdefault((asked.message.run_id, None), _Watched())
                watched.listeners.append(asked.listener)
                watched.sent_to = teller or watched.sent_to
            asked.group.left -= 1
            is_done = asked.group.left == 0
        if is_done:
            asked.group.done.set()

    def _tell(self, key: _Key, news: Ended | Gone) -> None:
        with self._lock:
            watched = self._watched.pop(key, None)
        for listener in () if watched is None else watched.listeners:
            listener(news)

    def leave_parent(self) -> None:
        """In a forked child: have no part in the connection."""
        if self._contact is not None:
            self._contact.leave()


def is_that(record: RunRecord, run: NewRun) -> bool:
    """Whether the record is of this submission, and not of another one with its id."""
    creation = record.creation
    return (creation.created_at, creation.workflow, creation.environment) == (
        run.created_at,
        run.workflow,
        run.environment,
    )


def _ended_of(message: RunEnded) -> Ended:
    error = None if message.error is None else unpack_error(message.error)
    return Ended(message.status, message.value, error, message.step, message.reason)


def _error_of(refused: Refused, run_id: str) -> WeftlineError:
    kind = find_error(refused.error) or WorkflowError
    if issubclass(kind, WorkflowError):
        return kind(refused.text, run_id)
    return kind(refused.text)


_links: WeakSet[Link] = WeakSet()


def _after_fork_in_child() -> None:
    for link in list(_links):
        link.leave_parent()


os.register_at_fork(after_in_child=_after_fork_in_child)
