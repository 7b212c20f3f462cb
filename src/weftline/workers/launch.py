"""One child process as its engine sees it: started, written to, read from, ended."""

import contextlib
import fcntl
import mmap
import os
import select
import signal
import socket
import time
from collections import deque
from collections.abc import Mapping, Sequence

from msgspec import DecodeError

from weftline.wire import (
    CHANNEL_FD,
    HEADER,
    MAX_FRAME_BYTES,
    PAGE_BYTES,
    PAGE_FD,
    FromChild,
    Running,
    decode_from_child,
    read_page,
)
from weftline.workers.logs import Logs

# The child finds its modules where the one that submitted the run found them, Weftline among them.
# A user's `__main__` is none of its own modules: see weftline.workers.child.
_BOOT = (
    "import sys; parent, *sys.path[:] = sys.argv[1:];"
    " from weftline.workers.child import main; main(int(parent))"
)
_LOWEST_SOURCE_FD = 10  # above all that a child finds its things at
_DEFAULT_SIGNALS = (
    *(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT),
    *(signal.SIGCHLD, signal.SIGPIPE, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM),
)
_REAP_WITHOUT_PIDFD_S = 1.0
_GROUP_END_S = 0.02


class Process:
    """A child: its socket, its page, its log. Nothing here waits for it, but `reap`."""

    def __init__(self, python: str, sys_path: Sequence[str], env: Mapping[str, str], logs: Logs):
        """Start it. Raises: OSError when the interpreter cannot be started."""
        self.logs = logs
        self.is_ended = False
        """Nothing more will come from it."""
        self._is_reaped = False
        self._partial = bytearray()
        self._unsent: deque[memoryview] = deque()
        page_fd = os.memfd_create("weftline-page")
        try:
            self.socket, theirs = socket.socketpair()
        except BaseException:
            os.close(page_fd)
            raise
        sources: list[int] = []
        try:
            os.ftruncate(page_fd, PAGE_BYTES)
            self._page = mmap.mmap(page_fd, PAGE_BYTES)
            for fd in (*logs.fds, theirs.fileno(), page_fd):
                sources.append(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _LOWEST_SOURCE_FD))
            targets = (1, 2, CHANNEL_FD, PAGE_FD)
            self.pid = os.posix_spawn(
                python,
                [python, "-P", "-c", _BOOT, str(os.getpid()), *sys_path],
                env,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    *((os.POSIX_SPAWN_DUP2, *pair) for pair in zip(sources, targets, strict=True)),
                ],
                setsid=True,
                setsigmask=(),
                setsigdef=_DEFAULT_SIGNALS,
            )
        except BaseException:
            self.socket.close()
            raise
        finally:
            theirs.close()
            for fd in (page_fd, *sources):
                os.close(fd)
        self.socket.setblocking(False)
        try:
            self.pidfd = os.pidfd_open(self.pid)
            """Readable when the process has ended; -1 where there is no such thing."""
        except OSError:  # an old kernel, or a container that does not allow it
            self.pidfd = -1

    # -- talking to it --------------------------------------------------------------------------

    @property
    def has_unsent(self) -> bool:
        return bool(self._unsent)

    def send(self, content: bytearray) -> None:
        """Send, now or (with `send_more`) as soon as it takes more. To a dead one: nothing."""
        self._unsent.append(memoryview(content))
        if len(self._unsent) == 1:
            self.send_more()

    def send_more(self) -> None:
        """Send what it takes."""
        while self._unsent:
            content = self._unsent[0]
            try:
                # MSG_NOSIGNAL: the process that we live in may have SIGPIPE as it pleases.
                sent = self.socket.send(content, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return
            except OSError:  # it has died, as its pidfd tells
                self._unsent.clear()
                return
            if sent == len(content):
                self._unsent.popleft()
            else:
                self._unsent[0] = content[sent:]

    def receive(self, buffer: memoryview) -> list[FromChild] | None:
        """What one read, through `buffer`, completes; None when there was nothing to read.

        Raises: msgspec.DecodeError.
        """
        try:
            count = self.socket.recv_into(buffer)
        except BlockingIOError:
            return None
        except OSError:
            count = 0
        if count == 0:
            self.is_ended = True
            return None
        content = buffer[:count]
        partial = self._partial
        if partial:
            partial += content
            if len(partial) < HEADER.size or len(partial) < _frame_size(partial, 0):
                return []
            content = memoryview(partial)
        found: list[FromChild] = []
        at, size = 0, len(content)
        while size - at >= HEADER.size:
            end = at + _frame_size(content, at)
            if end > size:
                break
            found.append(decode_from_child(content[at + HEADER.size : end]))
            at = end
        if at < size or partial:
            self._partial = bytearray(content[at:])
        return found

    def running(self) -> Running | None:
        """The attempt that it has begun and not ended, if any; also after its death."""
        with memoryview(self._page) as page:
            return read_page(page)

    # -- ending it ------------------------------------------------------------------------------

    def hang_up(self) -> None:
        """Let it end by itself: it reads the end of its input, once it is idle."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def kill(self) -> None:
        """End it and what it started, as far as that is in its group, at once."""
        # Until it is reaped, its id cannot belong to another group.
        if not self._is_reaped:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    def has_died(self, timeout_s: float = 0.0) -> bool:
        """Whether the process has ended, at the latest after `timeout_s`."""
        if self.pidfd >= 0:
            poll = select.poll()
            poll.register(self.pidfd, select.POLLIN)
            return bool(poll.poll(timeout_s * 1000))
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
                if os.waitid(os.P_PID, self.pid, flags) is not None:
                    return True
            except ChildProcessError:
                return True
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.001)

    def reap(self) -> str:
        """End its group and take note of its death; says how it died."""
        if self.pidfd < 0:  # the end of its output may come a moment before its own
            self.has_died(_REAP_WITHOUT_PIDFD_S)
        self.kill()
        self._is_reaped = True
        try:
            _, status = os.waitpid(self.pid, 0)
        except ChildProcessError:  # somebody else in this process waited for it
            return "its process ended"
        self._see_group_end()
        return _describe(os.waitstatus_to_exitcode(status))

    def _see_group_end(self) -> None:
        """Give what was killed with the child a moment to be gone, too."""
        deadline = time.monotonic() + _GROUP_END_S
        with contextlib.suppress(ProcessLookupError, PermissionError):
            # Without a process that collects orphans, their entries stay: not for ever, then.
            while time.monotonic() < deadline:
                os.killpg(self.pid, 0)
                time.sleep(0.0005)

    def close(self) -> None:
        """Let go of all that belongs to it, after `reap`."""
        self._page.close()
        self.socket.close()
        if self.pidfd >= 0:
            os.close(self.pidfd)
        self.logs.close()


def _frame_size(content: bytearray | memoryview, at: int) -> int:
    size: int = HEADER.unpack_from(content, at)[0]
    if size > MAX_FRAME_BYTES:
        raise DecodeError(f"a frame of {size} bytes")
    return HEADER.size + size


def _describe(code: int) -> str:
    if code >= 0:
        return f"its process exited with status {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    if -code == signal.SIGSEGV:
        return "its process was ended by a segmentation fault (SIGSEGV)"
    return f"its process was ended by {name}"
