"""Random programs with a known result: what a run of them must come to, whatever happens to it.

A program is a plan of nodes. A node fails a number of times and then gives its value, or returns
another plan. `Program.result` is worked out from the plans alone, by recursion, and knows nothing
of events, scopes or engines.

A program's result does not depend on what ends first:

- All failures that one step catches are equal, so that it is no matter which of them climbs first.
- Where failures are caught, the value of a plan waits for all its steps.
- A step that begins with the first success of its inputs makes nothing of their values.
- What a wait for some of many steps finds is different each time. Its one reader *gathers*: it
  returns a wait for what was left and itself again, until it has all values, in whatever order.

A failure that nobody catches fails the run. It stops when the run has been resumed often enough,
so that in the end there is always a result.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from zlib import crc32

import msgspec

from tests.graphs import CALL, LISTEN, method, packed, some, step
from weftline.core.actions import Wait, WaitKind
from weftline.core.graph import (
    GivenInput,
    Graph,
    Input,
    Join,
    OptionalInput,
    OuterInput,
    Step,
)
from weftline.core.policy import Placement
from weftline.core.values import NOTHING, Error, Packed, Split, pack, pack_caught, pack_list, unpack

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
    mode: str = "fail"  # or: timeout, outgrown, greedy (returns a step that asks for too much)
    is_selective: bool = False  # with `retry_on`,
    is_matching: bool = True  # which matches or not
    losses: int = 0  # attempts whose process dies before one lives on
    delay_s: float = 0.0
    timeout_s: float | None = None
    holds: bool | None = None  # what its condition comes to
    wait: Wait | None = None
    gathers: str | None = None  # the name of the node that began to gather what it gathers
    listens: bool = False
    checkpoint: bool | None = None
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
            return signal_value(self.wait.name) if self.wait.name else NOTHING
        if self.join is Join.ONE_SUCCEEDED:
            inputs = []
        if self.gathers is not None:
            inputs = sorted(inputs)
        name = self.gathers or self.name
        return packed(crc32(b"|".join([name.encode(), *inputs])))

    def outcome(self, inputs: list[Packed]) -> "Packed | Graph":
        """What it returns, unless it fails: its value, or the graph of further steps."""
        if self.returns is not None:
            return self.returns.graph()
        return self.value(inputs) if self.gathers is None else self._gathered(inputs)

    def _gathered(self, inputs: list[Packed]) -> "Packed | Graph":
        *found, last = inputs
        split = unpack(last)
        assert isinstance(split, Split)
        found += map(pack, split.ready)
        if not split.left:
            return self.value(found)
        left = [OuterInput(number) for number in split.left]
        given = [GivenInput(value) for value in found]
        again = step(f"{self.gathers}.g{len(found)}", *given, 1)
        wait = some(f"{self.gathers}.w{len(found)}", *left, count=1 + len(found) % 2)
        return Graph(steps=[again, wait], output=0)


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
            action=node.wait or (LISTEN if node.listens else CALL),
            placement=node.placement,
            tries=node.tries,
            retry_delay_s=node.delay_s,
            retry_jitter=0.5,
            retry_selected=node.is_selective,
            timeout_s=node.timeout_s,
            catch=node.catch,
            checkpoint=node.checkpoint,
        )


@dataclass
class Outcome:
    """What a node or a plan comes to. `is_pair`: its value is the pair of a step that catches."""

    kind: str  # value, skipped, failed (and somebody bears it), climbs
    value: Packed | None = None
    is_pair: bool = False
    parts: list[Packed] | None = None  # what a wait for steps finds, all in all


class Program:
    """A plan, all nodes in it and in what it returns, and its result."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.nodes = {node.name: node for node in _all_nodes(plan)}
        self.graph = plan.graph()
        self.is_healing = any(
            (node.breaks and not node.catch and node.caught_by is None)
            or (node.wait is not None and node.wait.name and node.wait.seconds is not None)
            for node in self.nodes.values()
        )
        """Whether a run of it may fail before it has its result."""
        self.signals = [
            node.wait.name for node in self.nodes.values() if node.wait and node.wait.name
        ]
        """Names of the signals that its runs wait for, as often as they do at most."""
        self.is_gathering = any(node.gathers for node in self.nodes.values())

    is_actor = False

    def node_of(self, name: str) -> Node:
        return self.nodes[name]

    def result(self) -> Packed:
        """The value of its runs, once they have one."""
        outcome = _plan_outcome(self.plan, None)
        assert outcome.kind in ("value", "skipped")
        return outcome.value or NOTHING

    def errors(self) -> list[Error]:
        """What a run of it may fail with."""
        return [node.error for node in self.nodes.values() if node.breaks]


class ActorProgram:
    """A virtual actor whose methods add their names to its state, and may return further ones."""

    is_actor = True
    is_healing = is_gathering = True
    signals: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.graph = Graph(steps=[method("__init__")], output=0)
        self.nodes: dict[str, Node] = {}

    def node_of(self, name: str) -> Node:
        if name not in self.nodes:
            node = self.nodes[name] = Node(name)
            node.fails = 0 if crc32(name.encode()) % 9 else 1
        return self.nodes[name]

    @staticmethod
    def call(number: int, kind: str) -> list[Step]:
        """The steps of a call; the first is the method."""
        name = f"c{number}:{kind}"
        return [method(name, 1), step(f"c{number}:input")] if kind == "read" else [method(name)]

    @staticmethod
    def returned(name: str) -> Graph | None:
        """The steps that the method of this name returns, if it does."""
        base, _, kind = name.partition(":")
        if kind == "all":
            parts = [method(f"{base}:part{n}") for n in range(3)]
            return Graph(steps=[step(f"{base}:sum", 1, 2, 3), *parts], output=0)
        if kind.startswith("chain") and kind.count("+") < 3:
            return Graph(steps=[method(f"{base}:{kind}+")], output=0)
        return None

    @staticmethod
    def size(kind: str) -> int:
        """How many names a call of this kind adds in all."""
        return {"all": 4, "chain": 4}.get(kind, 1)


def _all_nodes(plan: Plan) -> Iterator[Node]:
    for node in plan.nodes:
        yield node
        if node.returns is not None:
            yield from _all_nodes(node.returns)
        if node.gathers is not None:
            for count in range(len(plan.nodes)):
                yield Node(f"{node.name}.g{count}", gathers=node.name, caught_by=node.caught_by)
                yield Node(f"{node.name}.w{count}", wait=Wait(WaitKind.STEPS))


def signal_value(name: str) -> Packed:
    """What all signals of this name say."""
    return packed(f"signal {name}")


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
    if node.wait is not None and node.wait.kind is WaitKind.STEPS:
        found = {edge.source: ends[edge.source].value or NOTHING for edge in node.edges}
        return Outcome("value", NOTHING, parts=list(found.values()))
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
        value, parts = ends[edge.source].value, ends[edge.source].parts
        if parts is not None and edge.kind == "value":
            inputs += parts
        elif edge.kind == "value":
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
        if self._chance(0.25):
            self._gather(nodes, size, caught_by)
        self._join(nodes)
        for node in nodes:
            self._misbehave(node)
        self._settle_joins(nodes, [output] if isinstance(output, int) else output)
        self._limit_signals(nodes)
        firsts = self._sources_of_first(nodes)
        for position, node in enumerate(nodes):
            returns = self._chance(0.6 if node.catch else 0.35)
            is_plain = node.wait is None and node.gathers is None and not node.listens
            if returns and position not in firsts and is_plain:
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
        if self._chance(0.12):
            node.checkpoint = self._chance(0.2)
        if not self._for_engine and self._chance(0.12):
            node.holds = self._chance(0.5)
        if self._chance(0.1):
            if self._chance(0.5):
                node.wait = Wait(WaitKind.TIMER, seconds=random.choice([0.0, 0.5, 5.0]))
            else:
                node.wait = Wait(WaitKind.SIGNAL, name=random.choice(["news", "more"]))
        elif self._for_engine and self._chance(0.1):
            node.placement = Placement(num_cpus=0.5)
        elif self._for_engine and self._chance(0.05):
            node.listens = True
        return node

    def _gather(self, nodes: list[Node], size: int, caught_by: str | None) -> None:
        """Let one of the nodes read what some others come to, who are waited for one by one."""
        random = self._random
        sources = [self._node(caught_by) for _ in range(random.randint(1, 4))]
        seconds = random.choice([None, None, 0.5, 3.0])
        waits = Node(
            f"{sources[0].name}.w",
            [Edge(size + 2 + n, "value") for n in range(len(sources))],
            wait=Wait(WaitKind.STEPS, count=random.randint(1, len(sources)), seconds=seconds),
            caught_by=caught_by,
        )
        name = f"{sources[0].name}.g"
        gathers = Node(name, [Edge(size + 1, "value")], gathers=name, caught_by=caught_by)
        nodes[random.randrange(size)].edges.append(Edge(size, random.choice(["value", "list"])))
        nodes += [gathers, waits, *sources]

    def _limit_signals(self, nodes: list[Node]) -> None:
        """Some signals come too late for a while, where that fails the run and nothing else."""
        for position, node in enumerate(nodes):
            readers = [n for n in nodes if any(edge.source == position for edge in n.edges)]
            is_borne = any(reader.join is not Join.ALL_SUCCEEDED for reader in readers)
            is_signal = node.wait is not None and node.wait.name is not None
            if is_signal and node.caught_by is None and not is_borne and self._chance(0.3):
                assert node.wait is not None
                node.wait = msgspec.structs.replace(node.wait, seconds=20.0)

    def _join(self, nodes: list[Node]) -> None:
        joining = [n for n in nodes if n.gathers is None and n.wait is None]
        for node in joining:
            if node.edges and self._chance(0.3):
                node.join = Join.ALL_DONE
        for node in joining:
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
    def _settle_joins(nodes: list[Node], outputs: list[int]) -> None:
        """A failure that others need is borne only as long as nobody gathers what it prevents; then
        the run fails of it and tries it again. A join may have begun meanwhile, or not."""
        for position, source in enumerate(nodes):
            edges = [(n, e) for n in nodes for e in n.edges if e.source == position]
            is_read = any(node.join is Join.ALL_SUCCEEDED for node, _ in edges)
            is_needed = is_read or position in outputs
            if source.breaks and source.caught_by is None and is_needed:
                for node, edge in edges:
                    if node.join is Join.ALL_DONE:
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
        if node.breaks and (node.caught_by is None or node.gathers is not None):
            # Few enough that most runs have a result without being resumed. (And whether it has
            # begun to gather what fails must not matter.)
            if self._healing_left == 0 or node.gathers is not None:
                node.tries, node.is_matching = node.fails + 1, True
            else:
                self._healing_left -= 1
        # Time-outs and lacking resources are told in the engine's own words, and `retry_on` has its
        # own view of them.
        has_own_words = not ((node.breaks and node.caught_by is not None) or node.is_selective)
        if self._for_engine and has_own_words:
            node.mode = random.choice(["fail", "fail", "timeout", "outgrown", "greedy"])
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
