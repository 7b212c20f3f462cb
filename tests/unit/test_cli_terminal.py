"""Text for a terminal: nothing in it acts on the terminal, and little says much."""

import io
import json

import pytest

from weftline.cli.terminal import (
    duration,
    lines_of,
    one_line,
    plain,
    say,
    say_json,
    say_table,
    value_text,
)

HOSTILE = [
    ("\x1b[31mred\x1b[0m", "red"),
    ("\x9b31mred", "red"),
    ("\x1b]0;title\x07text", "text"),
    ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
    ("\x1bPq...\x1b\\after", "after"),
    ("\x1b(Bset", "set"),
    ("\x1bcreset", "reset"),
    ("cut off \x1b[3", "cut off 3"),
    ("cut off \x1b]0;title", "cut off 0;title"),
    ("a\x08\x08b\x00\x7fc", "abc"),
    ("turned \u202e around", "turned  around"),
    ("lone \ud800", "lone \N{REPLACEMENT CHARACTER}"),
    ("[red]markup[/red] :smile:", "[red]markup[/red] :smile:"),
    ("tab\tand\nline", "tab\tand\nline"),
    ("größer → ×", "größer → ×"),
]


@pytest.mark.parametrize(("text", "left"), HOSTILE)
def test_nothing_is_left_that_a_terminal_acts_on(text: str, left: str) -> None:
    assert plain(text) == left
    assert plain(left) == left


def test_no_character_that_controls_a_terminal_is_left() -> None:
    text = "".join(map(chr, [*range(0x300), *range(0x2000, 0x2100)]))
    left = plain(text)
    assert not [c for c in left if c not in "\t\n" and (c < " " or "\x7f" <= c < "\xa0")]
    assert not {"\u202e", "\u2066", "\u200f"} & set(left)


def test_markup_and_sequences_of_users_are_printed_as_they_stand() -> None:
    out = io.StringIO()
    say("[bold]", plain("\x1b[1m[/bold] :smile: \\[x]"), to=out)
    assert out.getvalue() == "[bold][/bold] :smile: \\[x]\n"


def test_one_line_is_one_line() -> None:
    assert one_line("a\nb\t c\x1b[0m") == "a b c"
    assert one_line("x" * 300, 10) == "x" * 7 + "..."


def test_lines_are_those_that_a_terminal_would_show_in_the_end() -> None:
    assert lines_of("a\nb\r\n\nc") == ["a", "b", "", "c"]
    assert lines_of("10 %\r50 %\r100 %\n") == ["100 %"]
    assert lines_of("10 %\r") == ["10 %"]
    assert lines_of("") == []
    assert lines_of("\n") == [""]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1.0, "0.0 ms"),
        (0.0004, "0.4 ms"),
        (0.0099, "9.9 ms"),
        (0.00996, "10 ms"),
        (0.3, "300 ms"),
        (0.9996, "1.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (61.0, "1 min 01 s"),
        (3599.7, "1 h 00 min"),
        (7260.0, "2 h 01 min"),
        (90000.0, "1 d 01 h"),
    ],
)
def test_a_duration_has_two_units_at_most(seconds: float, text: str) -> None:
    assert duration(seconds) == text


class Sulky:
    def __repr__(self) -> str:
        raise RuntimeError("no")


def test_large_values_are_cut_and_whole_ones_are_not() -> None:
    many = list(range(1000))
    assert value_text(many).count(",") == 999
    short = value_text(many, limit=2000)
    assert short.endswith("... 900 more]")
    assert value_text({n: n for n in many}, limit=2000).endswith("...: 900 more}")
    assert value_text("x" * 5000, limit=2000) == "x" * 2000 + " ..."
    assert value_text(["x" * 5000], limit=100).endswith(" ...")
    assert value_text(range(10**9), limit=100) == "range(0, 1000000000)"
    nested: object = 1
    for _ in range(10_000):
        nested = [nested]
    assert value_text(nested, limit=100) == "[[[[[[...]]]]]]"
    assert value_text((1, [2.5, None], "a"), limit=100) == "(1, [2.5, None], 'a')"
    assert value_text("as it\nis") == "as it\nis"
    assert value_text({"a": "\x1b[31m"}) == r"{'a': '\x1b[31m'}"


def test_a_value_that_cannot_show_itself_is_named() -> None:
    assert value_text(Sulky(), limit=100) == "<Sulky whose repr raised RuntimeError: no>"


def test_json_is_ascii_so_that_no_terminal_acts_on_it(capsys: pytest.CaptureFixture[str]) -> None:
    say_json({"text": "\x1b[31m\x9bü"})
    out = capsys.readouterr().out
    assert out.isascii()
    assert "\x1b" not in out
    assert json.loads(out) == {"text": "\x1b[31m\x9bü"}


def test_a_table_cuts_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    say_table(("ID", "NAME"), [("x" * 200, "[b]a[/b]"), ("1", "日本")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "x" * 200 + "  [b]a[/b]"
    assert lines[2] == "1" + " " * 201 + "日本"
