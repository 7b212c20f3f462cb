"""The recorded facts. Nothing sets a state: a fact is appended, and `core.run` folds them.

Fields are only ever added, with defaults, so that journals written by every release stay
readable. Steps are named by their number in the run: the graph's steps in order, then the steps
of each `GraphExtended`.
"""

from enum import StrEnum

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from weftline.core.values import Error


class RunStatus(StrEnum):
    """Where a run stands, in Ray's words. RESUMABLE is also what a reader makes of RUNNING when
    nobody drives the run any more."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCESSFUL = "SUCCESSFUL"
    FAILED = "FAILED"
    CANCELED = "CANCELED"
    RESUMABLE = "RESUMABLE"
    PAUSED = "PAUSED"


class LogRange(Struct, frozen=True, array_like=True):
    """Where an attempt's output lies: bytes [start, end) of a child's stdout and stderr files."""

    file: str
    out_start: int
    out_end: int
    err_start: int
    err_end: int


class Event(Struct, frozen=True, omit_defaults=True, tag_field="kind"):
    """A recorded fact of a run."""


class RunSubmitted(Event, frozen=True, tag="RunSubmitted"):
    """The run was accepted, with the graph of this hash."""

    graph: str
    output: int | list[int]
    warnings: tuple[str, ...] = ()
    is_pending: bool = False
    is_actor: bool = False
    group: tuple[str, int] | None = None
    """Runs that were submitted together, and how many of them may run at once."""


class RunBegun(Event, frozen=True, tag="RunBegun"):
    """The limit on running workflows holds the run back no more."""


class RunAdopted(Event, frozen=True, tag="RunAdopted"):
    """Another engine took the run over: what was running is READY again.

    `lost` are steps whose volatile values are gone and are needed.
    """

    engine: str
    warnings: tuple[str, ...] = ()
    lost: tuple[int, ...] = ()


class RunResumed(Event, frozen=True, tag="RunResumed"):
    """A person let a run go on that had failed, was canceled or held back: what failed is tried
    afresh. Opens the next epoch. `is_pending`: a limit on running workflows holds it back."""

    is_pending: bool = False


class StepStarted(Event, frozen=True, tag="StepStarted"):
    """An attempt began; recorded for attempts that take longer than a moment."""

    step: int
    attempt: int
    worker: str = ""
    started_at: float = 0.0
    log: LogRange | None = None


class StepSucceeded(Event, frozen=True, tag="StepSucceeded"):
    """The step has its value, for good."""

    step: int
    attempt: int
    value: Raw
    started_at: float = 0.0
    worker: str = ""
    preview: str | None = None
    log: LogRange | None = None
    picture: str | None = None
    state: Raw | UnsetType = UNSET
    is_volatile: bool = False


class StepFailed(Event, frozen=True, tag="StepFailed"):
    """A try failed. With `retry_at` the step is tried again then; without, this was the last."""

    step: int
    attempt: int
    error: Error
    retry_at: float | None = None
    is_timeout: bool = False
    started_at: float = 0.0
    worker: str = ""
    log: LogRange | None = None


class StepLost(Event, frozen=True, tag="StepLost"):
    """The attempt's process died under it. Does not count as a try."""

    step: int
    attempt: int
    reason: str
    started_at: float = 0.0
    worker: str = ""
    log: LogRange | None = None


class StepSkipped(Event, frozen=True, tag="StepSkipped"):
    """The step will not run: its condition does not hold, or an input was skipped."""

    step: int
    reason: str = ""


class ConditionDecided(Event, frozen=True, tag="ConditionDecided"):
    """The step's `when` was evaluated."""

    step: int
    holds: bool


class GraphExtended(Event, frozen=True, tag="GraphExtended"):
    """The step returned steps; their graph opens a scope, and its output is the step's value."""

    step: int
    attempt: int
    graph: str
    output: int | list[int]
    started_at: float = 0.0
    worker: str = ""
    log: LogRange | None = None
    state: Raw | UnsetType = UNSET


class WaitBegun(Event, frozen=True, tag="WaitBegun"):
    """The step waits, holding no worker, until `until` (if given) or what it waits for comes."""

    step: int
    until: float | None = None
    name: str | None = None


class SignalReceived(Event, frozen=True, tag="SignalReceived"):
    """News from outside; kept until a step waits for a signal of this name."""

    name: str
    value: Raw


class CallReceived(Event, frozen=True, tag="CallReceived"):
    """A call of a method of a virtual actor: the first of `steps`, one page of a graph, comes
    after the calls before it. The caller knows it as `call`."""

    steps: bytes
    call: str = ""


class ActorRested(Event, frozen=True, tag="ActorRested"):
    """All calls so far have ended: `first` steps lie behind, with their names, and `state` is
    all that counts of them. A reader may begin here: `signals` are those that nobody has waited
    for yet."""

    first: int
    names: dict[str, int]
    submitted_at: float
    state: Raw | UnsetType = UNSET
    value: Raw | UnsetType = UNSET
    started_at: float | None = None
    signals: dict[str, list[Raw]] = {}


class WaitEnded(Event, frozen=True, tag="WaitEnded"):
    """What the step waited for has come."""

    step: int
    value: Raw


class ScopeClosed(Event, frozen=True, tag="ScopeClosed"):
    """A failure reached the step that catches it: the rest of its scope is dropped."""

    step: int
    error: Error
    failed: int | None = None


class CancelRequested(Event, frozen=True, tag="CancelRequested"):
    """Somebody wants the run to end now."""


class PauseChanged(Event, frozen=True, tag="PauseChanged"):
    """Somebody wants no step to start, or steps to start again."""

    paused: bool


class Quarantined(Event, frozen=True, tag="Quarantined"):
    """The run keeps killing its processes; nobody adopts it until a person resumes it."""

    reason: str
    step: int | None = None


class RunFinished(Event, frozen=True, tag="RunFinished"):
    """The run's last word in this epoch."""

    status: RunStatus
    error: Error | None = None
    step: int | None = None


AnyEvent = (
    RunSubmitted
    | RunBegun
    | RunAdopted
    | RunResumed
    | StepStarted
    | StepSucceeded
    | StepFailed
    | StepLost
    | StepSkipped
    | ConditionDecided
    | GraphExtended
    | WaitBegun
    | WaitEnded
    | SignalReceived
    | CallReceived
    | ActorRested
    | ScopeClosed
    | CancelRequested
    | PauseChanged
    | Quarantined
    | RunFinished
)

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[AnyEvent] = msgspec.json.Decoder(AnyEvent)


def encode_event(event: Event) -> bytes:
    """The JSON text under which `event` is stored."""
    return _encoder.encode(event)


def decode_event(body: bytes | str) -> AnyEvent:
    """The event that `body` writes out. Raises: msgspec.DecodeError."""
    return _decoder.decode(body)
