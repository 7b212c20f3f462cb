"""What is told of attempts while they run: every line once, and as that of its own step."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from weftline.cli import following as following_module
from weftline.cli.following import Files, Following
from weftline.core.events import LogRange, StepLost, StepStarted, StepSucceeded


class Child:
    """The two files of a child, and an engine that records what its attempts came to."""

    def __init__(self) -> None:
        self.content = {"c.out": b"", "c.err": b""}
        self.gone: list[tuple[int, str]] = []
        self.following = self.follow()
        self.ends = 0, 0

    def follow(self, *steps: int) -> Following:
        return Following(
            Files(self.size, self.read),
            lambda step, attempt: not steps or step in steps,
            lambda step, file: self.gone.append((step, file)),
        )

    def size(self, name: str) -> int:
        return len(self.content.get(name, b""))

    def read(self, name: str, start: int, end: int) -> bytes | None:
        found = self.content.get(name)
        return None if found is None else found[start:end]

    def print(self, text: str, ending: str = "out") -> None:
        self.content[f"c.{ending}"] += text.encode()

    def started(self, step: int, attempt: int = 1) -> StepStarted:
        """The recorded start of an attempt that began where the last one ended."""
        out, err = self.ends
        log = LogRange("c", out, self.size("c.out"), err, self.size("c.err"))
        return StepStarted(step, attempt, started_at=float(step), log=log)

    def ended(self, step: int, attempt: int = 1) -> StepSucceeded:
        """It ends here and now."""
        out, err = self.ends
        self.ends = self.size("c.out"), self.size("c.err")
        log = LogRange("c", out, self.ends[0], err, self.ends[1])
        return StepSucceeded(step, attempt, Raw(b"1"), started_at=float(step), log=log)

    def told(self, *, is_last: bool = False) -> list[str]:
        lines = self.following.lines(is_last=is_last)
        return [f"{line.step}{'|' if line.ending == 'out' else '!'}{line.text}" for line in lines]

    def look(self) -> list[str]:
        """What is told at a look, without any news."""
        told = self.told()
        self.following.look()
        return told


@pytest.fixture
def child() -> Child:
    return Child()


def test_an_attempt_that_has_ended_is_told_at_once_and_once(child: Child) -> None:
    child.print("a\n\nb")
    child.print("warm\n", "err")
    child.following.take(5.0, child.ended(0))
    assert child.told() == ["0|a", "0|", "0|b", "0!warm"]
    assert child.told(is_last=True) == []


def test_whole_lines_of_a_running_attempt_are_told_a_look_later(child: Child) -> None:
    child.print("one\ntw")
    child.following.take(5.0, child.started(0))
    assert child.look() == []
    assert child.look() == ["0|one"]
    child.print("o\nthree")
    assert child.look() == []
    assert child.look() == ["0|two"]
    child.following.take(6.0, child.ended(0))
    assert child.told() == ["0|three"]
    assert not child.following.has_open


def test_a_file_that_has_no_name_yet_holds_nothing(child: Child) -> None:
    hidden = child.content.pop("c.out")
    child.following.take(5.0, child.started(0))
    assert child.look() + child.look() == []
    child.content["c.out"] = hidden + b"late\n"
    assert child.look() + child.look() == ["0|late"]
    assert child.gone == []


def test_what_the_next_attempt_printed_is_not_told_as_the_last_ones(child: Child) -> None:
    child.following.take(5.0, child.started(0))
    child.print("mine\n")
    end = child.ended(0)
    child.print("yours\n")
    assert child.look() == []
    child.following.take(6.0, end)  # recorded a moment after the next one has printed
    child.following.take(6.0, child.started(1))
    assert child.look() == ["0|mine"]
    assert child.look() == ["1|yours"]


def test_what_was_told_as_anothers_is_not_told_twice(child: Child) -> None:
    child.following.take(5.0, child.started(0))
    child.print("mine\n")
    end = child.ended(0)
    child.print("yours\n")
    assert child.look() + child.look() == ["0|mine", "0|yours"]  # the disk is very slow
    child.following.take(9.0, end)
    child.following.take(9.0, child.started(1))
    child.print("more\n")
    child.following.take(9.0, child.ended(1))
    assert child.told() == ["1|more"]


def test_an_attempt_without_a_recorded_end_is_told_to_the_end_of_its_file(child: Child) -> None:
    child.following.take(5.0, child.started(0))
    child.print("one\nhalf")
    assert child.look() == []
    assert child.told(is_last=True) == ["0|one", "0|half"]


def test_an_attempt_that_printed_nothing_is_done(child: Child) -> None:
    child.following.take(5.0, child.started(0))
    child.following.take(6.0, StepSucceeded(0, 1, Raw(b"1")))
    child.print("of the next one\n")
    assert child.look() + child.look() + child.told(is_last=True) == []


def test_a_log_that_is_gone_is_told_once(child: Child) -> None:
    child.print("lost\n")
    child.following.take(5.0, child.ended(3))
    child.content.clear()
    assert child.told() == []
    assert child.told() == []
    assert child.gone == [(3, "c.out")]


def test_only_what_is_wanted_is_told(child: Child) -> None:
    child.following = child.follow(1)
    child.print("no\n")
    child.following.take(5.0, child.started(0))
    child.following.take(5.0, child.ended(0))
    child.print("yes\n")
    lost = child.ended(1)
    child.following.take(6.0, StepLost(1, 1, "killed", 1.0, log=lost.log))
    assert child.told() == ["1|yes"]


def test_a_line_longer_than_is_read_at_once_comes_in_parts(
    child: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following_module, "MAX_PART_BYTES", 4)
    child.print("abcdefghij\nk\n")
    child.following.take(5.0, child.started(0))
    assert child.look() + child.look() == ["0|abcd", "0|efgh", "0|ij", "0|k"]


def texts() -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(["a", "\n", "b\n", "é", "\n\n", "long line\n"]), max_size=12)


@given(
    attempts=st.lists(texts(), max_size=6),
    looks=st.lists(st.integers(0, 3), min_size=60, max_size=60),
    is_prompt=st.booleans(),
)
def test_nothing_is_lost_or_doubled_however_the_looks_fall(
    attempts: list[list[str]], looks: list[int], is_prompt: bool
) -> None:
    child, told = Child(), list[str]()
    late: list[StepSucceeded | StepStarted] = []
    rhythm: Iterator[int] = iter(looks)

    def some_looks() -> None:
        for _ in range(next(rhythm, 0)):
            told.extend(child.look())

    expected = []
    for number, parts in enumerate(attempts):
        start = child.started(number)
        if is_prompt:
            child.following.take(0.0, start)
        else:
            late.append(start)
        for part in parts:
            child.print(part)
            some_looks()
        end = child.ended(number)
        if not parts:
            end = StepSucceeded(number, 1, Raw(b"1"))
        if is_prompt:
            child.following.take(0.0, end)
        else:
            late.append(end)
            some_looks()
            while len(late) > 2:  # what is recorded lags behind by an attempt
                child.following.take(0.0, late.pop(0))
        text = "".join(parts)
        lines = text.split("\n")
        expected += [f"{number}|{line}" for line in (lines if lines[-1] else lines[:-1])]
    for event in late:
        child.following.take(0.0, event)
    told += child.told(is_last=True)
    if is_prompt:
        assert told == expected
    else:
        text = "".join(line.partition("|")[2] for line in told)
        assert text == "".join(line.partition("|")[2] for line in expected)
