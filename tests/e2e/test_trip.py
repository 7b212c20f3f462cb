"""The trip of examples/trip: whatever dies, nothing is booked twice, and all of it or nothing."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.commands import Weft
from tests.e2e.conftest import eventually

TRIP = str(Path(__file__).parents[2] / "examples" / "trip" / "workflow.py")
WHAT = ["OAK-SAN 6/12", "SAN 6/12 to 7/5", "SAN-OAK 7/5"]


@pytest.fixture
def weft(tmp_path: Path) -> Iterator[Weft]:
    made = Weft(tmp_path)
    yield made
    made.close()


def lines(weft: Weft) -> list[dict[str, object]]:
    """All that the services wrote down, in order."""
    files = sorted((weft.folder / "trip-out").glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def test_a_trip_is_booked_once_although_every_booking_dies(weft: Weft) -> None:
    out, _ = weft("run", TRIP, "--id", "trip", "--param", "crash=true", "-q")
    assert "canceled=[]" in out
    assert sorted(str(line["what"]) for line in lines(weft)) == WHAT
    assert len({line["token"] for line in lines(weft)}) == 3
    assert weft("run", TRIP, "--id", "trip", "-q")[0] == out
    assert len(lines(weft)) == 3


def test_without_a_room_the_flights_are_canceled(weft: Weft) -> None:
    out, _ = weft("run", TRIP, "--param", "dest=RNO", "-q")
    assert "booked=[]" in out
    told = Counter((line["what"], line["is_canceled"]) for line in lines(weft))
    flights = ["OAK-RNO 6/12", "RNO-OAK 7/5"]
    assert told == Counter({(what, is_it): 1 for what in flights for is_it in (False, True)})


@pytest.mark.parametrize(("answer", "booked"), [("true", WHAT), ("false", [])])
def test_a_trip_waits_until_somebody_approves(weft: Weft, answer: str, booked: list[str]) -> None:
    running = weft.start("run", TRIP, "--id", "trip", "--param", "ask=true", "-q")
    eventually(lambda: len(lines(weft)) == 3, "everything is booked")
    eventually(
        lambda: "signal 'approve'" in weft("status")[0], "the run waits for somebody to approve"
    )
    weft("runs", "signal", "trip", "approve", "--json-payload", answer)
    out, _ = weft.end(running)
    assert all(what in out for what in WHAT)
    kept = {str(line["token"]): line for line in lines(weft)}.values()
    assert sorted(str(line["what"]) for line in kept if not line["is_canceled"]) == booked
