"""A finished step never runs again; one that was cut off does, so its side effects must be
idempotent. Two ways to book a flight, one unsafe and one safe."""

import json
import os
import signal
import tempfile
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

from weftline import workflow


@dataclass(frozen=True)
class FlightTicket:
    number: int
    request_id: str


class FlightService:
    """An airline that remembers its bookings in a file, a line each."""

    def __init__(self, folder: str) -> None:
        self.file = Path(folder) / "tickets.jsonl"

    def tickets(self) -> list[FlightTicket]:
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        return [FlightTicket(**json.loads(line)) for line in lines]

    def book_flight(self, request_id: str = "") -> FlightTicket:
        ticket = FlightTicket(number=len(self.tickets()) + 1, request_id=request_id)
        with self.file.open("a") as file:
            file.write(json.dumps(asdict(ticket)) + "\n")
        return ticket

    def has_ticket(self, request_id: str) -> bool:
        return any(ticket.request_id == request_id for ticket in self.tickets())

    def get_ticket(self, request_id: str) -> FlightTicket:
        return next(ticket for ticket in self.tickets() if ticket.request_id == request_id)


def crash_once() -> None:
    """The process dies, as in a power cut, the first time the step is tried."""
    here = workflow.current()
    if here is not None and here.attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)


@workflow.step
def book_flight_unsafe() -> FlightTicket:
    ticket = service.book_flight()
    crash_once()  # Uh oh: booked, but the result is not recorded.
    return ticket


@workflow.step
def generate_id() -> str:
    # Generate a unique idempotency token.
    return uuid.uuid4().hex


@workflow.step
def book_flight_idempotent(request_id: str) -> FlightTicket:
    if service.has_ticket(request_id):
        # Retrieve the previously created ticket.
        return service.get_ticket(request_id)
    ticket = service.book_flight(request_id)
    crash_once()
    return ticket


with tempfile.TemporaryDirectory() as folder:
    service = FlightService(folder)

    # UNSAFE: we book two tickets.
    ticket = book_flight_unsafe.step().run()
    print("unsafe:", len(service.tickets()), "tickets booked")
    assert ticket.number == 2
    assert len(service.tickets()) == 2

with tempfile.TemporaryDirectory() as folder:
    service = FlightService(folder)

    # SAFE: the token was recorded before the booking began, so the second try uses the same one.
    request_id = generate_id.step()
    safe = book_flight_idempotent.step(request_id)
    run_id = f"trip-{uuid.uuid4().hex}"
    ticket = safe.run(workflow_id=run_id)
    print("safe:", len(service.tickets()), "ticket booked")
    assert ticket.number == 1
    assert len(service.tickets()) == 1

    # What is finished stays finished: the same id gives the recorded ticket, and nothing runs.
    assert workflow.get_status(run_id) == workflow.SUCCESSFUL
    assert safe.run(workflow_id=run_id) == ticket
    assert workflow.resume(run_id).result() == ticket
    assert workflow.get_output(run_id).result() == ticket
    assert service.tickets() == [ticket]
    print("asked again:", ticket)
