"""One connection to the controller of a home, from its handshake on."""

import contextlib
import re
import socket
import struct
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from weftline.control import (
    LOCK,
    PROTOCOL,
    SOCKET,
    Declared,
    FromController,
    Hello,
    Splitter,
    StepDown,
    Welcome,
    decode_from_controller,
)
from weftline.errors import ControllerUnavailable
from weftline.filelocks import ShortName, holder_of
from weftline.link.start import start_controller
from weftline.wire import frame

ANSWER_WITHIN_S = 10.0
"""So long a controller may take to answer before it counts as stuck."""

END_WITHIN_S = 60.0
"""So long one that was told to step down may take."""

_LOOK_AGAIN_S = 0.005
_STARTS = 5
_READ_BYTES = 1 << 18


class Contact:
    """A connection to a controller that has answered. `pid` and `welcome` say which."""

    def __init__(self, home: Path, connected: socket.socket) -> None:
        self.home, self._socket = home, connected
        self._splitter = Splitter()
        self._buffer = memoryview(bytearray(_READ_BYTES))
        self._sending = threading.Lock()
        self.pid = _peer(connected)
        self.heard_at = time.monotonic()

    def shake_hands(self, version: str, declared: Declared) -> Welcome | None:
        """What the controller is; None when it is just ending.

        Raises: ControllerUnavailable when it does not answer.
        """
        self._socket.settimeout(ANSWER_WITHIN_S)
        try:
            self._socket.sendall(frame(Hello(PROTOCOL, version, declared)))
            messages: list[FromController] | None = []
            while messages == []:
                messages = self.receive()
        except TimeoutError:
            raise self.stuck() from None
        except OSError:
            return None
        if messages is None:
            return None
        if not isinstance(messages[0], Welcome):
            raise ControllerUnavailable(f"{self} answers in a way that is not understood")
        return messages[0]

    def settle(self) -> None:
        """From now on reading waits for ever, and writing until nothing is taken for a while."""
        self._socket.settimeout(None)
        limit = struct.pack("ll", int(ANSWER_WITHIN_S), 0)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)

    def wait_at_most(self, seconds: float) -> None:
        """From now on reading and writing raise TimeoutError after so long."""
        self._socket.settimeout(seconds)

    def send(self, message: Struct) -> None:
        """Send it; to one that has gone: nothing.

        Raises: ControllerUnavailable when it takes nothing for long.
        """
        content = frame(message)
        try:
            with self._sending:
                self._socket.sendall(content, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            self.hang_up()  # half of it is sent: nothing else can follow
            raise self.stuck() from None
        except OSError:
            pass  # whoever reads is told

    def receive(self) -> list[FromController] | None:
        """What comes next, perhaps nothing that is complete; None at the end.

        Raises: ControllerUnavailable when it cannot be understood.
        """
        try:
            count = self._socket.recv_into(self._buffer)
        except ConnectionError:
            count = 0
        if count == 0:
            return None
        self.heard_at = time.monotonic()
        try:
            contents = self._splitter.feed(self._buffer[:count])
            return [decode_from_controller(content) for content in contents]
        except msgspec.DecodeError as error:
            raise ControllerUnavailable(f"{self} says what is not understood: {error}") from error

    def stuck(self) -> ControllerUnavailable:
        return ControllerUnavailable(
            f"{self} does not answer: if it was stopped, let it go on (kill -CONT {self.pid}), else"
            f" end it (kill -KILL {self.pid}); what it drives goes on with the next one"
        )

    def hang_up(self) -> None:
        """End the connection; whoever reads from it is told."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close it, when nobody is sending any more."""
        self.hang_up()
        with self._sending:
            self._socket.close()

    def leave(self) -> None:
        """In a forked child: close the descriptor, which leaves the parent's connection alone."""
        self._socket.close()

    def __str__(self) -> str:
        return f"the controller of {self.home} (process {self.pid})"


def reach(
    home: Path, version: str, declared: Declared, variables: Mapping[str, str]
) -> tuple[Contact, Welcome]:
    """A connection to the home's controller, which is started if there is none.

    An older one is made to step down first. Raises: ControllerUnavailable.
    """
    for _ in range(_STARTS):
        contact = _find(home)
        if contact is None:
            start_controller(home, variables)
            continue
        try:
            welcome = contact.shake_hands(version, declared)
            if welcome is not None and not _is_older(welcome.version, version):
                if welcome.protocol != PROTOCOL:
                    raise ControllerUnavailable(
                        f"{contact} is Weftline {welcome.version}, with which this Weftline"
                        f" {version} cannot talk: upgrade weftline here (pip install"
                        f" weftline=={welcome.version})"
                    )
                contact.settle()
                return contact, welcome
            if welcome is not None:
                _replace(contact)
        except BaseException:
            contact.close()
            raise
        contact.close()
    raise ControllerUnavailable(f"the controllers of {home} end as soon as they are started")


def _find(home: Path) -> Contact | None:
    """A connection to whoever serves the home; None when nobody does.

    Raises: ControllerUnavailable when somebody is meant to, and is not to be reached.
    """
    deadline = time.monotonic() + ANSWER_WITHIN_S
    while True:
        connected = _connect(home)
        if connected is not None:
            return Contact(home, connected)
        pid = holder_of(home / LOCK)
        if pid is None:
            return None
        # It has just begun, or is about to end.
        if time.monotonic() > deadline:
            raise ControllerUnavailable(
                f"the controller of {home} (process {pid}) is not to be reached; if it does not"
                f" end by itself, end it: kill -KILL {pid}"
            )
        time.sleep(_LOOK_AGAIN_S)


def _connect(home: Path) -> socket.socket | None:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.settimeout(ANSWER_WITHIN_S)
        with ShortName(home) as short:
            made.connect(f"{short}/{SOCKET}")
    except (FileNotFoundError, ConnectionRefusedError, BlockingIOError):  # the last: many come
        made.close()
        return None
    except OSError as error:
        made.close()
        raise ControllerUnavailable(
            f"the controller of {home} cannot be reached: {error}"
        ) from error
    return made


def _replace(contact: Contact) -> None:
    """Make an older controller step down, and wait until it has ended."""
    contact.wait_at_most(END_WITHIN_S)
    contact.send(StepDown())
    deadline = time.monotonic() + END_WITHIN_S
    try:
        while contact.receive() is not None:
            if time.monotonic() > deadline:
                raise TimeoutError
    except TimeoutError:
        raise contact.stuck() from None
    # It lets go of its lock last.
    while holder_of(contact.home / LOCK) == contact.pid:
        if time.monotonic() > deadline:
            raise contact.stuck()
        time.sleep(_LOOK_AGAIN_S)


def _peer(connected: socket.socket) -> int:
    size = struct.calcsize("3i")
    credentials = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    return int(struct.unpack("3i", credentials)[0])


def _is_older(version: str, than: str) -> bool:
    return _parts(version) < _parts(than)


def _parts(version: str) -> tuple[tuple[int, ...], bool, tuple[int, ...]]:
    """Sorts versions: by their numbers; a pre-release comes before its release."""
    found = re.match(r"[\d.]*", version)
    end = found.end() if found else 0
    release = tuple(int(each) for each in version[:end].split(".") if each)
    rest = version[end:].partition("+")[0]
    is_final = not rest or rest.startswith("post")
    return release, is_final, tuple(int(each) for each in re.findall(r"\d+", rest))
