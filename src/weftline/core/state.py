"""What a run is made of as it stands: its steps, and the sub-graphs they are part of."""

from enum import StrEnum

from weftline.core.graph import Graph, Step
from weftline.core.names import with_suffix
from weftline.core.values import Error, Packed


class StepStatus(StrEnum):
    """Where a step stands."""

    WAITING = "WAITING"
    READY = "READY"
    RUNNING = "RUNNING"
    SUCCESSFUL = "SUCCESSFUL"
    FAILED = "FAILED"
    CANCELED = "CANCELED"
    SKIPPED = "SKIPPED"


WAITING, READY, RUNNING = StepStatus.WAITING, StepStatus.READY, StepStatus.RUNNING
SUCCESSFUL, FAILED = StepStatus.SUCCESSFUL, StepStatus.FAILED
CANCELED, SKIPPED = StepStatus.CANCELED, StepStatus.SKIPPED


class StepState:
    """One step as it stands. Read it freely; only the rules of the core write it."""

    __slots__ = (
        "attempt",
        "condition",
        "dependents",
        "due_at",
        "ended_at",
        "error",
        "joined",
        "lacks",
        "losses",
        "number",
        "opened",
        "returned_at",
        "scope",
        "spec",
        "started_at",
        "status",
        "suffix",
        "tries",
        "value",
        "waiting_on",
    )

    def __init__(self, number: int, suffix: int, spec: Step, scope: int) -> None:
        self.number, self.suffix, self.spec, self.scope = number, suffix, spec, scope
        self.status = WAITING
        self.waiting_on = 0  # edges from steps that have not ended
        # One entry an edge. Most steps have one reader: what such a reader reads shares a tuple,
        # which a fan-in of 100,000 makes once.
        self.dependents: tuple[int] | list[int] | None = None
        self.joined = False  # waits for its inputs no more
        self.lacks = False  # an input ended without a value
        self.condition: bool | None = None
        self.attempt = 0  # the latest attempt known to have begun
        self.tries = 0  # attempts that counted, since the last resume
        self.losses = 0  # in a row
        self.value: Packed | None = None
        self.error: Error | None = None
        self.due_at: float | None = None  # the next try, or the end of a timer
        self.started_at: float | None = None
        self.ended_at: float | None = None
        self.opened: int | None = None  # the scope this step returned
        self.returned_at: float | None = None  # and when it did

    @property
    def name(self) -> str:
        """The step's own name within the run."""
        return with_suffix(self.spec.name, self.suffix)

    @property
    def is_ended(self) -> bool:
        """Whether nothing more happens to the step (a failed one may be resumed)."""
        return self.status not in (WAITING, READY, RUNNING)

    def add_dependent(self, reader: tuple[int]) -> None:
        """Note one more edge, to the reader that is alone in the tuple."""
        if self.dependents is None:
            self.dependents = reader
        elif isinstance(self.dependents, list):
            self.dependents += reader
        else:
            self.dependents = [*self.dependents, *reader]

    @property
    def may_begin(self) -> bool:
        """Whether an attempt of it may be started or settled."""
        if self.status is RUNNING:
            return self.opened is None
        # That the time of a retry has come is no event: in a journal the next attempt of a step
        # stands right behind the failed one.
        return self.status is READY or (self.status is WAITING and self.due_at is not None)


class Scope:
    """A sub-graph and the step that owns it (None for the run's own graph)."""

    __slots__ = (
        "catching",
        "chained",
        "closed",
        "count",
        "delivered",
        "first",
        "followers",
        "head",
        "inner",
        "left",
        "output",
        "outputs",
        "owner",
        "result",
    )

    def __init__(self, owner: int | None, first: int, graph: Graph) -> None:
        self.owner, self.first, self.count = owner, first, len(graph.steps)
        self.output: int | list[int] = (
            [first + n for n in graph.output]
            if isinstance(graph.output, list)
            else first + graph.output
        )
        self.outputs = frozenset(self.output if isinstance(self.output, list) else [self.output])
        self.left = len(self.outputs)
        self.catching = -1  # innermost scope, this one included, whose owner catches
        # A step that is its scope's output and returns steps hands its own place on: the new scope
        # delivers straight to the owner of the first one (its head), so that a chain of tail calls
        # stays flat however long it grows.
        self.head = -1
        self.chained = 0  # steps between this head's owner and the current output
        self.followers: list[int] | None = None  # dependents of those steps
        self.result: Packed | None = None
        self.delivered = False  # whether the output has ended; for heads
        self.inner: list[int] | None = None  # scopes opened by steps of this one
        self.closed = False
