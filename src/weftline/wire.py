"""Frames between an engine and its children: 4 bytes of length, then one MessagePack message.

Also the page of memory that a child shares with its engine, so that no message is needed for every
start, and the engine knows after the child's death which attempt went with it.
"""

from struct import Struct as Layout

import msgspec
from msgspec import Struct

from weftline.core.events import LogRange
from weftline.core.values import Error, Object, Packed

HEADER = Layout("!I")
MAX_FRAME_BYTES = 1 << 30

CHANNEL_FD, PAGE_FD = 3, 4
"""Where a child finds its end of the socket pair, and the page."""

MARKER = "WEFTLINE_CHILD"
"""A variable, `<engine>/<number>/<home>`, that a child and whatever it starts have."""


# -- to the child -------------------------------------------------------------------------------


class Hello(Struct, frozen=True, array_like=True, tag="hello"):
    """The engine's first frame: where the child finds itself.

    `factory` is `module:name` of what makes the object store of the folder `objects`. `worker` is
    the child's name, and that of its log. The child holds a lock on `lock_path` while it lives.
    With `listens` it awaits all its calls at once.
    """

    cwd: str
    home: str
    factory: str
    objects: str
    worker: str
    lock_path: str
    listens: bool = False


class Call(Struct, frozen=True, array_like=True, gc=False):
    """One attempt to carry out: what of it differs from the others of its frame.

    `state` is the last one of an actor whose method is called. `timeout_s` is for who listens: of
    other attempts the engine ends the process.
    """

    key: int
    run_id: str
    step: str
    number: int
    arguments: bytes | Object
    retry_on: Packed | None
    inputs: list[Packed]
    state: Packed | None = None
    is_volatile: bool = False
    timeout_s: float | None = None


class Work(Struct, frozen=True, array_like=True, tag="work"):
    """Calls of one function, to carry out one after the other, or at once by who listens.

    With `is_watched` others may come behind them while they run; none that has not begun may wait
    long for one that takes its time.
    """

    function: Object
    calls: list[Call]
    is_watched: bool


class Cancel(Struct, frozen=True, array_like=True, tag="cancel"):
    """To who listens: give these up, whatever they are waiting for."""

    keys: list[int]


class Ping(Struct, frozen=True, array_like=True, tag="ping"):
    """To who listens: answer, as a sign that nothing holds up the others."""


ToChild = Hello | Work | Cancel | Ping


# -- from the child -----------------------------------------------------------------------------


class Ready(Struct, frozen=True, array_like=True, tag="ready"):
    """The child's first frame: which Weftline and Python it is."""

    version: str
    python: str


class Returned(Struct, array_like=True, tag=1, gc=False):
    """The function returned a value. `took_s` is all the time that the attempt took.

    `started_at`, `took_s` and `log` (what it printed, if anything) are first in every outcome.
    """

    key: int
    started_at: float
    took_s: float
    log: LogRange | None
    value: Packed
    preview: str | None
    objects: tuple[str, ...]
    picture: str | None = None
    state: Packed | None = None
    is_volatile: bool = False


class ReturnedSteps(Struct, array_like=True, tag=2, gc=False):
    """The function returned steps."""

    key: int
    started_at: float
    took_s: float
    log: LogRange | None
    graph: str
    pages: list[bytes]
    output: int | list[int]
    objects: tuple[str, ...]
    state: Packed | None = None
    stays: bool = False


class Raised(Struct, array_like=True, tag=3, gc=False):
    """The function raised, or its arguments or result could not be carried.

    `error` is the JSON text of an `Error`: it may hold JSON, which no other format can.
    """

    key: int
    started_at: float
    took_s: float
    log: LogRange | None
    error: bytes
    retryable: bool
    objects: tuple[str, ...]


class Unstored(Struct, array_like=True, tag=5, gc=False):
    """What the function returned finds no room where the home is; `text` says so."""

    key: int
    started_at: float
    took_s: float
    log: LogRange | None
    text: str


class Expired(Struct, array_like=True, tag=6, gc=False):
    """It waited longer than its limit, and is given up."""

    key: int
    started_at: float
    took_s: float
    log: LogRange | None
    after_s: float


class NotBegun(Struct, array_like=True, tag=4, gc=False):
    """The child gives the attempt back: it would have to wait behind one that takes long."""

    key: int


Outcome = Returned | ReturnedSteps | Raised | Unstored | Expired


class Outcomes(Struct, array_like=True, tag="outcomes", gc=False):
    """What became of some attempts, in the order in which they ended."""

    outcomes: list[Outcome | NotBegun]


class Pong(Struct, frozen=True, array_like=True, tag="pong"):
    """The answer to a ping."""


FromChild = Ready | Outcomes | Pong


# -- frames -------------------------------------------------------------------------------------

_encoder = msgspec.msgpack.Encoder()
decode_to_child = msgspec.msgpack.Decoder[ToChild](ToChild).decode
pack_error = msgspec.json.Encoder().encode
unpack_error = msgspec.json.Decoder(Error).decode
decode_from_child = msgspec.msgpack.Decoder[FromChild](FromChild).decode


def frame(message: Struct) -> bytearray:
    """The message as it is sent. Raises: OverflowError when it is larger than a frame may be."""
    content = bytearray(HEADER.size)
    _encoder.encode_into(message, content, HEADER.size)
    size = len(content) - HEADER.size
    if size > MAX_FRAME_BYTES:
        raise OverflowError(f"a message of {size} bytes")
    HEADER.pack_into(content, 0, size)
    return content


# -- the page -----------------------------------------------------------------------------------


PAGE_BYTES = 4096

# Whole machine words, written in this order: the key (0: none), when it began in seconds since
# 1970 and on the monotonic clock, where its output begins, and the key again. Who reads them in
# the opposite order and finds both keys equal has read what belongs together.
PAGE = Layout("@QddQQQ")


class Running(Struct, frozen=True):
    """The attempt that a child has begun and not ended. `begun` is on the monotonic clock."""

    key: int
    started_at: float
    begun: float
    out_start: int
    err_start: int


def read_page(page: memoryview) -> Running | None:
    """What the page says; None when the child runs nothing."""
    words, times = page[: PAGE.size].cast("Q"), page[: PAGE.size].cast("d")
    while True:
        key = words[5]
        err_start, out_start, begun, started_at = words[4], words[3], times[2], times[1]
        if words[0] == key:
            return Running(key, started_at, begun, out_start, err_start) if key else None
