"""A graph: steps, what flows between them, and the checks that every front-end shares."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from hashlib import sha256
from typing import Any

import msgspec
from msgspec import Struct

from weftline.core.actions import Action, PythonCall
from weftline.core.policy import DEFAULT_PLACEMENT, DEFAULT_POLICY, Placement, Policy

PAGE_STEPS = 1000
"""Steps of a graph that are stored together."""


class Join(StrEnum):
    """When a step with several inputs may begin."""

    ALL_SUCCEEDED = "all_succeeded"
    ALL_DONE = "all_done"
    ONE_SUCCEEDED = "one_succeeded"


class OptionalInput(Struct, frozen=True, omit_defaults=True, tag="optional"):
    """The value of a step, or `default` (a packed value) when that step was skipped."""

    step: int
    default: bytes | None = None


class OuterInput(Struct, frozen=True, tag="outer"):
    """The value of a step that the run has already, by its number in the run.

    Those that an actor has laid down count, so that a number kept in its state never means another
    step later.
    """

    number: int


class GivenInput(Struct, frozen=True, tag="given"):
    """A packed value that existed before the run."""

    value: bytes


Input = int | list[int] | OptionalInput | OuterInput | GivenInput
"""The value of a step, a list of the values of steps, or one of the above. Steps are named by
their position in the graph, where nothing else is said."""


class Step(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One node: what to do, with what, where, and how hard to try."""

    name: str
    action: Action
    inputs: tuple[Input, ...] = ()
    needs: tuple[int, ...] = ()  # order only: no data flows along it
    when: str | None = None
    join: Join = Join.ALL_SUCCEEDED
    placement: Placement = DEFAULT_PLACEMENT
    policy: Policy = DEFAULT_POLICY
    metadata: dict[str, Any] | None = None

    def upstream(self) -> Iterator[int]:
        """Positions of the steps that end before this one starts; repeated if used repeatedly."""
        for entry in self.inputs:
            if type(entry) is int:
                yield entry
            elif type(entry) is list:
                yield from entry
            elif isinstance(entry, OptionalInput):
                yield entry.step
        yield from self.needs

    def outer(self) -> list[int]:
        """Numbers in the run of the steps outside of its graph that it reads."""
        return [entry.number for entry in self.inputs if isinstance(entry, OuterInput)]


class Graph(Struct, frozen=True, kw_only=True):
    """Steps in the order in which they get their names, and the step(s) whose value counts.

    With `output` a list, the value is the list of those steps' values.
    """

    steps: Sequence[Step]
    output: int | list[int]


def problems_of(graph: Graph) -> list[str]:
    """Everything that is wrong with the graph's shape, in words; empty when it is sound."""
    count = len(graph.steps)
    found = [] if count else ["the graph has no step"]
    outputs = graph.output if isinstance(graph.output, list) else [graph.output]
    found += [] if outputs else ["the graph has no output"]
    found += [f"the output {n} is not a step" for n in outputs if not 0 <= n < count]
    for step in graph.steps:
        found += [
            f"step {step.name!r} takes its input from position {n}, which is not in the graph"
            for n in step.upstream()
            if not 0 <= n < count
        ]
    # Front-ends put a step before those it reads from; then there is no circle to look for.
    is_ordered = all(n > at for at, step in enumerate(graph.steps) for n in step.upstream())
    if not found and not is_ordered and (circle := find_cycle(graph)):
        found.append("steps wait for each other in a circle: " + " -> ".join(circle))
    return found


def find_cycle(graph: Graph) -> list[str]:
    """Names along one circle of steps, first and last the same; empty when there is none."""
    waiting_on = [len(set(step.upstream())) for step in graph.steps]
    dependents: list[list[int]] = [[] for _ in graph.steps]
    for position, step in enumerate(graph.steps):
        for source in set(step.upstream()):
            dependents[source].append(position)
    free = deque(n for n, count in enumerate(waiting_on) if count == 0)
    while free:
        for n in dependents[free.popleft()]:
            waiting_on[n] -= 1
            if waiting_on[n] == 0:
                free.append(n)
    # Every step that is still waiting has an input that is still waiting, so walking up must come
    # back to a step that was seen.
    here = next((n for n, count in enumerate(waiting_on) if count), None)
    if here is None:
        return []
    seen: dict[int, int] = {}
    path: list[int] = []
    while here not in seen:
        seen[here] = len(path)
        path.append(here)
        here = next(n for n in graph.steps[here].upstream() if waiting_on[n])
    circle = [*path[seen[here] :], here]
    return [graph.steps[n].name for n in reversed(circle)]


def differences(recorded: Graph, written: Graph) -> list[str]:
    """What a person changed since the graph was recorded, in words; at most ten lines.

    Arguments are compared where equal arguments are sure to give equal bytes.
    """
    found: list[str] = []
    if len(recorded.steps) != len(written.steps):
        found.append(f"it had {len(recorded.steps)} steps and now has {len(written.steps)}")
    for old, new in zip(recorded.steps, written.steps, strict=False):
        if len(found) == 10:
            break
        if old.name != new.name:
            found.append(f"step {old.name!r} is now {new.name!r}")
        elif old.inputs != new.inputs or old.needs != new.needs:
            found.append(f"step {old.name!r} has other inputs")
        elif (old.policy, old.placement) != (new.policy, new.placement):
            found.append(f"step {old.name!r} has other options")
        elif isinstance(old.action, PythonCall) and isinstance(new.action, PythonCall):
            if old.action.code != new.action.code:
                found.append(f"the code of step {old.name!r} was edited")
            elif (
                old.action.is_plain
                and new.action.is_plain
                and old.action.arguments != new.action.arguments
            ):
                found.append(f"step {old.name!r} has other arguments")
    return found


_page_encoder = msgspec.msgpack.Encoder()
_page_decoder: msgspec.msgpack.Decoder[list[Step]] = msgspec.msgpack.Decoder(list[Step])


class Pages:
    """Steps as pages, which are made whenever they are asked for: kept, they would take as much
    memory again as the steps."""

    __slots__ = ("_steps",)

    def __init__(self, steps: Sequence[Step]) -> None:
        self._steps = steps

    def __iter__(self) -> Iterator[bytes]:
        for start in range(0, len(self._steps), PAGE_STEPS):
            yield _page_encoder.encode(self._steps[start : start + PAGE_STEPS])

    def hash(self) -> str:
        """The hash of the content, which names the graph."""
        return hash_pages(self)


def hash_pages(pages: Iterable[bytes]) -> str:
    """The hash of the content of pages, which names their graph."""
    digest = sha256()
    for page in pages:
        digest.update(page)
    return digest.hexdigest()


def encode_pages(steps: Sequence[Step]) -> tuple[str, list[bytes]]:
    """The content hash of the steps, and their pages as they are stored and sent."""
    pages = Pages(steps)
    return pages.hash(), list(pages)


def decode_pages(pages: Iterable[bytes]) -> list[Step]:
    """The steps of all pages. Raises: msgspec.DecodeError."""
    return [step for page in pages for step in _page_decoder.decode(page)]
