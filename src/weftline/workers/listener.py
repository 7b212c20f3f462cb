"""The main of a child that listens: it awaits all the calls it gets, until the engine hangs up."""

import asyncio
from collections.abc import Iterable

from weftline.ports.objects import ObjectStore
from weftline.wire import CHANNEL_FD, Cancel, Outcome, Ping, Pong, ToChild, Work
from weftline.workers.channel import Channel
from weftline.workers.listening import Listening


def listen_to(channel: Channel, first: Iterable[ToChild], objects: ObjectStore) -> bool:
    """Await what comes, `first` and through the channel, until the engine hangs up.

    Returns: whether everything has come to its end; else the process should not wait for it.
    """
    loop = asyncio.new_event_loop()
    listener = _Listener(loop, channel, objects)
    loop.call_soon(listener.take, first)
    loop.add_reader(CHANNEL_FD, listener.read)
    loop.run_forever()
    if listener.listening.leave():
        return False
    loop.close()
    return True


class _Listener:
    def __init__(
        self, loop: asyncio.AbstractEventLoop, channel: Channel, objects: ObjectStore
    ) -> None:
        self._loop, self._channel = loop, channel
        self.listening = Listening(loop, objects, self._tell)

    def read(self) -> None:
        frames = self._channel.receive_some()
        if frames is None:
            self._loop.stop()
        else:
            self.take(frames)

    def take(self, frames: Iterable[ToChild]) -> None:
        for frame in frames:
            if isinstance(frame, Work):
                for call in frame.calls:
                    self.listening.take(frame.function, call)
            elif isinstance(frame, Cancel):
                self.listening.cancel(frame.keys)
            elif isinstance(frame, Ping):
                self._channel.send(Pong())

    def _tell(self, outcomes: list[Outcome]) -> None:
        self._channel.send_outcomes([*outcomes])
