"""What drivers and controllers say to each other: frames, connections, versions."""

import socket
from collections.abc import Iterator
from itertools import pairwise

import pytest
from msgspec import DecodeError

from weftline.control import Accepted, Hello, Ping, RunEnded, Splitter, decode_from_controller
from weftline.controller import caller as caller_part
from weftline.controller.caller import Caller
from weftline.core.events import RunStatus
from weftline.link.contact import _is_older
from weftline.wire import frame


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_frames_are_found_however_they_are_cut(size: int) -> None:
    messages = [Accepted(n, ("w" * n,)) for n in range(20)]
    content = b"".join(map(bytes, map(frame, messages)))
    splitter = Splitter()
    found = []
    for at in range(0, len(content), size):
        found += [decode_from_controller(each) for each in splitter.feed(content[at : at + size])]
    assert found == messages


def test_a_frame_that_is_too_long_is_told_before_it_has_come() -> None:
    splitter = Splitter(100)
    with pytest.raises(DecodeError, match="a frame of 101 bytes"):
        list(splitter.feed((101).to_bytes(4, "big")))


def test_versions_are_in_order() -> None:
    order = ["0.0.9", "0.1.0.dev1", "0.1.0a2", "0.1.0", "0.1.1", "0.10.0", "1.0rc1", "1.0", "2"]
    for old, new in pairwise(order):
        assert _is_older(old, new), (old, new)
        assert not _is_older(new, old), (old, new)
    assert not _is_older("0.1.0", "0.1.0")


# -- a driver as the controller sees it ---------------------------------------------------------


class Pair:
    """A caller and the driver's end of its connection."""

    def __init__(self) -> None:
        ours, self.theirs = socket.socketpair()
        self.unsent: list[Caller] = []
        self.caller = Caller(ours, self.unsent.append)

    def fill(self) -> RunEnded:
        """Send until the socket takes no more; what was sent each time."""
        message = RunEnded("r", None, RunStatus.SUCCESSFUL, b"x" * 50_000, None, None, None)
        while not self.unsent:
            self.caller.send(message)
        return message


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.caller.close()
    made.theirs.close()


def test_what_the_driver_does_not_take_at_once_is_sent_later_and_in_order(pair: Pair) -> None:
    message = pair.fill()
    pair.caller.send(Accepted(7))
    splitter, found = Splitter(), []
    while Accepted(7) not in found:
        found += [decode_from_controller(each) for each in splitter.feed(pair.theirs.recv(1 << 16))]
        pair.caller.send_more()
    assert found == [message] * (len(found) - 1) + [Accepted(7)]


def test_a_driver_that_never_reads_is_dropped_and_holds_up_nobody(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caller_part, "MAX_UNSENT_BYTES", 200_000)
    message = pair.fill()
    assert not pair.caller.is_lost
    for _ in range(5):
        pair.caller.send(message)
    assert pair.caller.is_lost


def test_a_driver_that_has_gone_is_told_nothing(pair: Pair) -> None:
    pair.theirs.close()
    pair.caller.send(Accepted(1))
    pair.caller.send(Accepted(2))
    assert pair.caller.is_lost
    assert pair.caller.receive(memoryview(bytearray(100))) is None


def test_only_who_has_greeted_may_send_much(pair: Pair) -> None:
    buffer = memoryview(bytearray(1 << 16))
    large = Hello(1, "v" * (1 << 20))
    pair.theirs.setblocking(False)
    sent = pair.theirs.send(frame(large))
    assert sent
    with pytest.raises(DecodeError, match="a frame of"):
        pair.caller.receive(buffer)
    other = Pair()
    other.theirs.sendall(frame(Hello(1, "0.1.0")))
    assert other.caller.receive(buffer) == [Hello(1, "0.1.0")]
    other.caller.greet()
    other.theirs.sendall(frame(Ping()))
    assert other.caller.receive(buffer) == [Ping()]
    other.caller.close()
    other.theirs.close()
