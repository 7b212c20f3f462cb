"""Where attempts happen."""

from typing import NamedTuple, Protocol

from msgspec import Struct

from weftline.core.actions import PythonCall
from weftline.core.environment import Environment
from weftline.core.events import LogRange
from weftline.core.policy import Placement
from weftline.core.values import Error, Packed


class Lane(NamedTuple):
    """Attempts that are alike for an executor: same environment, code and placement."""

    environment: Environment
    function: str
    placement: Placement
    listens: bool = False
    """They wait for something outside, and occupy nothing while they do."""


class Attempt(Struct, kw_only=True, gc=False):
    """One try of one step, handed to an executor. `key` is unique within the engine."""

    key: int
    run_id: str
    step: str
    number: int
    call: PythonCall
    inputs: list[Packed]
    timeout_s: float | None = None
    forward: bool = False
    """Whether the lines it prints are wanted as they come (`Printed`)."""
    state: Packed | None = None
    """For a method of a virtual actor: the actor's last state; None before there is one."""
    is_volatile: bool = False
    """Whether its value need not survive a crash."""
    beside: int | None = None
    """The key of the attempt whose process, which is kept waiting for this, is to carry it out."""


class Started(Struct, frozen=True, gc=False):
    """The attempt has been running for a moment (told once, for attempts that take long)."""

    key: int
    at: float
    worker: str
    log: LogRange | None = None


class Done(Struct, frozen=True, kw_only=True, gc=False):
    """What all ends of an attempt tell. Times in seconds since 1970."""

    key: int
    started_at: float = 0.0
    worker: str = ""
    log: LogRange | None = None


class Succeeded(Done, frozen=True, kw_only=True):
    """The function returned; `objects` are those the value cannot be read without."""

    value: Packed
    preview: str | None = None
    objects: tuple[str, ...] = ()
    picture: str | None = None
    """The object that shows the value, a PNG; one of `objects`."""
    state: Packed | None = None
    is_volatile: bool = False
    """Whether the value lies where it need not survive a crash."""


class Extended(Done, frozen=True, kw_only=True):
    """The function returned steps; `pages` hold their graph, as `core.graph` steps in msgpack."""

    graph: str
    pages: list[bytes]
    output: int | list[int]
    objects: tuple[str, ...] = ()
    state: Packed | None = None
    stays: bool = False
    """Whether its process waits for the output step of the graph, an attempt `beside` this key;
    killing the key lets the process go."""


class Failed(Done, frozen=True, kw_only=True):
    """The function raised, or its arguments or result could not be carried."""

    error: Error
    retryable: bool = True
    """Whether the step's `retry_on` matches."""
    objects: tuple[str, ...] = ()


class TimedOut(Done, frozen=True, kw_only=True):
    """It ran longer than its limit and was ended."""

    after_s: float


class Outgrown(Done, frozen=True, kw_only=True):
    """Its processes had more memory resident than its limit, and were ended. All in bytes."""

    limit: int
    resident: int


class Lost(Done, frozen=True, kw_only=True):
    """Its process died under it."""

    reason: str


class Starved(Done, frozen=True, kw_only=True):
    """It ended well, but the home has no room for its result: start it again when there is."""

    reason: str


class GivenBack(Done, frozen=True, kw_only=True):
    """It was not begun, or is not known to have been: start it again, nothing has happened."""


class Printed(NamedTuple):
    """Output of an attempt that asked for it. `stream` is `stdout` or `stderr`."""

    key: int
    stream: str
    text: str


class Refused(Struct, frozen=True, kw_only=True):
    """A whole environment cannot be used: its interpreter is gone, or has another Weftline."""

    environment: Environment
    reason: str


Report = (
    Started
    | Succeeded
    | Extended
    | Failed
    | TimedOut
    | Outgrown
    | Lost
    | Starved
    | GivenBack
    | Printed
    | Refused
)


class Executor(Protocol):
    """Carries attempts out and reports what becomes of them. Used by one thread, but for `wake`."""

    def check(self, placement: Placement) -> str | None:
        """Why such a step could never run here, or None."""
        ...

    def room(self, lane: Lane) -> int:
        """How many more attempts of this lane would be welcome now. Costs microseconds."""
        ...

    def start(self, lane: Lane, attempts: list[Attempt]) -> None:
        """Take on at most `room(lane)` attempts; each is reported on until it is done."""
        ...

    def wait(self, timeout_s: float | None) -> list[Report]:
        """What happened, oldest first; returns at once when there is news or after `wake`, and
        after `timeout_s` (None: no limit) at the latest."""
        ...

    def wake(self) -> None:
        """Make `wait` return soon; may be called from any thread, cheap when repeated."""
        ...

    def kill(self, keys: set[int]) -> None:
        """End these attempts, running or not, and what they started; nothing more is reported on
        them. Others that have to make way are reported as `GivenBack`."""
        ...

    def close(self) -> None:
        """End everything that was started."""
        ...
