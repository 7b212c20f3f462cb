"""Book a trip: two flights and a hotel side by side, then finalize all or cancel all.

Whoever books something for somebody must not book it twice, also if the process dies between the
booking and the moment it is recorded. So each booking carries a token that is the same for every
attempt of its step, and the services answer a token they know with the booking they have.
"""

import fcntl
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from weftline import workflow


@dataclass(frozen=True)
class Booking:
    """What a service has written down; `token` names the request."""

    token: str
    what: str
    is_canceled: bool = False


@dataclass(frozen=True)
class Receipt:
    booked: list[str]
    canceled: list[str]


class Service:
    """An airline or a hotel: a file with a line for each booking, and nothing else is true."""

    def __init__(self, folder: str, name: str) -> None:
        self.file = Path(folder).absolute() / f"{name}.jsonl"

    def bookings(self) -> list[Booking]:
        """All bookings, the canceled ones as well."""
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        found = {each.token: each for each in (Booking(**json.loads(line)) for line in lines)}
        return list(found.values())

    def book(self, token: str, what: str) -> Booking:
        """The booking of this token: made now, or found."""
        with self._locked():
            for known in self.bookings():
                if known.token == token:
                    return known
            return self._write(Booking(token, what))

    def cancel(self, booking: Booking) -> None:
        """Canceling twice is canceling once."""
        with self._locked():
            self._write(Booking(booking.token, booking.what, is_canceled=True))

    def _write(self, booking: Booking) -> Booking:
        with self.file.open("a") as file:
            file.write(json.dumps(asdict(booking)) + "\n")
        return booking

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def token() -> str:
    """The same for every attempt of the step that asks, and different for every other one."""
    here = workflow.current()
    assert here is not None
    return here.idempotency_key


def crash_once(is_wanted: bool) -> None:
    """The process dies, as in a power cut, the first time the step is tried."""
    here = workflow.current()
    if is_wanted and here is not None and here.attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)


@workflow.step
def book_flight(folder: str, origin: str, dest: str, date: str, crash: bool) -> Booking:
    booking = Service(folder, "airline").book(token(), f"{origin}-{dest} {date}")
    crash_once(crash)  # booked, and not recorded: the next attempt finds this booking
    return booking


@workflow.step
def book_hotel(folder: str, city: str, dates: list[str]) -> Booking | None:
    if city == "RNO":
        return None  # everything is taken
    return Service(folder, "hotel").book(token(), f"{city} {dates[0]} to {dates[1]}")


@workflow.step
def finalize_or_cancel(
    folder: str, flights: list[Booking], hotels: list[Booking | None], approval: bool
) -> Receipt:
    booked = [each for each in (*flights, *hotels) if each is not None]
    if approval and all(hotels):
        return Receipt([each.what for each in booked], [])
    for flight in flights:
        Service(folder, "airline").cancel(flight)
    for hotel in hotels:
        if hotel is not None:
            Service(folder, "hotel").cancel(hotel)
    return Receipt([], [each.what for each in booked])


@workflow.step
def book_trip(
    folder: str, origin: str, dest: str, dates: list[str], ask: bool, crash: bool
) -> workflow.Workflow[Receipt]:
    # The steps made here begin after this one has returned: it is recorded by then.
    there = book_flight.step(folder, origin, dest, dates[0], crash)
    back = book_flight.step(folder, dest, origin, dates[1], crash)
    hotel = book_hotel.step(folder, dest, dates)
    # A wait holds no worker, and outlives every process.
    approval = workflow.wait_for_signal("approve") if ask else True
    return finalize_or_cancel.step(folder, [there, back], [hotel], approval)


def main(
    origin: str = "OAK",
    dest: str = "SAN",
    leave: str = "6/12",
    come_back: str = "7/5",
    folder: str = "trip-out",
    ask: bool = False,
    crash: bool = False,
) -> workflow.Workflow:
    """A trip there and back. Nobody has a room in RNO.

    `folder`: where the services keep their bookings. `ask`: wait for the signal `approve` before
    it is final. `crash`: let the process die right after each flight was booked.
    """
    return book_trip.step(folder, origin, dest, [leave, come_back], ask, crash)
