"""What a run or a step waits for, in words and for programs."""

from typing import Any

from weftline.cli.terminal import duration, iso, moment, one_line
from weftline.core.policy import Placement
from weftline.core.waiting import Waiting, WaitingFor


def wait_text(waiting: Waiting, now: float) -> str:
    """What has to come, and when that is known; `now` in seconds since 1970."""
    match waiting.kind:
        case WaitingFor.TIMER:
            return "a timer" + _until(waiting, now)
        case WaitingFor.SIGNAL:
            return f"the signal {one_line(waiting.name or '', 60)!r}" + _until(waiting, now)
        case WaitingFor.EVENT:
            return "an event that it listens for"
        case WaitingFor.STEPS:
            return f"the end of {waiting.count or 1:,} of its inputs" + _until(waiting, now)
        case WaitingFor.RESOURCES:
            return asks_text(waiting.asks or Placement())
        case WaitingFor.RETRY:
            return "its next try" + _until(waiting, now)
        case WaitingFor.LIMIT:
            return "the limit on running workflows"
        case WaitingFor.CONTINUE:
            return "being continued: it is paused"
        case WaitingFor.RESUME:
            why = "nobody drives it" if waiting.reason is None else one_line(waiting.reason, 200)
            return f"being resumed: {why}"
        case WaitingFor.CONTROLLER:
            return "a controller: none is alive, or it has not come to it yet"


def steps_text(waiting: Waiting) -> str:
    """Which steps wait: the first and how many more."""
    names = waiting.steps
    if not names:
        return ""
    more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
    return one_line(names[0], 60) + more


def asks_text(placement: Placement) -> str:
    """What a step of this placement occupies: `2 CPUs, 1 GPU, 0.5 licence`."""
    parts = []
    for amount, noun in ((placement.num_cpus, "CPU"), (placement.num_gpus, "GPU")):
        if amount:
            parts.append(f"{amount:g} {noun}{'' if amount <= 1 else 's'}")
    parts += [f"{amount:g} {one_line(name, 40)}" for name, amount in placement.resources if amount]
    return ", ".join(parts) or "a process"


def joined(waits: list[Waiting]) -> list[Waiting]:
    """Those of one kind as one, with the first of their ends: few lines for many timers."""
    found: dict[tuple[Any, ...], list[Waiting]] = {}
    for each in waits:
        found.setdefault((each.kind, each.name, each.count, each.asks, each.reason), []).append(
            each
        )
    return [
        Waiting(
            kind=alike[0].kind,
            steps=tuple(name for each in alike for name in each.steps),
            since=min((each.since for each in alike if each.since is not None), default=None),
            until=min((each.until for each in alike if each.until is not None), default=None),
            name=alike[0].name,
            count=alike[0].count,
            asks=alike[0].asks,
            reason=alike[0].reason,
        )
        for alike in found.values()
    ]


def wait_document(waiting: Waiting) -> dict[str, Any]:
    """A wait for programs; `until` is when it goes on at the latest."""
    asks = waiting.asks
    return {
        "for": waiting.kind.value,
        "steps": list(waiting.steps),
        "since": iso(waiting.since),
        "until": iso(waiting.until),
        "signal": waiting.name,
        "count": waiting.count,
        "asks": None if asks is None else placement_document(asks),
        "reason": waiting.reason,
    }


def placement_document(placement: Placement) -> dict[str, Any]:
    """What a step occupies, for programs; `memory` in bytes, 0 is no limit."""
    return {
        "num_cpus": placement.num_cpus,
        "num_gpus": placement.num_gpus,
        "resources": dict(placement.resources),
        "memory": placement.memory,
    }


def _until(waiting: Waiting, now: float) -> str:
    if waiting.until is None:
        return ""
    left = waiting.until - now
    if left <= 0:
        return ", due now"
    clock = moment(waiting.until)
    if clock[:10] == moment(now)[:10]:
        clock = clock[11:]
    return f" until {clock} (in {duration(left)})"
