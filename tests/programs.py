"""Random programs with a known result: what a run of them must come to, whatever happens to it.

A program is a plan of nodes. A node fails a number of times and then gives its value, or returns
another plan. `Program.result` is worked out from the plans alone, by recursion, and knows nothing
of events, scopes or engines.

A program's result does not depend on what ends first:

- All failures that one step catches are equal, so that it is no matter which of them climbs first.
- Where failures are caught, the value of a plan waits for all its steps.
- A step that begins with the first success of its inputs makes nothing of their values.

A failure that nobody catches fails the run. It stops when the run has been resumed often enough,
so that in the end there is always a result.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from zlib import crc32

from tests.graphs import CALL, packed, step
from weftline.core.actions import Action, Wait, WaitKind
from weftline.core.graph import Graph, Input, Join, OptionalInput, Step
from weftline.core.policy import Placement
from weftline.core.run import NOTHING
from weftline.core.values import Error, Packed, pack_caught, pack_list

DEFAULT = packed("default")
TOO_MUCH = Placement(num_cpus=1000.0)
"""What no machine of these tests has."""


@dataclass
class Edge:
    """Node `source` is read: as a value, in a list, with a default, or for the order only."""

    source: int
    kind: str


@dataclass
class Node:
    """A step, and how it behaves."""

    name: str
    edges: list[Edge] = field(default_factory=list)
    join: Join = Join.ALL_SUCCEEDED
    catch: bool = False
    caught_by: str | None = None  # the innermost step around it that catches
    tries: int = 1
    fails: int = 0  # tries that fail before one succeeds
    mode: str = "fail"  # or: timeout, greedy (returns a step that asks for too much)
    is_selective: bool = False  # with `retry_on`,
    is_matching: bool = True  # which matches or not
    losses: int = 0  # attempts whose process dies before one lives on
    delay_s: float = 0.0
    timeout_s: float | None = None
    holds: bool | None = None  # what its condition comes to
    wait: Action | None = None
    placement: Placement = field(default_factory=Placement)
    returns: "Plan | None" = None

    @property
    def breaks(self) -> bool:
        """Whether it fails for good, unless it is resumed."""
        return self.fails >= (self.tries if self.is_matching or not self.is_selective else 1)

    @property
    def error(self) -> Error:
        return Error(type="builtins.ValueError", text=f"caught by {self.caught_by or self.name}")

    def value(self, inputs: list[Packed]) -> Packed:
        """Its own value, in which every byte of its inputs counts."""
        if self.wait is not None:
            return NOTHING
        if self.join is Join.ONE_SUCCEEDED:
            inputs = []
        return packed(crc32(b"|".join([self.name.encode(), *inputs])))


@dataclass
class Plan:
    """Nodes, and which of them count as the value."""

    nodes: list[Node]
    output: int | list[int]

    @property
    def outputs(self) -> list[int]:
        return self.output if isinstance(self.output, list) else [self.output]

    def graph(self) -> Graph:
        return Graph(steps=[self._step(node) for node in self.nodes], output=self.output)

    def _step(self, node: Node) -> Step:
        inputs: list[Input] = []
        for edge in node.edges:
            if edge.kind == "value":
                inputs.append(edge.source)
            elif edge.kind == "list":
                inputs.append([edge.source, edge.source])
            elif edge.kind == "default":
                inputs.append(OptionalInput(edge.source, DEFAULT))
        return step(
            node.name,
            *inputs,
            needs=[edge.source for edge in node.edges if edge.kind == "needs"],
            join=node.join,
            when=None if node.holds is None else "a condition",
            action=node.wait or CALL,
            placement=node.placement,
            tries=node.tries,
            retry_delay_s=node.delay_s,
            retry_jitter=0.5,
            retry_selected=node.is_selective,
            timeout_s=node.timeout_s,
            catch=node.catch,
        )


@dataclass
class Outcome:
    """What a node or a plan comes to. `is_pair`: its value is the pair of a step that catches."""

    kind: str  # value, skipped, failed (and somebody bears it), climbs
    value: Packed | None = None
    is_pair: bool = False


class Program:
    """A plan, all nodes in it and in what it returns, and its result."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.nodes = {node.name: node for node in _all_nodes(plan)}
        self.graph = plan.graph()
        self.is_healing = any(
            node.breaks and not node.catch and node.caught_by is None
            for node in self.nodes.values()
        )
        """Whether a run of it may fail before it has its result."""

    def result(self) -> Packed:
        """The value of its runs, once they have one."""
        outcome = _plan_outcome(self.plan, None)
        assert outcome.kind in ("value", "skipped")
        return outcome.value or NOTHING

    def errors(self) -> list[Error]:
        """What a run of it may fail with."""
        return [node.error for node in self.nodes.values() if node.breaks]


def _all_nodes(plan: Plan) -> Iterator[Node]:
    for node in plan.nodes:
        yield node
        if node.returns is not None:
            yield from _all_nodes(node.returns)


# -- the result ---------------------------------------------------------------------------------


def _plan_outcome(plan: Plan, caught_by: str | None) -> Outcome:
    ends: dict[int, Outcome] = {}

    def end(position: int) -> Outcome:
        if position not in ends:
            node = plan.nodes[position]
            for edge in node.edges:
                end(edge.source)
            readers = [n for n in plan.nodes if any(e.source == position for e in n.edges)]
            is_borne = (
                bool(readers)
                and position not in plan.outputs
                and all(n.join is not Join.ALL_SUCCEEDED for n in readers)
            )
            ends[position] = _node_outcome(plan, node, ends, caught_by, is_borne)
        return ends[position]

    for position in range(len(plan.nodes)):
        end(position)
    if any(outcome.kind == "climbs" for outcome in ends.values()):
        return Outcome("climbs")
    if isinstance(plan.output, list):
        return Outcome("value", pack_list([ends[n].value or NOTHING for n in plan.output]))
    return ends[plan.output]


def _node_outcome(
    plan: Plan, node: Node, ends: dict[int, Outcome], caught_by: str | None, is_borne: bool
) -> Outcome:
    sources = [ends[edge.source] for edge in node.edges]
    kinds = [source.kind for source in sources]
    if "climbs" in kinds:
        return Outcome("climbs")
    if node.join is Join.ONE_SUCCEEDED and sources and "value" not in kinds:
        if "failed" not in kinds:
            return Outcome("skipped")
        if caught_by is not None:
            return Outcome("climbs")
        # Nobody bears these failures, so the run fails with them; resumed, one of them is mended.
    if node.join is Join.ALL_SUCCEEDED:
        for edge, source in zip(node.edges, sources, strict=True):
            has_default = any(e.kind == "default" and e.source == edge.source for e in node.edges)
            if source.kind != "value" and not has_default:
                return Outcome("skipped")
    if node.holds is False:
        return Outcome("skipped")
    return _ran(node, _inputs(node, ends), caught_by, is_borne)


def _inputs(node: Node, ends: dict[int, Outcome]) -> list[Packed]:
    inputs: list[Packed] = []
    for edge in node.edges:
        value = ends[edge.source].value
        if edge.kind == "value":
            inputs.append(value or NOTHING)
        elif edge.kind == "list":
            inputs.append(pack_list([value or NOTHING] * 2))
        elif edge.kind == "default":
            inputs.append(value or DEFAULT)
    return inputs


def _ran(node: Node, inputs: list[Packed], caught_by: str | None, is_borne: bool) -> Outcome:
    if node.breaks and node.catch:
        return Outcome("value", pack_caught(None, node.error), is_pair=True)
    if node.breaks and is_borne:
        return Outcome("failed")
    if node.breaks and caught_by is not None:
        return Outcome("climbs")
    if node.returns is None:
        value = node.value(inputs)
        return Outcome("value", pack_caught(value, None) if node.catch else value, node.catch)
    inner = _plan_outcome(node.returns, node.name if node.catch else caught_by)
    if not node.catch or inner.kind == "skipped":
        return inner
    if inner.kind == "climbs":
        error = Error(type="builtins.ValueError", text=f"caught by {node.name}")
        return Outcome("value", pack_caught(None, error), is_pair=True)
    assert inner.value is not None
    value = inner.value if inner.is_pair else pack_caught(inner.value, None)
    return Outcome("value", value, is_pair=True)


# -- making them up -----------------------------------------------------------------------------


class Author:
    """Makes programs up. With `for_engine`, only such as today's engine carries out."""

    def __init__(self, random: Random, *, for_engine: bool = False, max_nodes: int = 30) -> None:
        self._random, self._for_engine = random, for_engine
        self._left = max_nodes
        self._count = 0
        self._healing_left = random.choice([0, 0, 1, 2])

    def program(self) -> Program:
        return Program(self._plan(None, 0))

    def _chance(self, probability: float) -> bool:
        return self._random.random() < probability

    def _plan(self, caught_by: str | None, depth: int) -> Plan:
        random = self._random
        most = max(1, min(7 if depth == 0 else 5, self._left))
        size = random.randint(min(2, most) if depth == 0 else 1, most)
        self._left -= size
        nodes = [self._node(caught_by) for _ in range(size)]
        for source in range(1, size):
            if caught_by is None and self._chance(0.08):
                continue  # a loose step: nobody reads it
            for reader in {random.randrange(source) for _ in range(random.randint(1, 2))}:
                kind = random.choice(["value", "value", "list", "default", "needs"])
                nodes[reader].edges.append(Edge(source, kind))
                if self._chance(0.1):
                    nodes[reader].edges.append(Edge(source, "needs"))
        output: int | list[int] = 0
        if self._chance(0.15):
            output = [0] + [random.randrange(size) for _ in range(random.randint(0, 2))]
        self._join(nodes)
        for node in nodes:
            self._misbehave(node)
        firsts = self._sources_of_first(nodes)
        for position, node in enumerate(nodes):
            returns = self._chance(0.6 if node.catch else 0.35)
            if returns and position not in firsts and node.wait is None:
                if depth < 5 and self._left > 0:
                    node.returns = self._plan(node.name if node.catch else caught_by, depth + 1)
        plan = Plan(nodes, output)
        return self._shuffled(plan) if self._chance(0.3) else plan

    def _node(self, caught_by: str | None) -> Node:
        random = self._random
        self._count += 1
        node = Node(f"n{self._count}", caught_by=caught_by)
        node.catch = self._chance(0.25)
        if node.catch:
            node.caught_by = node.name
        if not self._for_engine:
            if self._chance(0.12):
                node.holds = self._chance(0.5)
            if self._chance(0.1):
                is_timer = self._chance(0.5)
                node.wait = (
                    Wait(WaitKind.TIMER, seconds=random.choice([0.0, 5.0]))
                    if is_timer
                    else Wait(WaitKind.SIGNAL, name="news")
                )
        elif self._chance(0.1):
            node.placement = Placement(num_cpus=0.5)
        return node

    def _join(self, nodes: list[Node]) -> None:
        for node in nodes:
            if node.edges and self._chance(0.3):
                node.join = Join.ALL_DONE
        for node in nodes:
            are_leaves = all(not nodes[edge.source].edges for edge in node.edges)
            if node.edges and are_leaves and self._chance(0.25):
                node.join = Join.ONE_SUCCEEDED
        # Whether these have a value when others read them may depend on what ended first.
        firsts = self._sources_of_first(nodes)
        for node in nodes:
            if node.join is Join.ALL_DONE:
                for edge in node.edges:
                    if edge.source in firsts:
                        edge.kind = "needs"

    @staticmethod
    def _sources_of_first(nodes: list[Node]) -> set[int]:
        joins = [node for node in nodes if node.join is Join.ONE_SUCCEEDED]
        return {edge.source for node in joins for edge in node.edges}

    def _misbehave(self, node: Node) -> None:
        random = self._random
        if node.wait is not None:
            return
        if self._for_engine and self._chance(0.03):
            node.losses = random.randint(1, 5)
        if not self._chance(0.3):
            return
        node.tries = random.randint(1, 3)
        node.fails = random.randint(1, 3)
        if node.catch and self._chance(0.5):
            node.tries = node.fails + 1  # so that more is caught from below than its own failure
        node.delay_s = random.choice([0.0, 0.0, 0.5, 3.0])
        if self._chance(0.2):
            node.is_selective, node.is_matching = True, self._chance(0.7)
        if node.breaks and node.caught_by is None:
            # Few enough that most runs have a result without being resumed.
            if self._healing_left == 0:
                node.tries, node.is_matching = node.fails + 1, True
            else:
                self._healing_left -= 1
        # Time-outs and lacking resources are told in the engine's own words, and `retry_on` has its
        # own view of them.
        has_own_words = not ((node.breaks and node.caught_by is not None) or node.is_selective)
        if self._for_engine and has_own_words:
            node.mode = random.choice(["fail", "fail", "timeout", "greedy"])
            if node.mode == "timeout":
                node.timeout_s = 2.0

    def _shuffled(self, plan: Plan) -> Plan:
        order = list(range(len(plan.nodes)))
        self._random.shuffle(order)
        place = {old: new for new, old in enumerate(order)}
        for node in plan.nodes:
            for edge in node.edges:
                edge.source = place[edge.source]
        nodes = [plan.nodes[old] for old in order]
        if isinstance(plan.output, list):
            return Plan(nodes, [place[n] for n in plan.output])
        return Plan(nodes, place[plan.output])
