"""A step may return more steps; what comes of them stands for what it returned."""

from dataclasses import dataclass

from weftline import workflow


@workflow.step
def factorial(n: int) -> "int | workflow.Workflow[int]":
    if n == 1:
        return 1
    return multiply.step(n, factorial.step(n - 1))


@workflow.step
def multiply(a: int, b: int) -> int:
    return a * b


result = factorial.step(10).run()
print(result)
assert result == 3628800


# A more realistic example: booking a trip.


@dataclass(frozen=True)
class Flight:
    origin: str
    dest: str
    date: str


@dataclass(frozen=True)
class Hotel:
    city: str
    nights: tuple[str, str]
    has_room: bool


@dataclass(frozen=True)
class Receipt:
    booked: list[str]
    canceled: bool


@workflow.step
def book_flight(origin: str, dest: str, date: str) -> Flight:
    return Flight(origin, dest, date)


@workflow.step
def book_hotel(city: str, dates: list[str]) -> Hotel:
    return Hotel(city, (dates[0], dates[1]), has_room=city != "RNO")


@workflow.step
def finalize_or_cancel(flights: list[Flight], hotels: list[Hotel]) -> Receipt:
    if not all(hotel.has_room for hotel in hotels):
        return Receipt([], canceled=True)
    booked = [f"{flight.origin}-{flight.dest} {flight.date}" for flight in flights]
    booked += [f"{hotel.city} {' to '.join(hotel.nights)}" for hotel in hotels]
    return Receipt(booked, canceled=False)


@workflow.step
def book_trip(origin: str, dest: str, dates: list[str]) -> "workflow.Workflow[Receipt]":
    # The steps made here begin after this one has returned. This avoids overlap and ensures
    # recoverability. The two flights and the hotel are then booked side by side.
    f1 = book_flight.step(origin, dest, dates[0])
    f2 = book_flight.step(dest, origin, dates[1])
    hotel = book_hotel.step(dest, dates)
    return finalize_or_cancel.step([f1, f2], [hotel])


receipt = book_trip.step("OAK", "SAN", ["6/12", "7/5"]).run()
print(receipt)
assert receipt == Receipt(["OAK-SAN 6/12", "SAN-OAK 7/5", "SAN 6/12 to 7/5"], canceled=False)

full = book_trip.step("OAK", "RNO", ["6/12", "7/5"]).run()
print(full)
assert full == Receipt([], canceled=True)
