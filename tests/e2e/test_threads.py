"""Attempts in threads: how many at a time, how they end or do not, and what they print."""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.attempts import Attempts, done, kinds, open_objects
from tests.e2e.conftest import Gate, Scripts, eventually, pass_gate
from weftline.adapters.objects.memory import MemoryObjectStore
from weftline.codecs.values import decode
from weftline.core.policy import Placement
from weftline.ports.executor import Done, GivenBack, Printed, Started, Succeeded, TimedOut
from weftline.workers.attempt import current
from weftline.workers.slots import Slots
from weftline.workers.threads import Threads

Maker = Callable[..., Attempts]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Maker]:
    made: list[Threads] = []

    def maker(num_cpus: float = 2, resources: dict[str, float] | None = None) -> Attempts:
        objects = open_objects(tmp_path)
        slots = Slots(num_cpus, 0, resources)
        executor = Threads(objects=objects, slots=slots, home=tmp_path)
        made.append(executor)
        return Attempts(executor, objects)

    yield maker
    for each in made:
        each.close()


@pytest.fixture
def attempts(make: Maker) -> Attempts:
    return make()


def test_as_many_run_at_a_time_as_there_are_cpus(make: Maker, gate: Gate) -> None:
    attempts = make(num_cpus=3)
    made = [attempts.make(pass_gate, gate.path) for _ in range(5)]
    lane = attempts.lane(made[0])
    assert attempts.executor.room(lane) == 3
    attempts.start(*made)
    gate.wait_for(3)
    assert gate.nobody_else()
    assert attempts.executor.room(lane) == 0
    reports = attempts.wait_for(bool)
    back = [each.key for each in reports if isinstance(each, GivenBack)]
    assert back == [one.key for one in made[3:]]
    gate.open(3)
    attempts.wait_for(lambda found: done(found, *(one.key for one in made[:3])))
    assert attempts.executor.room(lane) >= 3


def test_many_more_threads_than_cpus_may_be_asked_for(make: Maker, gate: Gate) -> None:
    attempts = make(num_cpus=1)
    tenth = Placement(num_cpus=0.1)
    made = [attempts.make(pass_gate, gate.path) for _ in range(10)]
    attempts.start(*made, placement=tenth)
    gate.wait_for(10)
    gate.open(10)
    attempts.wait_for(lambda found: done(found, *(one.key for one in made)))


def test_resources_are_kept_by_those_that_have_them(make: Maker, gate: Gate) -> None:
    attempts = make(num_cpus=4, resources={"licence": 1})
    licence = Placement(resources=(("licence", 1.0),))
    attempt = attempts.make(pass_gate, gate.path)
    lane = attempts.lane(attempt, licence)
    assert attempts.executor.room(lane) == 1
    attempts.start(attempt, placement=licence)
    gate.wait_for()
    assert attempts.executor.room(lane) == 0
    assert attempts.executor.room(attempts.lane(attempt)) >= 3
    gate.open()
    attempts.wait_for(lambda found: done(found, attempt.key))
    assert attempts.executor.room(lane) >= 1


def test_ten_thousand_quick_attempts_are_each_reported_once(attempts: Attempts) -> None:
    call = attempts.call(lambda number: number + 1, 1)
    made = [attempts.make(call) for _ in range(10_000)]
    reports = attempts.drive(*made)
    assert [kinds(reports[one.key]) for one in made] == [["Succeeded"]] * len(made)


def test_each_knows_which_it_is(make: Maker, gate: Gate) -> None:
    attempts = make(num_cpus=4)

    def who(path: str) -> list[Any]:
        before = current()
        pass_gate(path)
        return [before == current(), *(current() or ())]

    made = [attempts.make(who, gate.path, step=f"step {number}") for number in range(4)]
    attempts.start(*made)
    gate.wait_for(4)
    assert current() is None
    gate.open(4)
    reports = attempts.wait_for(lambda found: done(found, *(one.key for one in made)))
    found = {one.key: one for one in reports if isinstance(one, Succeeded)}
    for one in made:
        value = decode(found[one.key].value, attempts.objects)
        assert value == [True, "run", one.step, 1, f"run/{one.step}"]


def test_none_waits_behind_a_long_one(attempts: Attempts, gate: Gate) -> None:
    def wait_if(path: str | None) -> str | None:
        if path is not None:
            pass_gate(path)
        return path

    quick = attempts.make(wait_if, None)
    attempts.drive(*(attempts.make(quick.call) for _ in range(200)))  # known to be short now
    blocks = attempts.make(wait_if, gate.path)
    made = [attempts.make(quick.call) for _ in range(30)]
    lane = attempts.lane(blocks)
    assert attempts.executor.room(lane) > len(made)
    attempts.executor.start(lane, [blocks, *made])
    gate.wait_for()
    # None of them is done by letting the first one go on.
    reports = attempts.wait_for(lambda found: done(found, *(one.key for one in made)))
    assert not done(reports, blocks.key)
    gate.open()
    attempts.wait_for(lambda found: done(found, blocks.key))


def test_an_end_is_not_held_back_by_a_long_attempt_behind_it(make: Maker, gate: Gate) -> None:
    attempts = make(num_cpus=1)

    def wait_if(path: str | None) -> str | None:
        if path is not None:
            pass_gate(path)
        return path

    quick = attempts.make(wait_if, None)
    attempts.drive(*(attempts.make(quick.call) for _ in range(200)))
    first, blocks = attempts.make(quick.call), attempts.make(wait_if, gate.path)
    attempts.start(first, blocks)
    gate.wait_for()
    attempts.wait_for(lambda found: done(found, first.key))
    gate.open()
    attempts.wait_for(lambda found: done(found, blocks.key))


def test_another_lane_gets_its_turn(make: Maker) -> None:
    attempts = make(num_cpus=1)
    many = [attempts.make(abs, 1)]
    attempts.drive(many[0])
    many += [attempts.make(many[0].call) for _ in range(20_000)]
    other = attempts.make(len, "four")
    lanes = [attempts.lane(many[0]), attempts.lane(other)]
    waiting, ends = many[:0:-1], 0
    pending = [other]
    while True:
        room = attempts.executor.room(lanes[0])
        if room:
            attempts.executor.start(lanes[0], [waiting.pop() for _ in range(room)])
        if pending and attempts.executor.room(lanes[1]):
            attempts.executor.start(lanes[1], [pending.pop()])
        reports = attempts.executor.wait(10.0)
        ends += sum(isinstance(each, Succeeded) for each in reports)
        if any(each.key == other.key for each in reports if isinstance(each, Done)):
            break
    assert ends < 5_000


# -- time and killing ---------------------------------------------------------------------------


def test_a_long_attempt_is_told_of_once_while_it_runs(attempts: Attempts, gate: Gate) -> None:
    attempt = attempts.make(pass_gate, gate.path)
    attempts.start(attempt)
    [begun] = attempts.wait_for(bool)
    assert isinstance(begun, Started), begun
    assert begun.at > 1e9
    gate.open()
    [end] = attempts.wait_for(lambda found: done(found, attempt.key))
    assert isinstance(end, Succeeded)
    assert (end.started_at, end.worker) == (begun.at, begun.worker)


def test_one_that_ran_out_of_time_keeps_its_slot_until_it_ends(make: Maker, gate: Gate) -> None:
    attempts = make(num_cpus=1)
    attempt = attempts.make(pass_gate, gate.path, timeout_s=0.05)
    attempts.start(attempt)
    reports = attempts.wait_for(lambda found: done(found, attempt.key))
    assert isinstance(reports[-1], TimedOut)
    lane = attempts.lane(attempt)
    assert attempts.executor.room(lane) == 0
    gate.open()
    executor = attempts.executor
    eventually(lambda: not executor.wait(0.01) and executor.room(lane) >= 1, "it has ended")


def test_killed_ones_are_left_to_end_and_keep_their_slots(make: Maker, gate: Gate) -> None:
    attempts = make(num_cpus=2)
    made = [attempts.make(pass_gate, gate.path) for _ in range(2)]
    other = attempts.make(made[0].call)
    attempts.start(*made)
    gate.wait_for(2)
    attempts.executor.kill({made[0].key})
    lane = attempts.lane(other)
    assert attempts.executor.room(lane) == 0
    gate.open(2)
    reports = attempts.wait_for(lambda found: done(found, made[1].key))
    reports += attempts.wait_for(lambda _: attempts.executor.room(lane) >= 2)
    assert not done(reports, made[0].key)


def test_those_that_wait_are_not_begun_once_they_are_killed(make: Maker, gate: Gate) -> None:
    attempts = make(num_cpus=1)

    def wait_if(path: str | None, name: str) -> None:
        if path is not None:
            pass_gate(path, name)

    quick = attempts.make(wait_if, None, "")
    attempts.drive(*(attempts.make(quick.call) for _ in range(200)))
    made = [attempts.make(wait_if, gate.path, str(number)) for number in range(4)]
    attempts.start(*made)
    assert gate.wait_for() == ["0"]
    attempts.executor.kill({made[1].key, made[3].key})
    gate.open(4)
    assert gate.wait_for() == ["2"]
    attempts.wait_for(lambda found: done(found, made[0].key, made[2].key))
    assert gate.nobody_else()


def test_the_process_may_end_while_attempts_run(scripts: Scripts) -> None:
    said = scripts.run(
        """
        import threading
        from weftline import workflow

        workflow.init(executor="threads", num_cpus=1)
        begun = threading.Event()

        @workflow.step(timeout_s=0.05)
        def endless():
            threading.Event().wait()

        try:
            endless.step().run("an id")
        except Exception as error:
            print(type(error).__name__)
        """
    )
    assert said == "StepTimeoutError\n"


def test_a_step_may_run_workflows_though_all_slots_are_taken(scripts: Scripts) -> None:
    said = scripts.run(
        """
        from weftline import workflow

        workflow.init(executor="threads", num_cpus=1)

        @workflow.step
        def add(a, b):
            print("adding")
            return a + b

        @workflow.step
        def outer():
            return add.step(1, 2).run("inner") + workflow.get_output("inner").result()

        print(outer.step().run("outer", quiet=True))
        print(*sorted(one for one, _ in workflow.list_all()))
        """
    )
    assert said == "6\ninner outer\n"


# -- output -------------------------------------------------------------------------------------


def test_lines_are_passed_on_as_they_come(attempts: Attempts, gate: Gate, tmp_path: Path) -> None:
    def talk(path: str) -> None:
        print("one")
        print("tw", end="", flush=True)
        pass_gate(path)
        print("o")

    attempt = attempts.make(talk, gate.path, forward=True)
    attempts.start(attempt)
    reports = attempts.wait_for(
        lambda found: (
            any(isinstance(one, Printed) for one in found)
            and any(isinstance(one, Started) for one in found)
        )
    )
    begun = next(one for one in reports if isinstance(one, Started))
    assert begun.log is not None
    kept = tmp_path / "logs" / f"{begun.log.file}.out"
    assert kept.read_text() == "one\n"
    gate.open()
    reports += attempts.wait_for(lambda found: done(found, attempt.key))
    assert [one.text for one in reports if isinstance(one, Printed)] == ["one\n", "two\n"]
    assert kept.read_text() == "one\ntwo\n"
    assert isinstance(reports[-1], Succeeded)


def test_what_they_print_at_the_same_time_is_told_apart(make: Maker, tmp_path: Path) -> None:
    attempts = make(num_cpus=4)
    meeting = threading.Barrier(4)
    sys.modules["weftline_test_meeting"] = meeting  # type: ignore[assignment]

    def talk(number: int) -> None:
        for line in range(50):
            sys.modules["weftline_test_meeting"].wait()
            print(number, line)

    made = [attempts.make(talk, number, forward=True) for number in range(4)]
    call = made[0].call
    attempts.start(made[0])
    for one in made[1:]:
        assert one.call.function == call.function
        attempts.start(one)
    reports = attempts.wait_for(lambda found: done(found, *(one.key for one in made)))
    for number, one in enumerate(made):
        wanted = "".join(f"{number} {line}\n" for line in range(50))
        texts = [each.text for each in reports if isinstance(each, Printed) and each.key == one.key]
        assert "".join(texts) == wanted
        end = next(each for each in reports if isinstance(each, Succeeded) and each.key == one.key)
        assert end.log is not None
        kept = (tmp_path / "logs" / f"{end.log.file}.out").read_bytes()
        assert kept[end.log.out_start : end.log.out_end].decode() == wanted
    del sys.modules["weftline_test_meeting"]


def test_the_streams_are_put_back_though_an_attempt_goes_on(make: Maker, gate: Gate) -> None:
    attempts, before = make(num_cpus=1), (sys.stdout, sys.stderr)
    attempts.start(attempts.make(pass_gate, gate.path))
    gate.wait_for()
    assert sys.stdout is not before[0]
    attempts.executor.close()
    assert (sys.stdout, sys.stderr) == before
    gate.open()


def test_without_a_home_nothing_is_kept(tmp_path: Path) -> None:
    objects = MemoryObjectStore()
    executor = Threads(objects=objects, slots=Slots(1))
    attempts = Attempts(executor, objects)
    attempt = attempts.make(lambda: print("line"), forward=True)
    reports = attempts.drive(attempt)[attempt.key]
    assert kinds(reports) == ["Printed", "Succeeded"]
    assert getattr(reports[-1], "log", "") is None
    executor.close()
    assert os.listdir(tmp_path) == []


def test_what_steps_printed_is_shown_by_weft_runs_logs(scripts: Scripts) -> None:
    for executor in ("threads", "inline"):
        said = scripts.run(
            f"""
            import sys
            from weftline import workflow
            from weftline.cli.main import main

            workflow.init(executor={executor!r})

            @workflow.step(name="say")
            def say():
                print("to stdout")
                print("to stderr", file=sys.stderr)

            print("before")
            sys.stderr = sys.stdout
            say.step().run("{executor}-1")
            say.step().run("{executor}-2", quiet=True)
            print("after", flush=True)
            sys.argv = ["weft", "runs", "logs", "{executor}-2"]
            sys.exit(main())
            """
        )
        assert said == (
            "before\n(say) to stdout\n(say) to stderr\nafter\nsay | to stdout\nsay ! to stderr\n"
        )
