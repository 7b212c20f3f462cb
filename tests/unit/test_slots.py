"""What a machine has for steps: amounts, devices, and what other processes took."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from weftline.core.policy import Placement
from weftline.workers.shares import Amount, Places
from weftline.workers.slots import UNBOUNDED, Slots, find_slots


def placement(num_cpus: float = 0.0, num_gpus: float = 0.0, **resources: float) -> Placement:
    return Placement(
        num_cpus=num_cpus, num_gpus=num_gpus, resources=tuple(sorted(resources.items()))
    )


def taken(slots: Slots, wanted: Placement) -> list[tuple[str, ...]]:
    """Take `wanted` as often as it fits; the devices of each time."""
    found = []
    while (grant := slots.take(slots.ask(wanted))) is not None:
        found.append(grant.devices)
    return found


def test_cpus_are_taken_and_given_back() -> None:
    slots = Slots(2)
    ask = slots.ask(placement(1))
    first, second = slots.take(ask), slots.take(ask)
    assert first is not None
    assert second is not None
    assert slots.count(ask) == 0
    assert slots.take(ask) is None
    slots.release(first)
    assert slots.count(ask) == 1
    slots.release(second)
    assert slots.count(ask) == 2


def test_a_tenth_fits_ten_times_and_nothing_is_lost_by_rounding() -> None:
    slots = Slots(1)
    ask = slots.ask(placement(0.1))
    for _ in range(50):
        grants = []
        while (grant := slots.take(ask)) is not None:
            grants.append(grant)
        assert len(grants) == 10
        for grant in grants:
            slots.release(grant)


@pytest.mark.parametrize(("share", "times"), [(1 / 3, 3), (0.3, 3), (1e-9, 10_000), (1.5, 0)])
def test_shares_fit_as_often_as_one_would_think(share: float, times: int) -> None:
    assert len(taken(Slots(1), placement(share))) == times


def test_what_asks_for_nothing_always_fits() -> None:
    slots = Slots(0)
    assert slots.count(slots.ask(placement())) == UNBOUNDED
    assert slots.take(slots.ask(placement())) is not None


def test_whole_gpus_are_whole_devices() -> None:
    slots = Slots(8, 3)
    assert taken(slots, placement(num_gpus=2)) == [("0", "1")]
    assert taken(slots, placement(num_gpus=1)) == [("2",)]


def test_shares_of_gpus_fill_one_device_before_they_begin_another() -> None:
    slots = Slots(8, 2)
    half = slots.ask(placement(num_gpus=0.5))
    assert slots.count(half) == 4
    first = slots.take(half)
    assert first is not None
    assert first.devices == ("0",)
    assert slots.count(slots.ask(placement(num_gpus=1))) == 1
    assert taken(slots, placement(num_gpus=0.5)) == [("0",), ("1",), ("1",)]
    slots.release(first)
    assert taken(slots, placement(num_gpus=0.5)) == [("0",)]


def test_a_part_of_a_gpu_can_be_declared() -> None:
    slots = Slots(8, 0.5)
    assert slots.check(placement(num_gpus=0.5)) is None
    assert slots.check(placement(num_gpus=1)) is not None
    assert taken(slots, placement(num_gpus=0.25)) == [("0",), ("0",)]


def test_gpus_go_by_the_ids_that_are_visible() -> None:
    slots = find_slots(1, 2, {}, {"CUDA_VISIBLE_DEVICES": "3, GPU-77,5"})
    assert taken(slots, placement(num_gpus=1)) == [("3",), ("GPU-77",)]
    assert find_slots(1, None, {}, {"CUDA_VISIBLE_DEVICES": "3,4"}).num_gpus == 2
    assert find_slots(1, None, {}, {"CUDA_VISIBLE_DEVICES": ""}).num_gpus == 0
    assert taken(Slots(1, 2, {}, ["1"]), placement(num_gpus=1)) == [("1",), ("0",)]


def test_cpus_are_found_out() -> None:
    assert 1 <= find_slots(None, None, None, {}).num_cpus <= len(os.sched_getaffinity(0))


def test_resources_by_name() -> None:
    slots = Slots(8, resources={"licence": 1.5, "disk": 2})
    assert taken(slots, placement(licence=0.5, disk=1)) == [(), ()]
    assert taken(slots, placement(licence=0.5)) == [()]
    assert slots.count(slots.ask(placement(licence=0.5))) == 0
    assert slots.count(slots.ask(placement(unknown=1))) == 0


def test_what_does_not_fit_takes_nothing() -> None:
    slots = Slots(4, 1, {"licence": 1})
    both = slots.ask(placement(1, 1, licence=1))
    assert slots.take(slots.ask(placement(licence=1))) is not None
    assert slots.take(both) is None
    assert slots.count(slots.ask(placement(1, 1))) == 1
    assert slots.count(slots.ask(placement(4))) == 1


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        (placement(3), "asks for num_cpus=3 but this machine was declared to have 2 (init(num_c"),
        (placement(2.5), "num_cpus=2.5"),
        (placement(num_gpus=2), "num_gpus=2 but this machine was declared to have 1 (init(num_gp"),
        (placement(num_gpus=1.5), "a step takes whole GPUs or a share of one"),
        (placement(licence=2), "2 of the resource 'licence' but this machine was declared to have"),
        (placement(unknown=1), "1 of the resource 'unknown' but this machine was declared to hav"),
    ],
)
def test_more_than_there_is_is_told(wanted: Placement, says: str) -> None:
    reason = Slots(2, 1, {"licence": 1}).check(wanted)
    assert reason is not None
    assert says in reason


def test_what_fits_is_not_complained_of() -> None:
    slots = Slots(2, 1, {"licence": 1})
    assert taken(slots, placement(2, 1, licence=1)) == [("0",)]
    assert slots.check(placement(2, 1, licence=1)) is None
    assert slots.check(placement(0.1, 0.1, licence=0.1)) is None
    assert slots.check(placement()) is None


# -- shared with other processes ----------------------------------------------------------------


class Other:
    """Another process, with an amount of its own on the same file."""

    def __init__(self, total: int, path: Path) -> None:
        source = """
            import sys
            from pathlib import Path
            from weftline.workers.shares import Amount, Places

            amount = Amount(int(sys.argv[1]), Path(sys.argv[2]))
            shares = []
            for line in sys.stdin:
                share = int(line)
                if share > 0:
                    shares.append(amount.take(share))
                elif share < 0:
                    amount.give_back(shares.pop(0))
                print(amount.free(), flush=True)
            """
        self._process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(source), str(total), str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def take(self, share: int) -> int:
        """Take so much (negative: give the oldest share back); what is free then."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{share}\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


def test_what_one_process_takes_another_does_not_have(tmp_path: Path) -> None:
    amount, other = Amount(100, tmp_path / "it"), Other(100, tmp_path / "it")
    try:
        assert other.take(30) == 70
        assert amount.free() == 70
        assert amount.take(71) is None
        mine = amount.take(50)
        assert mine is not None
        assert other.take(0) == 20
        assert other.take(10) == 10
        amount.give_back(mine)
        assert other.take(-1) == 90  # the first 30
        pieces = amount.take(90)  # before and behind what the other still has
        assert pieces is not None
        assert len(pieces) == 2
        assert amount.free() == 0
        amount.give_back(pieces)
        assert amount.free() == 90
    finally:
        other.kill()


def test_what_a_dead_process_had_is_free(tmp_path: Path) -> None:
    amount, other = Amount(100, tmp_path / "it"), Other(100, tmp_path / "it")
    assert other.take(100) == 0
    assert amount.take(1) is None
    other.kill()
    assert amount.take(100) == [(0, 100)]


def test_processes_that_declare_different_amounts_agree_on_what_is_taken(tmp_path: Path) -> None:
    amount, other = Amount(50, tmp_path / "it"), Other(100, tmp_path / "it")
    try:
        assert other.take(40) == 60
        assert amount.free() == 10
        assert other.take(60) == 0
        assert amount.free() == 0
    finally:
        other.kill()


def test_gpus_and_resources_are_shared_and_cpus_are_not(tmp_path: Path) -> None:
    slots = Slots(1, 2, {"a/licence": 1})
    slots.share_in(tmp_path)
    first = Other(10_000, tmp_path / "gpu-0")
    second = Other(10_000, tmp_path / "resource-a%2Flicence")
    try:
        assert (first.take(10_000), second.take(5_000)) == (0, 5_000)
        assert slots.count(slots.ask(placement(1))) == 1
        assert slots.count(slots.ask(Placement(num_cpus=0, resources=(("a/licence", 0.5),)))) == 1
        assert slots.count(slots.ask(Placement(num_cpus=0, resources=(("a/licence", 1.0),)))) == 0
        assert taken(slots, placement(num_gpus=1)) == [("1",)]
    finally:
        first.kill()
        second.kill()


# -- what grows, and places to run --------------------------------------------------------------


def test_slots_grow_and_never_shrink(tmp_path: Path) -> None:
    slots = Slots(2, 1, {"licence": 1})
    slots.share_in(tmp_path)
    grant = slots.take(slots.ask(placement(2, 1, licence=1)))
    assert grant is not None
    slots.grow(3, 2, {"licence": 2, "seat": 1})
    slots.grow(1, 0, {"licence": 1})
    slots.grow(None, None, {})
    assert (slots.num_cpus, slots.num_gpus) == (3, 2)
    assert slots.resources == {"licence": 2, "seat": 1}
    assert slots.check(placement(3, 2, licence=2, seat=1)) is None
    assert taken(slots, placement(1, 1, licence=1, seat=1)) == [("1",)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("gpu-0", "gpu-1", "resource-licence", "resource-seat")
    ]
    slots.release(grant)
    assert slots.count(slots.ask(placement(2, 1, licence=1))) == 1


def test_a_share_of_a_device_grows_to_a_whole_one() -> None:
    slots = Slots(1, 0.5)
    assert slots.check(placement(0, 1)) is not None
    slots.grow(None, 1, {})
    assert len(taken(slots, placement(0, 0.5))) == 2


def test_places_may_become_fewer_than_are_taken(tmp_path: Path) -> None:
    places = Places(3, tmp_path / "places")
    held = [places.take() for _ in range(3)]
    assert None not in held
    places.have(1)
    assert places.take() is None
    for each in held[:2]:
        assert each is not None
        places.give_back(each)
    assert places.take() is not None  # the one that is left lies beyond the first
    assert places.take() is None
    places.have(2)
    assert places.take() is not None
