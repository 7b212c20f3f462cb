"""What drivers and the controller of a home say to each other, and where they find each other.

A Unix stream socket in the home; 4 bytes of length, then one MessagePack message. A driver begins
with `Hello`. What asks for an answer has a number, unique in its connection, which the answer
names; so answers may come in any order.
"""

from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from weftline.core.environment import Environment
from weftline.core.events import RunStatus
from weftline.core.values import Packed
from weftline.wire import HEADER, MAX_FRAME_BYTES

PROTOCOL = 1
"""Raised when a message changes so that an older side could not read it."""

MAX_FIRST_BYTES = 1 << 20
"""So much may come from one who has not said `Hello`."""

SOCKET, LOCK, CARD, LOG = "controller.sock", "controller.lock", "controller.json", "controller.log"
"""The controller's files in the home; the log is in its folder `logs`."""

READY_FD = 3
"""Where a controller started on demand tells whoever started it how that went."""


def log_path(home: Path) -> Path:
    """Where a controller that was started on demand logs."""
    return home / "logs" / LOG


# -- from a driver ------------------------------------------------------------------------------


class Declared(Struct, frozen=True, array_like=True):
    """What a driver was told explicitly; None: nothing. -1 for a limit: there is none."""

    num_cpus: float | None = None
    num_gpus: float | None = None
    resources: dict[str, float] = {}
    max_running_workflows: int | None = None
    max_pending_workflows: int | None = None


class Hello(Struct, frozen=True, array_like=True, tag="hello"):
    """Who calls."""

    protocol: int
    version: str
    declared: Declared = Declared()


class NewRun(Struct, frozen=True, array_like=True):
    """A run to be recorded and driven. `metadata` is JSON; `pages` hold the steps of its graph."""

    number: int
    run_id: str
    workflow: str
    created_at: float
    environment: Environment
    metadata: bytes
    pages: list[bytes]
    output: int | list[int]
    objects: tuple[str, ...]
    warnings: tuple[str, ...]
    is_actor: bool
    group: tuple[str, int] | None


class Submit(Struct, frozen=True, array_like=True, tag="submit"):
    """New runs. For each comes `Accepted` or `Refused`, and once it has ended `RunEnded`."""

    runs: list[NewRun]


class Adopt(Struct, frozen=True, array_like=True, tag="adopt"):
    """Drive a recorded run, which is detached and open and has no living owner; with `is_resume`
    any that has no result. Answered by `Accepted` or `Refused`."""

    number: int
    run_id: str
    is_resume: bool


class Watch(Struct, frozen=True, array_like=True, tag="watch"):
    """Tell how the run, or its step or call `name`, ends: `RunEnded` or `NotHere`.

    `is_expected`: it is a call that has not been made yet, so nobody need look for it in what the
    actor has laid down behind it.
    """

    run_id: str
    name: str | None
    is_expected: bool = False


class Ping(Struct, frozen=True, array_like=True, tag="ping"):
    """Answer with `Pong`."""


class StepDown(Struct, frozen=True, array_like=True, tag="step down"):
    """Let all runs go and end: a newer controller takes over."""


FromDriver = Hello | Submit | Adopt | Watch | Ping | StepDown


# -- from the controller ------------------------------------------------------------------------


class Welcome(Struct, frozen=True, array_like=True, tag="welcome"):
    """The answer to `Hello`; the rest is only to be relied on if `protocol` is one's own."""

    protocol: int
    version: str
    pid: int
    engine: str


class Accepted(Struct, frozen=True, array_like=True, tag="accepted"):
    """The run is durable and the controller's, or has its result already. `warnings` are for the
    person."""

    number: int
    warnings: tuple[str, ...] = ()


class Refused(Struct, frozen=True, array_like=True, tag="refused"):
    """The run is not driven; `error` is the qualified name of one of `weftline.errors`."""

    number: int
    error: str
    text: str


class RunEnded(Struct, frozen=True, array_like=True, tag="ended"):
    """The run, or its step `name`, has ended. `error` is the JSON text of an `Error`."""

    run_id: str
    name: str | None
    status: RunStatus
    value: Packed | None
    error: bytes | None
    step: str | None
    reason: str | None


class NotHere(Struct, frozen=True, array_like=True, tag="not here"):
    """How the run, or its step, ends will not be told: the run is not driven here any more."""

    run_id: str
    name: str | None


class Pong(Struct, frozen=True, array_like=True, tag="pong"):
    """The answer to `Ping`."""


FromController = Welcome | Accepted | Refused | RunEnded | NotHere | Pong


# -- frames -------------------------------------------------------------------------------------

decode_from_driver = msgspec.msgpack.Decoder[FromDriver](FromDriver).decode
decode_from_controller = msgspec.msgpack.Decoder[FromController](FromController).decode


class Splitter:
    """Cuts what is received into the contents of frames."""

    def __init__(self, max_bytes: int = MAX_FRAME_BYTES) -> None:
        self.max_bytes = max_bytes
        self._partial = bytearray()

    def feed(self, received: bytes | memoryview) -> Iterator[memoryview]:
        """The contents that `received` completes; valid until the next call.

        Raises: msgspec.DecodeError when what comes can be no frame.
        """
        self._partial += received
        whole, at = self._partial, 0
        with memoryview(whole) as view:
            while len(whole) - at >= HEADER.size:
                (size,) = HEADER.unpack_from(whole, at)
                if size > self.max_bytes:
                    raise msgspec.DecodeError(f"a frame of {size} bytes")
                end = at + HEADER.size + size
                if end > len(whole):
                    break
                with view[at + HEADER.size : end] as content:
                    yield content
                at = end
        if at:
            self._partial = whole[at:]
