"""`weft runs cancel|pause|continue|signal` with runs that somebody drives, and that nobody does."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.commands import FLOW, Weft
from tests.e2e.conftest import Gate

MORE = """
@workflow.step(name="tell")
def tell(news):
    note("ran", "tell")
    return news

def listening(name: str = "news"):
    return tell.step(workflow.wait_for_signal(name))

def gated(gate: str):
    return pair.step(wait_here.step(gate, "one"), load.step(2))

def chained(gate: str):
    return wait_here.step(gate, wait_here.step(gate, "one"))
"""


@pytest.fixture
def weft(tmp_path: Path) -> Iterator[Weft]:
    made = Weft(tmp_path)
    made.write("flow.py", FLOW + MORE)
    yield made
    made.close()


def left(weft: Weft, gate: Gate, run_id: str) -> None:
    """A run that its driver has let go of."""
    process = weft.start("run", "flow.py:gated", "-p", f"gate={gate.path}", "--id", run_id, "-q")
    gate.wait_for()
    process.send_signal(signal.SIGTERM)
    weft.end(process, 128 + signal.SIGTERM)


def test_a_run_is_canceled_wherever_it_is_driven(weft: Weft, gate: Gate) -> None:
    driven = weft.start("run", "flow.py:gated", "-p", f"gate={gate.path}", "--id", "a", "-q")
    gate.wait_for()
    out, err = weft("runs", "cancel", "a")
    hint = "it goes on only if it is resumed: weft runs resume a"
    assert (out, err) == ("", f"run a is CANCELED: {hint}\n")
    assert "run a was canceled" in weft.end(driven, 128 + signal.SIGINT)[1]
    assert weft("runs", "cancel", "a")[1] == f"run a is CANCELED: {hint}\n"
    assert "one" not in weft.ran()
    gate.open(2)
    assert weft("runs", "resume", "a", "-q")[0] == "['one', [0, 1]]\n"


def test_several_runs_are_canceled_and_all_problems_are_told(weft: Weft, gate: Gate) -> None:
    left(weft, gate, "a")
    left(weft, gate, "b")
    weft("run", "flow.py:scored", "--id", "over", "-q")
    out, err = weft("runs", "cancel", "a", "ba", "zzz", status=1)
    assert out == ""
    assert err.splitlines() == [
        "error: there is no run 'ba'; did you mean 'b'?",
        "error: there is no run 'zzz'; `weft runs list` shows those there are",
        "note: nothing was done with the other runs either",
    ]
    assert weft.status("a") == "RESUMABLE"
    told = weft.json("runs", "cancel", "a", "over", "b", "a", status=1)
    problem = "run 'over' is SUCCESSFUL: there is nothing left to cancel"
    assert told == [
        {"id": "a", "status": "CANCELED", "problem": None},
        {"id": "over", "status": "SUCCESSFUL", "problem": problem},
        {"id": "b", "status": "CANCELED", "problem": None},
    ]


def test_a_paused_run_starts_nothing_until_it_is_continued(weft: Weft, gate: Gate) -> None:
    driven = weft.start("run", "flow.py:chained", "-p", f"gate={gate.path}", "--id", "a", "-q")
    gate.wait_for()
    out, err = weft("runs", "pause", "a")
    told = "no step of it starts until weft runs continue a"
    assert (out, err) == ("", f"run a is PAUSED: {told}\n")
    assert weft("runs", "pause", "a")[1] == f"run a is PAUSED: {told}\n"
    gate.open()
    while weft.json("runs", "list")[0]["succeeded"] == 0:
        pass
    assert weft.status("a") == "PAUSED"
    assert gate.nobody_else()
    assert weft("runs", "continue", "a")[1] == "run a is RUNNING: its steps start again\n"
    gate.open()
    assert weft.end(driven)[0] == "one\n"
    for verb in ("pause", "continue"):
        _, err = weft("runs", verb, "a", status=1)
        assert err == f"error: run 'a' is SUCCESSFUL: there is nothing to {verb}\n"


def test_a_run_that_nobody_drives_is_paused_and_continued(weft: Weft, gate: Gate) -> None:
    left(weft, gate, "a")
    assert weft("runs", "continue", "a")[1] == "run a is RESUMABLE: it was not paused\n"
    told = weft.json("runs", "pause", "a")
    assert told == [{"id": "a", "status": "RESUMABLE", "problem": None}]
    _, err = weft("runs", "continue", "a")
    assert err == ("run a is RESUMABLE: it is paused no more; it goes on with weft runs resume a\n")
    gate.open()
    assert weft("runs", "resume", "a", "-q")[0] == "['one', [0, 1]]\n"


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ((), "None"),
        (("--payload", '{"a": 1}'), '{"a": 1}'),
        (("--json-payload", '{"a": [1, null]}'), "{'a': [1, None]}"),
    ],
)
def test_a_signal_reaches_the_step_that_waits_for_it(
    weft: Weft, words: tuple[str, ...], value: str
) -> None:
    driven = weft.start("run", "flow.py:listening", "--id", "a", "-q")
    while weft.end_any("runs", "show", "a"):
        pass
    assert weft("runs", "signal", "a", "other") == ("", "signal 'other' is sent to run a\n")
    assert weft.json("runs", "signal", "a", "news", *words, "--key", "k") == {
        "id": "a",
        "signal": "news",
        "sent": True,
    }
    assert weft.end(driven)[0] == f"{value}\n"
    assert weft.ran() == ["tell"]
    _, err = weft("runs", "signal", "a", "news", status=1)
    assert err == "error: run 'a' is SUCCESSFUL: nothing in it waits for a signal any more\n"


def test_of_signals_with_one_key_the_first_counts(weft: Weft, gate: Gate) -> None:
    left(weft, gate, "a")
    assert weft.json("runs", "signal", "a", "news", "--key", "k")["sent"]
    assert not weft.json("runs", "signal", "a", "news", "--key", "k")["sent"]
    _, err = weft("runs", "signal", "a", "news", "--key", "k")
    assert err == "note: a signal with the key 'k' was sent to run 'a' before: nothing to do\n"


@pytest.mark.parametrize("verb", ["cancel", "pause", "continue", "signal"])
def test_an_unknown_id_is_told_with_one_that_is_near(weft: Weft, verb: str) -> None:
    more = ["news"] if verb == "signal" else []
    weft("run", "flow.py:scored", "--id", "demos-2", "-q")
    out, err = weft("runs", verb, "demo", *more, status=1)
    assert (out, err) == ("", "error: there is no run 'demo'; did you mean 'demos-2'?\n")


def test_wrong_use_is_told(weft: Weft) -> None:
    weft("run", "flow.py:scored", "--id", "a", "-q")
    for words, told in (
        (("cancel",), "error: missing argument 'ID...'"),
        (("signal", "a"), "error: missing argument 'NAME'"),
        (
            ("signal", "a", "n", "--payload", "x", "--json-payload", "1"),
            "--payload and --json-payload exclude each other",
        ),
        (("signal", "a", "n", "--json-payload", "{"), "--json-payload is no JSON: "),
    ):
        assert told in weft("runs", *words, status=2)[1]
    assert (
        "the name of a signal is a non-empty string" in weft("runs", "signal", "a", "", status=1)[1]
    )
