"""A child's end of the socket pair that leads to its engine."""

import os
import select

from weftline.core.values import Error
from weftline.wire import (
    CHANNEL_FD,
    HEADER,
    MAX_FRAME_BYTES,
    FromChild,
    NotBegun,
    Outcome,
    Outcomes,
    Raised,
    ToChild,
    decode_to_child,
    frame,
    pack_error,
)


class Channel:
    """The child's end of the socket pair."""

    def __init__(self) -> None:
        self._partial = bytearray()

    def send(self, message: FromChild) -> None:
        rest = memoryview(frame(message))
        while rest:
            try:
                rest = rest[os.write(CHANNEL_FD, rest) :]
            except (BrokenPipeError, ConnectionResetError):
                os._exit(1)  # the engine is gone

    def send_outcomes(self, outcomes: list[Outcome | NotBegun]) -> None:
        """Tell them all together; one that is too large to be told has failed."""
        try:
            self.send(Outcomes(outcomes))
        except OverflowError:
            for outcome in outcomes:
                self._send_alone(outcome)

    def _send_alone(self, outcome: Outcome | NotBegun) -> None:
        try:
            self.send(Outcomes([outcome]))
        except OverflowError:
            assert not isinstance(outcome, NotBegun)
            text = f"what the step returned takes more than {MAX_FRAME_BYTES} bytes to tell"
            error = pack_error(Error("OverflowError", text))
            key, at, took = outcome.key, outcome.started_at, outcome.took_s
            self.send(Outcomes([Raised(key, at, took, outcome.log, error, False, ())]))

    def receive(self) -> list[ToChild]:
        """The frames that come next, at least one; none when the engine has hung up."""
        while True:
            frames = self.receive_some()
            if frames is None:
                return []
            if frames:
                return frames

    def receive_some(self) -> list[ToChild] | None:
        """The frames that one read completes; None when the engine has hung up."""
        try:
            content: bytes | bytearray = os.read(CHANNEL_FD, 1 << 18)
        except ConnectionResetError:
            return None
        if not content:
            return None
        if self._partial:
            self._partial += content
            content = self._partial
        frames: list[ToChild] = []
        view, at = memoryview(content), 0
        while len(content) - at >= HEADER.size:
            end = at + HEADER.size + HEADER.unpack_from(content, at)[0]
            if end > len(content):
                break
            frames.append(decode_to_child(view[at + HEADER.size : end]))
            at = end
        if frames or not self._partial:
            self._partial = bytearray(view[at:])
        return frames

    def wait_readable(self) -> None:
        poll = select.poll()
        poll.register(CHANNEL_FD, select.POLLIN)
        poll.poll()
