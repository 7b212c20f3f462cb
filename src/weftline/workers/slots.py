"""What this machine has for steps, and what is taken of it: CPUs, GPUs and named resources.

Amounts are counted in ten-thousandths, so that a tenth ten times is one. CPUs are those of one
engine; GPUs and resources are there once for all processes that use the same home.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from weftline.core.policy import Placement
from weftline.workers.shares import Amount, Ranges

UNIT = 10_000
UNBOUNDED = 1 << 30

_VISIBLE = "CUDA_VISIBLE_DEVICES"
_NVIDIA = "/proc/driver/nvidia/gpus"
_CPU_QUOTA = "/sys/fs/cgroup/cpu.max"


class Ask(NamedTuple):
    """What one placement takes, in units."""

    cpus: int
    gpus: int
    resources: tuple[tuple[str, int], ...]


class Grant(NamedTuple):
    """What was taken for one child; `devices` are the ids of its GPUs."""

    cpus: int
    devices: tuple[str, ...]
    shares: list[tuple[Amount, Ranges]]


class Slots:
    """Hands out CPUs, GPUs and named resources. Used by one thread, but for `check`.

    GPUs are devices: a whole number takes whole devices, less than 1 takes a share of one device.
    """

    def __init__(
        self,
        num_cpus: float,
        num_gpus: float = 0,
        resources: Mapping[str, float] | None = None,
        devices: Sequence[str] = (),
    ) -> None:
        self.num_cpus, self.num_gpus = num_cpus, num_gpus
        self.resources = dict(resources or {})
        self._cpus = _units(num_cpus)
        self._amounts = {name: Amount(_units(n)) for name, n in self.resources.items()}
        self._known_devices = list(devices)
        self._devices: dict[str, Amount] = {}
        self._folder: Path | None = None
        self._add_devices()

    def share_in(self, folder: Path) -> None:
        """Share GPUs and resources with other processes that name this folder."""
        if self._folder is not None:
            return
        self._folder = folder
        for kind, amounts in (("gpu", self._devices), ("resource", self._amounts)):
            for name, amount in amounts.items():
                self._share(kind, name, amount)

    def grow(
        self,
        num_cpus: float | None,
        num_gpus: float | None,
        resources: Mapping[str, float],
    ) -> None:
        """Have at least that much from now on; what is more already stays."""
        if num_cpus is not None and num_cpus > self.num_cpus:
            self._cpus += _units(num_cpus) - _units(self.num_cpus)
            self.num_cpus = num_cpus
        if num_gpus is not None and num_gpus > self.num_gpus:
            self.num_gpus = num_gpus
            self._add_devices()
        for name, number in resources.items():
            if number > self.resources.get(name, 0):
                self.resources[name] = number
                if name not in self._amounts:
                    self._amounts[name] = Amount(0)
                    self._share("resource", name, self._amounts[name])
                self._amounts[name].total = _units(number)

    def _add_devices(self) -> None:
        """Have as many devices as there are GPUs."""
        gpus = _units(self.num_gpus)
        count = -(-gpus // UNIT)
        known = self._known_devices
        numbers = [str(n) for n in range(count + len(known))]
        names = [*known, *(each for each in numbers if each not in known)][:count]
        for position, name in enumerate(names):
            if name not in self._devices:
                self._devices[name] = Amount(0)
                self._share("gpu", name, self._devices[name])
            # The last device may be declared as a part of one: init(num_gpus=0.5).
            self._devices[name].total = min(UNIT, gpus - UNIT * position)

    def _share(self, kind: str, name: str, amount: Amount) -> None:
        if self._folder is not None:
            amount.share_at(self._folder / f"{kind}-{quote(name, safe='')}")

    def check(self, placement: Placement) -> str | None:
        """Why a step of this placement could never run here, or None."""
        if _units(placement.num_cpus) > _units(self.num_cpus):
            return _lack("num_cpus", placement.num_cpus, self.num_cpus)
        gpus = _units(placement.num_gpus)
        if gpus > UNIT and gpus % UNIT:
            return (
                f"asks for num_gpus={placement.num_gpus:g}, but a step takes whole GPUs or a share"
                " of one: give a whole number, or less than 1"
            )
        if gpus and _fitting([each.total for each in self._devices.values()], gpus) == 0:
            return _lack("num_gpus", placement.num_gpus, self.num_gpus)
        for name, amount in placement.resources:
            has = self.resources.get(name, 0)
            if _units(amount) > _units(has):
                return (
                    f"asks for {amount:g} of the resource {name!r} but this machine was declared"
                    f" to have {has:g} (init(resources=...) or WEFTLINE_RESOURCES declares it)"
                )
        return None

    def ask(self, placement: Placement) -> Ask:
        """What `placement` takes."""
        resources = tuple((name, _units(n)) for name, n in placement.resources if n)
        return Ask(_units(placement.num_cpus), _units(placement.num_gpus), resources)

    def count(self, ask: Ask) -> int:
        """How many more times `ask` could be taken now; `UNBOUNDED` when it asks for nothing."""
        found = self._cpus // ask.cpus if ask.cpus else UNBOUNDED
        if found and (ask.gpus or ask.resources):
            found = min(found, self.count_beside_cpus(ask))
        return found

    def count_beside_cpus(self, ask: Ask) -> int:
        """How many more times `ask` could be taken if only there were CPUs enough."""
        found = UNBOUNDED
        if ask.gpus:
            found = _fitting([each.free() for each in self._devices.values()], ask.gpus)
        for name, share in ask.resources:
            amount = self._amounts.get(name)
            found = min(found, amount.free() // share if amount is not None else 0)
        return found

    def take(self, ask: Ask) -> Grant | None:
        """Take `ask` until it is given back with `release`; None when it does not fit now."""
        if ask.cpus > self._cpus:
            return None
        wanted: list[tuple[Amount, int]] = []
        devices = self._choose_devices(ask.gpus)
        if ask.gpus and not devices:
            return None
        wanted += [(self._devices[name], min(ask.gpus, UNIT)) for name in devices]
        for name, share in ask.resources:
            if name not in self._amounts:
                return None
            wanted.append((self._amounts[name], share))
        grant = Grant(ask.cpus, devices, [])
        self._cpus -= ask.cpus
        for amount, share in wanted:
            taken = amount.take(share)
            if taken is None:  # another process was faster
                self.release(grant)
                return None
            grant.shares.append((amount, taken))
        return grant

    def release(self, grant: Grant) -> None:
        """Give back what `take` handed out."""
        self._cpus += grant.cpus
        for amount, taken in grant.shares:
            amount.give_back(taken)

    def _choose_devices(self, gpus: int) -> tuple[str, ...]:
        """Devices that have `gpus` free; none when there are not enough."""
        if not gpus:
            return ()
        free = {name: device.free() for name, device in self._devices.items()}
        if gpus < UNIT:
            # The fullest device that has room, so that whole ones stay whole.
            fitting = [name for name, left in free.items() if left >= gpus]
            return (min(fitting, key=lambda name: free[name]),) if fitting else ()
        whole = [name for name, left in free.items() if left == UNIT]
        count = gpus // UNIT
        return tuple(whole[:count]) if len(whole) >= count else ()


def find_slots(
    num_cpus: float | None,
    num_gpus: float | None,
    resources: Mapping[str, float] | None,
    environ: Mapping[str, str] = os.environ,
) -> Slots:
    """Slots as declared; what is None is found out from the machine.

    GPUs go by the ids in CUDA_VISIBLE_DEVICES where that is set, else by number.
    """
    visible = environ.get(_VISIBLE)
    devices = [] if visible is None else [each.strip() for each in visible.split(",")]
    devices = [name for name in devices if name]
    if num_gpus is None:
        num_gpus = _count_gpus() if visible is None else len(devices)
    cpus = _count_cpus() if num_cpus is None else num_cpus
    return Slots(cpus, num_gpus, resources, devices)


def _count_cpus() -> float:
    """CPUs this process may use: those it may be scheduled on, within its container's quota."""
    count = float(len(os.sched_getaffinity(0)))
    try:
        with open(_CPU_QUOTA) as file:
            quota, _, period = file.read().partition(" ")
        return min(count, max(1.0, float(-(-int(quota) // int(period)))))
    except (OSError, ValueError):  # no such file, or its quota is `max`
        return count


def _count_gpus() -> int:
    try:
        return len(os.listdir(_NVIDIA))
    except OSError:
        return 0


def _fitting(devices: Sequence[int], gpus: int) -> int:
    """How many times `gpus` fits into what is free of these devices."""
    if gpus < UNIT:
        return sum(free // gpus for free in devices)
    return sum(free == UNIT for free in devices) // (gpus // UNIT)


def _lack(name: str, asked: float, has: float) -> str:
    return (
        f"asks for {name}={asked:g} but this machine was declared to have {has:g}"
        f" (init({name}=...) or WEFTLINE_{name.upper()} declares it)"
    )


def _units(amount: float) -> int:
    """`amount` in units; something above nothing never becomes nothing."""
    return max(1, round(amount * UNIT)) if amount > 0 else 0
