"""The controller of a home: one process that drives detached runs for all others.

One thread serves all drivers; the engine, on its own thread, answers them directly. Nothing here
loads a value or code of a user.
"""

import json
import logging
import os
import selectors
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from errno import EMFILE, ENFILE
from pathlib import Path
from typing import Any

import msgspec
from msgspec import DecodeError

from weftline.app import App
from weftline.control import (
    CARD,
    LOCK,
    PROTOCOL,
    SOCKET,
    Accepted,
    Adopt,
    FromDriver,
    Hello,
    NewRun,
    NotHere,
    Ping,
    Pong,
    Refused,
    RunEnded,
    StepDown,
    Submit,
    Watch,
    Welcome,
)
from weftline.controller.adoption import Adoption, has_late_news
from weftline.controller.caller import Caller
from weftline.core.graph import Graph, decode_pages, hash_pages
from weftline.driving.drive import PATIENCE_STORAGE_S
from weftline.engine.active import Ended, Gone, News, Stalled, Submission
from weftline.engine.engine import Engine
from weftline.errors import (
    ControllerRunning,
    InvalidWorkflow,
    StorageError,
    StorageFull,
    WeftlineError,
)
from weftline.filelocks import HeldFile, ShortName, hold_file, holder_of
from weftline.ports.journal import Creation
from weftline.version import __version__
from weftline.wire import pack_error

CHECK_S = 1.0
"""How often it is asked whether there is anything to do."""

MIN_IDLE_S = 0.1
"""Something that is on its way from one thread to another is seen by none for a moment."""

LOOK_AT_HOME_S = 5.0
"""How often it is asked whether the home is still the same."""

SWITCH_S = 0.0002

_LOOK_AGAIN_S = 0.1

_READ_BYTES = 1 << 18
_BACKLOG = 4096
_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE

log = logging.getLogger("weftline.controller")


class Controller:
    """Serves one home. `idle_s`: it ends after so many seconds without anything to do, and not
    before `MIN_IDLE_S`."""

    def __init__(
        self, app: App, *, idle_s: float | None = None, version: str = __version__
    ) -> None:
        home = app.settings.home
        if home is None:
            raise ControllerRunning("a home in memory has no controller: its process drives it")
        self._app, self._home, self._version = app, home, version
        self._idle_s = None if idle_s is None else max(idle_s, MIN_IDLE_S)
        self._alarm = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._is_stopping = self._was_idle = False
        self._unsent: set[Caller] = set()
        self._callers: set[Caller] = set()
        self._buffer = memoryview(bytearray(_READ_BYTES))
        self._busy_at = self._check_at = self._look_at_home_at = 0.0

    def serve(self, on_ready: Callable[[], object] | None = None) -> None:
        """Drive runs until `stop`, or until there was nothing to do for `idle_s`.

        `on_ready` is called once drivers can connect.
        Raises: ControllerRunning when another one serves the home; StorageError when the home
            cannot be used.
        """
        self._app.journal.change_count()
        held = hold_file(self._home / LOCK)
        if held is None:
            pid = holder_of(self._home / LOCK)
            raise ControllerRunning(f"controller pid {pid} serves this home already")
        try:
            with _Address(self._home, held) as address:
                self._serve(held, address.listener, on_ready)
        finally:
            held.close()

    def stop(self) -> None:
        """Let all runs go and end; may be called by any thread, and by a signal's handler."""
        self._is_stopping = True
        os.eventfd_write(self._alarm, 1)

    def _serve(
        self, held: HeldFile, listener: socket.socket, on_ready: Callable[[], object] | None
    ) -> None:
        is_again = True
        while is_again:
            self._was_idle = False
            host = self._app.engines.open()
            self._engine = host.engine
            self._write_card(host.engine_id)
            self._adoption = Adoption(self._app, host.engine)
            log.info(
                "controller %s serves %s, engine %s", self._version, self._home, host.engine_id
            )
            try:
                if on_ready is not None:
                    on_ready()
                self._loop(held, listener)
            finally:
                self._adoption.close()
                for caller in list(self._callers):
                    self._hang_up(caller)
                self._app.engines.close()
            # Who posted something while it ended found its engine alive, and leaves it at that.
            is_again = has_late_news(self._app) and self._was_idle
            on_ready = None
        log.info("the controller ends")

    def _write_card(self, engine: str) -> None:
        card = {
            "pid": os.getpid(),
            "version": self._version,
            "started_at": time.time(),
            "engine": engine,
        }
        unnamed = self._home / f".{CARD}.{os.getpid()}"
        unnamed.write_text(json.dumps(card) + "\n")
        os.replace(unnamed, self._home / CARD)

    # -- the serving thread ---------------------------------------------------------------------

    def _loop(self, held: HeldFile, listener: socket.socket) -> None:
        self._busy_at = time.monotonic()
        with selectors.DefaultSelector() as self._selector:
            self._selector.register(self._alarm, _READ)
            self._selector.register(listener, _READ)
            pause = CHECK_S if self._idle_s is None else min(CHECK_S, self._idle_s / 4)
            while not self._is_stopping:
                now = time.monotonic()
                if self._check_at <= now:
                    self._check_at = now + pause
                    self._check(held, now)
                    if self._was_idle:
                        return
                for key, mask in self._selector.select(max(0.0, self._check_at - now)):
                    if isinstance(key.data, Caller):
                        self._serve_caller(key.data, mask)
                    elif key.fileobj is listener:
                        self._let_in(listener)
                    else:
                        os.eventfd_read(self._alarm)
                while self._unsent:
                    self._send_to(self._unsent.pop())

    def _check(self, held: HeldFile, now: float) -> None:
        """See whether there is still a reason to be here.

        Raises: WeftlineError when there is something wrong with the engine or the home.
        """
        if self._engine.has_failed:
            raise WeftlineError("the engine failed; another controller goes on with its runs")
        if self._look_at_home_at <= now:
            self._look_at_home_at = now + LOOK_AT_HOME_S
            if not held.is_there:
                raise StorageError(f"{self._home / LOCK} was removed or replaced")
        is_waited_for = any(caller.waits_for for caller in self._callers)
        if is_waited_for or self._adoption.is_busy or self._engine.open_runs:
            self._busy_at = now
        if self._idle_s is not None and now - self._busy_at >= self._idle_s:
            log.info("there was nothing to do for %g s", self._idle_s)
            self._was_idle = True

    def _let_in(self, listener: socket.socket) -> None:
        try:
            connected, _ = listener.accept()
        except OSError as error:
            if error.errno in (EMFILE, ENFILE):
                log.error("no more drivers can connect: %s", error.strerror)
                time.sleep(_LOOK_AGAIN_S)  # it stays as it is until somebody goes
            return
        size = struct.calcsize("3i")
        credentials = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        pid, user, _ = struct.unpack("3i", credentials)
        if user != os.getuid():
            log.warning("process %d of user %d was turned away", pid, user)
            connected.close()
            return
        caller = Caller(connected, self._note_unsent)
        self._callers.add(caller)
        self._selector.register(connected, _READ, caller)

    def _note_unsent(self, caller: Caller) -> None:
        self._unsent.add(caller)
        os.eventfd_write(self._alarm, 1)

    def _send_to(self, caller: Caller) -> None:
        if caller not in self._callers:
            return
        is_all_sent = caller.send_more()
        if caller.is_lost:
            self._hang_up(caller)
        else:
            self._selector.modify(caller.socket, _READ if is_all_sent else _READ | _WRITE, caller)

    def _hang_up(self, caller: Caller) -> None:
        self._callers.discard(caller)
        with suppress(KeyError, ValueError):
            self._selector.unregister(caller.socket)
        caller.close()

    def _serve_caller(self, caller: Caller, mask: int) -> None:
        if mask & _WRITE:
            self._send_to(caller)
        if not mask & _READ or caller not in self._callers:
            return
        try:
            messages = caller.receive(self._buffer)
        except DecodeError as error:
            log.warning("a connection was ended that sent what is no message: %s", error)
            messages = None
        if messages is None:
            self._hang_up(caller)
            return
        for message in messages:
            if caller.has_said_hello != isinstance(message, Hello):
                self._take(caller, message)
            else:
                log.warning("a connection was ended that did not begin with a greeting, once")
                self._hang_up(caller)
                return

    # -- messages -------------------------------------------------------------------------------

    def _take(self, caller: Caller, message: FromDriver) -> None:
        self._busy_at = time.monotonic()
        match message:
            case Submit(runs=runs):
                for run in runs:
                    self._submit(caller, run)
            case Adopt(number=number, run_id=run_id, is_resume=is_resume):
                self._adopt(caller, number, run_id, is_resume)
            case Watch():
                self._watch(caller, message)
            case Ping():
                caller.send(Pong())
            case Hello(declared=declared):
                caller.greet()
                welcome = Welcome(PROTOCOL, self._version, os.getpid(), self._engine.engine_id)
                # Said by the engine, when it has what was declared: so it is known to live.
                self._app.engines.declare(declared, lambda: caller.send(welcome))
            case StepDown():
                log.info("a newer Weftline takes over")
                self.stop()

    def _submit(self, caller: Caller, run: NewRun) -> None:
        caller.waits_for.add(run.number)
        try:
            submission = _submission_of(run)
        except (DecodeError, ValueError) as error:
            text = f"the workflow cannot be read: {error}"
            _refuse(caller, run.number, InvalidWorkflow(text))
            return
        problem = self._engine.refusal_of(submission.graph)
        if problem is not None:
            _refuse(caller, run.number, problem)
            return
        submitted = _Submitted(caller, run.number, run.run_id, self._engine)
        self._engine.submit(submission, submitted.listen, on_accepted=submitted.accept)

    def _adopt(self, caller: Caller, number: int, run_id: str, is_resume: bool) -> None:
        caller.waits_for.add(number)

        def answer(found: WeftlineError | tuple[str, ...]) -> None:
            if isinstance(found, WeftlineError):
                _refuse(caller, number, found)
            else:
                caller.waits_for.discard(number)
                caller.send(Accepted(number, found))

        self._adoption.adopt(run_id, is_resume, answer)

    def _watch(self, caller: Caller, watch: Watch) -> None:
        run_id, name = watch.run_id, watch.name
        caller.waits_for.add((run_id, name))

        def tell(news: News) -> None:
            if isinstance(news, Ended | Gone):
                caller.waits_for.discard((run_id, name))
                caller.send(_ending(run_id, name, news))

        def tell_or_find(news: News) -> None:
            if isinstance(news, Gone):
                self._adoption.watch(run_id, name, tell)
            else:
                tell(news)

        self._engine.watch(run_id, name, tell_or_find, is_expected=watch.is_expected)


def serve_here(
    app: App, idle_s: float | None, on_ready: Callable[[], object], *more: signal.Signals
) -> None:
    """Be the controller with the whole process, until a signal says to end (`more` beside SIGINT
    and SIGTERM), or there was nothing to do for `idle_s`; as `Controller.serve`."""
    # Two threads take turns at short work. Whoever has just got an answer to pass on shall not wait
    # until the other one has used up the usual 5 ms.
    sys.setswitchinterval(SWITCH_S)
    try:
        controller = Controller(app, idle_s=idle_s)
        for each in (signal.SIGTERM, signal.SIGINT, *more):
            signal.signal(each, lambda *_: controller.stop())
        controller.serve(on_ready)
    finally:
        app.close()


class _Submitted:
    """Tells a driver what becomes of a run that it submitted."""

    __slots__ = ("_caller", "_engine", "_is_answered", "_number", "_run_id")

    def __init__(self, caller: Caller, number: int, run_id: str, engine: Engine) -> None:
        self._caller, self._number, self._run_id = caller, number, run_id
        self._engine = engine
        self._is_answered = False

    def accept(self) -> None:
        self._is_answered = True
        self._caller.waits_for.discard(self._number)
        self._caller.send(Accepted(self._number))

    def listen(self, news: News) -> None:
        if self._is_answered:
            if isinstance(news, Ended | Gone):
                self._caller.send(_ending(self._run_id, None, news))
        elif isinstance(news, Gone):
            self._refuse(news.error)
        elif isinstance(news, Stalled):
            waited = time.monotonic() - news.since
            if waited >= PATIENCE_STORAGE_S:
                text = getattr(news.error, "strerror", None) or str(news.error)
                self._refuse(StorageFull(f"{text}; run {self._run_id!r} was not accepted"))
                self._engine.let_go(self._run_id, _nothing)

    def _refuse(self, error: WeftlineError) -> None:
        self._is_answered = True
        _refuse(self._caller, self._number, error)


class _Address:
    """The controller's socket, and what else of it is to be found in the home while it serves."""

    def __init__(self, home: Path, held: HeldFile) -> None:
        self._home, self._held = home, held
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    def __enter__(self) -> "_Address":
        path = self._home / SOCKET
        try:
            path.unlink(missing_ok=True)
            with ShortName(self._home) as short:
                self.listener.bind(f"{short}/{SOCKET}")
            path.chmod(0o600)
            self.listener.listen(_BACKLOG)
            self.listener.setblocking(False)
        except BaseException:
            self.listener.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.close()
        if self._held.is_there:  # else they are another one's
            for name in (SOCKET, CARD):
                with suppress(OSError):
                    (self._home / name).unlink(missing_ok=True)


def _submission_of(run: NewRun) -> Submission:
    """The run as the engine takes it. Raises: msgspec.DecodeError."""
    creation = Creation(
        workflow=run.workflow,
        created_at=run.created_at,
        environment=run.environment,
        metadata=msgspec.json.decode(run.metadata, type=dict[str, Any]),
        detached=True,
    )
    return Submission(
        run_id=run.run_id,
        creation=creation,
        graph=Graph(steps=decode_pages(run.pages), output=run.output),
        graph_hash=hash_pages(run.pages),
        pages=run.pages,
        objects=run.objects,
        warnings=run.warnings,
        is_actor=run.is_actor,
        group=run.group,
    )


def _refuse(caller: Caller, number: int, error: WeftlineError) -> None:
    caller.waits_for.discard(number)
    text = getattr(error, "strerror", None) or str(error)
    caller.send(Refused(number, f"{type(error).__module__}.{type(error).__name__}", text))


def _ending(run_id: str, name: str | None, news: Ended | Gone) -> RunEnded | NotHere:
    if isinstance(news, Gone):
        return NotHere(run_id, name)
    error = None if news.error is None else pack_error(news.error)
    return RunEnded(run_id, name, news.status, news.value, error, news.step, news.reason)


def _nothing() -> None:
    """Nobody waits for it."""
