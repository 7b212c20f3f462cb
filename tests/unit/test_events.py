"""What is recorded comes back as it was."""

import pytest
from msgspec import Raw

from weftline.core.events import (
    ActorRested,
    Event,
    GraphExtended,
    StepSucceeded,
    decode_event,
    encode_event,
)
from weftline.core.values import pack_inline

STATE = Raw(pack_inline("json", b"1"))


@pytest.mark.parametrize(
    "event",
    [
        StepSucceeded(step=0, attempt=1, value=STATE, state=STATE),
        GraphExtended(step=0, attempt=1, graph="g", output=0, state=STATE),
        ActorRested(first=3, names={"add": 3}, submitted_at=1.0, state=STATE, value=STATE),
    ],
)
def test_the_state_of_an_actor_comes_back(event: Event) -> None:
    assert decode_event(encode_event(event)) == event


@pytest.mark.parametrize(
    "event",
    [
        StepSucceeded(step=0, attempt=1, value=STATE),
        ActorRested(first=3, names={"add": 3}, submitted_at=1.0),
    ],
)
def test_no_state_takes_no_room_and_comes_back_as_none(event: Event) -> None:
    assert b"state" not in encode_event(event)
    assert decode_event(encode_event(event)) == event
