"""One driver's connection, as the controller sees it.

Answers come from the engine's thread, which must never wait for a driver: what its socket does not
take at once is kept, and sent by the serving thread.
"""

import contextlib
import socket
import threading
from collections import deque
from collections.abc import Callable

from msgspec import Struct

from weftline.control import (
    MAX_FIRST_BYTES,
    FromDriver,
    NotHere,
    RunEnded,
    Splitter,
    decode_from_driver,
)
from weftline.wire import MAX_FRAME_BYTES, frame

MAX_UNSENT_BYTES = 256 << 20
"""A driver that lets more than this wait for it is dropped: it does not read."""


class Caller:
    """A connection. `send` may be called by any thread, the rest by the serving one.

    `on_unsent` is called, on any thread, when something is left for `send_more`, or the connection
    is to be dropped.
    """

    def __init__(self, connected: socket.socket, on_unsent: Callable[["Caller"], None]) -> None:
        connected.setblocking(False)
        self.socket = connected
        self.has_said_hello = False
        self.waits_for: set[object] = set()
        """What it has asked and not been told yet."""
        self.is_lost = False
        """Nothing more can be sent to it."""
        self._on_unsent = on_unsent
        self._splitter = Splitter(MAX_FIRST_BYTES)
        self._lock = threading.Lock()
        self._unsent: deque[memoryview] = deque()
        self._unsent_bytes = 0

    def greet(self) -> None:
        """It has said who it is: from now on it may send much."""
        self.has_said_hello = True
        self._splitter.max_bytes = MAX_FRAME_BYTES

    # -- hearing --------------------------------------------------------------------------------

    def receive(self, buffer: memoryview) -> list[FromDriver] | None:
        """What one read, through `buffer`, completes; None at the end of the connection.

        Raises: msgspec.DecodeError when it cannot be understood.
        """
        try:
            count = self.socket.recv_into(buffer)
        except BlockingIOError:
            return []
        except OSError:
            return None
        if count == 0:
            return None
        contents = self._splitter.feed(buffer[:count])
        return [decode_from_driver(content) for content in contents]

    # -- telling --------------------------------------------------------------------------------

    def send(self, message: Struct) -> None:
        """Send it, now or as soon as the driver takes more. To one that has gone: nothing."""
        try:
            content = memoryview(frame(message))
        except OverflowError:
            if isinstance(message, RunEnded):  # it can be read from the journal
                self.send(NotHere(message.run_id, message.name))
            return
        with self._lock:
            if self.is_lost:
                return
            if not self._unsent:
                content = self._send_now(content)
                if not content and not self.is_lost:
                    return
            self._unsent.append(content)
            self._unsent_bytes += len(content)
            if self._unsent_bytes > MAX_UNSENT_BYTES:
                self.is_lost = True
        self._on_unsent(self)

    def send_more(self) -> bool:
        """Send what the driver takes; whether that was all."""
        with self._lock:
            while self._unsent and not self.is_lost:
                content = self._unsent[0]
                left = self._send_now(content)
                self._unsent_bytes -= len(content) - len(left)
                if left:
                    self._unsent[0] = left
                    return False
                self._unsent.popleft()
            return True

    def _send_now(self, content: memoryview) -> memoryview:
        """What is left of it."""
        try:
            sent = self.socket.send(content, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return content
        except OSError:
            self.is_lost = True
            return content
        return content[sent:]

    def close(self) -> None:
        """End the connection."""
        with self._lock:
            self.is_lost = True
            self._unsent.clear()
            self.waits_for.clear()
            with contextlib.suppress(OSError):
                self.socket.close()
