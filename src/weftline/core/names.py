"""The names of a run's steps: each its own, and none stored that can be made when asked for."""

from collections.abc import Mapping

TAKEN = -1
MOST_DIGITS = 18
"""No run has so many steps that a suffix is longer."""


class Names:
    """Hands out names: the first step that asks for one gets it bare, later ones with `_1`, `_2`.

    Per name asked for it keeps the steps in order, so that a fan-out of 100,000 costs 100,000
    numbers and no texts. `laid_down` says how many of each name lie behind, held by steps that are
    kept here no more. Source of the suffixes: Ray Workflow 1.12.
    """

    def __init__(self, laid_down: Mapping[str, int] | None = None) -> None:
        self._laid_down = dict(laid_down or {})
        # By name asked for; the place, behind those that lie behind, is the suffix.
        self._holders: dict[str, list[int]] = {name: [] for name in self._laid_down}

    def add(self, asked: str, number: int) -> int:
        """The suffix for step `number`, which asks for this name; 0 is the bare name."""
        holders = self._holders.get(asked)
        if holders is None:
            is_free = self._with_suffix(asked) is None and not self._lies_behind(asked)
            holders = self._holders[asked] = [number if is_free else TAKEN]
            if is_free:
                return 0
        behind = self._laid_down.get(asked, 0) if self._laid_down else 0
        # A step may have asked for `a_1` as such, before a second `a` came.
        while self._is_held_bare(f"{asked}_{behind + len(holders)}"):
            holders.append(TAKEN)
        holders.append(number)
        return behind + len(holders) - 1

    def find(self, name: str) -> int | None:
        """The number of the step that has this name."""
        number = self._bare(name)
        return self._with_suffix(name) if number is None else number

    def counts(self) -> dict[str, int]:
        """How many of each name were handed out, for who goes on where this ends."""
        behind = self._laid_down
        return {name: behind.get(name, 0) + len(each) for name, each in self._holders.items()}

    def _is_held_bare(self, name: str) -> bool:
        return name in self._laid_down or self._bare(name) is not None

    def _bare(self, name: str) -> int | None:
        holders = self._holders.get(name)
        if not holders or holders[0] == TAKEN or name in self._laid_down:
            return None
        return holders[0]

    def _lies_behind(self, name: str) -> bool:
        """Whether a step that is kept here no more had this name as one with a suffix."""
        asked, suffix = split_suffix(name)
        return 0 < suffix < self._laid_down.get(asked, 0)

    def _with_suffix(self, name: str) -> int | None:
        asked, suffix = split_suffix(name)
        holders = self._holders.get(asked)
        if holders is None or not suffix:
            return None
        place = suffix - self._laid_down.get(asked, 0)
        is_held = 0 <= place < len(holders) and holders[place] != TAKEN
        return holders[place] if is_held else None


def split_suffix(name: str) -> tuple[str, int]:
    """What was asked for, and the suffix; 0 when the name cannot have been made with one."""
    asked, _, digits = name.rpartition("_")
    is_number = len(digits) <= MOST_DIGITS and digits.isascii() and digits.isdigit()
    return (asked, int(digits)) if is_number and digits[0] != "0" else (asked, 0)


def with_suffix(asked: str, suffix: int) -> str:
    """The name that `Names.add` means."""
    return f"{asked}_{suffix}" if suffix else asked
