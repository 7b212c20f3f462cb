"""The main of a child: carries out the calls of its engine, one after the other.

It says nothing while all goes quickly: outcomes are gathered and sent together, when there is
nothing else to do or the first is a millisecond old. A second thread exists only once several calls
came together, and looks after them: none waits long behind one that takes its time.
"""

import ctypes
import faulthandler
import fcntl
import importlib
import mmap
import os
import sys
import types
from _thread import allocate_lock, start_new_thread
from collections import deque
from io import TextIOWrapper
from pathlib import Path
from time import monotonic, sleep, time
from typing import TextIO, cast

from weftline.core.events import LogRange
from weftline.ports.objects import ObjectStore
from weftline.version import __version__
from weftline.wire import (
    CHANNEL_FD,
    PAGE,
    PAGE_BYTES,
    PAGE_FD,
    Call,
    Hello,
    NotBegun,
    Outcome,
    Ready,
    Work,
)
from weftline.workers.attempt import carry_out
from weftline.workers.channel import Channel

MAX_UNSENT_AGE_S = 0.001
MAX_UNSENT = 32
SHORT_S = 0.001
"""Functions that take less on average may be begun while outcomes are unsent."""
UNKNOWN_S = float("inf")
PATIENCE_S = 0.02
"""How long a frame may run before those of it that have not begun are given back."""

_PR_SET_PDEATHSIG, _SIGKILL = 1, 9
_IOLBF = 1


def main(parent: int) -> None:
    """Carry out calls until the engine, the process `parent`, hangs up or ends."""
    _die_with(parent)
    os.set_inheritable(CHANNEL_FD, False)
    page = mmap.mmap(PAGE_FD, PAGE_BYTES)
    os.close(PAGE_FD)
    channel = Channel()
    channel.send(Ready(__version__, sys.executable))
    first = channel.receive()
    if not first:
        return
    hello = cast(Hello, first.pop(0))
    # Kept open, and so locked, for as long as this process lives.
    lock = os.open(hello.lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    _settle_in(hello)
    objects = _open_objects(hello)
    if hello.listens:
        # It needs asyncio, which takes 60 ms and 5 MB that others never miss.
        from weftline.workers.listener import listen_to

        if not listen_to(channel, first, objects):
            flush_output()
            os._exit(0)
    else:
        worker = _Worker(channel, page, objects, hello.worker)
        worker.run(cast(list[Work], first))
    flush_output()


def _die_with(parent: int) -> None:
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
    # What C libraries print is to be in the file when the attempt ends, as what Python prints is.
    try:
        libc.setvbuf(ctypes.c_void_p.in_dll(libc, "stdout"), None, _IOLBF, 0)
    except ValueError:  # a libc that does not call it so
        pass


def _settle_in(hello: Hello) -> None:
    """Make this process look like the one that submitted the run."""
    faulthandler.enable()
    for stream in (sys.stdout, sys.stderr):
        assert isinstance(stream, TextIOWrapper)
        stream.reconfigure(encoding="utf-8", line_buffering=True)
    try:
        os.chdir(hello.cwd)
    except OSError as error:
        sys.stderr.write(
            f"weftline: the folder {hello.cwd} cannot be used ({error.strerror}):"
            f" steps run in {hello.home}\n"
        )
        os.chdir(hello.home)
    sys.argv = [""]
    # Classes that a user's `__main__` defines are made anew in an empty one.
    sys.modules["__main__"] = types.ModuleType("__main__")


def _open_objects(hello: Hello) -> ObjectStore:
    module, _, name = hello.factory.partition(":")
    store = getattr(importlib.import_module(module), name)(Path(hello.objects))
    return cast(ObjectStore, store)


class _Worker:
    """Carries out calls, and sends what came of them."""

    def __init__(self, channel: Channel, page: mmap.mmap, objects: ObjectStore, name: str) -> None:
        self._channel, self._page, self._objects, self._name = channel, page, objects, name
        self._pid, self._folder = os.getpid(), os.getcwd()
        self._calls: deque[tuple[Work, Call]] = deque()
        self._unsent: list[Outcome | NotBegun] = []
        self._unsent_since = 0.0
        self._averages: dict[str, float] = {}
        self._out, self._err = sys.stdout, sys.stderr
        self._ends = 0, 0  # of what was written to stdout and stderr so far
        # Held to send, to add to what is sent, and to change from running to idle and back.
        self._mutex = allocate_lock()
        self._is_idle = True
        self._frame_begun = 0.0
        self._frame: Work | None = None
        self._is_watched = False
        self._alarm = allocate_lock()  # released to wake the watching thread
        self._has_watch = False

    def run(self, frames: list[Work]) -> None:
        """Carry out `frames` and all that comes, until the engine hangs up."""
        self._take(frames)
        while True:
            try:
                work, call = self._calls.popleft()
            except IndexError:
                if not self._wait_for_work():
                    return
                continue
            self._carry_out(work, call)

    def _wait_for_work(self) -> bool:
        with self._mutex:
            self._send_unsent()
            self._is_idle = True
        PAGE.pack_into(self._page, 0, 0, 0.0, 0.0, 0, 0, 0)
        self._frame = None
        frames = self._channel.receive()
        self._take(cast(list[Work], frames))
        return bool(frames)

    def _take(self, frames: list[Work]) -> None:
        self._ends = _output_ends(self._ends)
        with self._mutex:
            self._frame_begun = monotonic()
            self._is_idle = False
            for work in frames:
                self._calls.extend([(work, call) for call in work.calls])
                if work.is_watched and not self._is_watched:
                    self._is_watched = True
                    self._wake_watch()

    def _carry_out(self, work: Work, call: Call) -> None:
        name = work.function.hash
        if work is not self._frame:
            self._frame, self._frame_begun = work, monotonic()
        average = self._averages.get(name)
        if self._unsent and (average is None or average > SHORT_S):
            self._flush()
        started_at, begun, ends = time(), monotonic(), self._ends
        key = call.key
        PAGE.pack_into(self._page, 0, key, started_at, begun, ends[0], ends[1], key)
        outcome = carry_out(work.function, call, started_at, self._objects)
        if os.getpid() != self._pid:  # the step forked, and this is the fork coming back
            os._exit(0)
        self._go_back()
        ended = monotonic()
        took = ended - begun
        if average is None:
            # The first call loads the function and what it imports: it tells nothing of the next.
            self._averages[name] = UNKNOWN_S
        else:
            outcome.took_s = took
            is_first = average == UNKNOWN_S
            self._averages[name] = took if is_first else average + (took - average) * 0.2
        self._note_output(outcome)
        with self._mutex:
            if not self._unsent:
                self._unsent_since = ended
            self._unsent.append(outcome)
            # With nothing left to do they are sent, too, before the next calls are waited for.
            if len(self._unsent) >= MAX_UNSENT or ended - self._unsent_since >= MAX_UNSENT_AGE_S:
                self._send_unsent()

    def _go_back(self) -> None:
        """Undo an attempt's `os.chdir`: the next one may be of any other step."""
        try:
            if os.getcwd() == self._folder:
                return
        except OSError:  # the folder it went to is gone
            pass
        try:
            os.chdir(self._folder)
        except OSError:  # the run's own folder is gone: nothing can be done
            pass

    def _note_output(self, outcome: Outcome) -> None:
        if sys.stdout is not self._out or sys.stderr is not self._err:
            _flush(sys.stdout)
            _flush(sys.stderr)
            sys.stdout, sys.stderr = self._out, self._err
        _flush(self._out)
        _flush(self._err)
        ends = _output_ends(self._ends)
        if ends != self._ends:
            starts, self._ends = self._ends, ends
            if starts[0] <= ends[0] and starts[1] <= ends[1]:
                outcome.log = LogRange(self._name, starts[0], ends[0], starts[1], ends[1])

    # -- sending --------------------------------------------------------------------------------

    def _flush(self) -> None:
        with self._mutex:
            self._send_unsent()

    def _send_unsent(self) -> None:
        """Send what has not been sent; the mutex is held."""
        outcomes, self._unsent = self._unsent, []
        if outcomes:
            self._channel.send_outcomes(outcomes)

    # -- the watching thread --------------------------------------------------------------------

    def _wake_watch(self) -> None:
        if self._has_watch:
            self._alarm.release()
        else:
            self._has_watch = True
            self._alarm.acquire()
            # Not a `threading.Thread`: a step that lists its process's threads does not see it.
            start_new_thread(self._watch, ())

    def _watch(self) -> None:
        _block_signals()
        while True:
            while self._is_overdue():
                if not self._give_back():
                    return
            self._alarm.acquire()

    def _is_overdue(self) -> bool:
        """Wait until a frame runs too long (True), or there is nothing to watch over."""
        while True:
            sleep(max(0.0, self._frame_begun + PATIENCE_S - monotonic()))
            with self._mutex:
                if self._is_idle:
                    self._is_watched = False
                    return False
                if self._frame_begun + PATIENCE_S <= monotonic():
                    return True

    def _give_back(self) -> bool:
        """Give back what has not begun, until the frame that runs too long has ended.

        Sends what is unsent, too, unless that is nothing. False when the engine has hung up.
        """
        begun = self._frame_begun
        while True:
            with self._mutex:
                if self._is_idle or self._frame_begun != begun:
                    return True
                while self._calls:
                    try:
                        self._unsent.append(NotBegun(self._calls.popleft()[1].key))
                    except IndexError:
                        break
                self._send_unsent()
            # The engine may have sent more before it knew. As long as this frame runs, nobody
            # else reads; when it has ended, both wake up and this thread sees that it is late.
            self._channel.wait_readable()
            with self._mutex:
                if self._is_idle or self._frame_begun != begun:
                    return True
                frames = self._channel.receive_some()
                if frames is None:
                    return False
                for work in cast(list[Work], frames):
                    self._calls.extend([(work, call) for call in work.calls])


def _output_ends(before: tuple[int, int]) -> tuple[int, int]:
    """How far the files of stdout and stderr reach."""
    try:
        return os.lseek(1, 0, os.SEEK_END), os.lseek(2, 0, os.SEEK_END)
    except OSError:  # a step closed one, or put a pipe in its place
        return before


def flush_output() -> None:
    """Have in the files what was printed so far."""
    for stream in (sys.stdout, sys.stderr):
        _flush(stream)


def _flush(stream: TextIO) -> None:
    try:
        stream.flush()
    except Exception:  # a step closed it, or put something else in its place
        pass


def _block_signals() -> None:
    """Leave all signals to the main thread, where a step's handlers expect them."""
    import signal

    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
