"""The names of a run's steps: each its own, and none stored that can be made when asked for."""

TAKEN = -1


class Names:
    """Hands out names: the first step that asks for one gets it bare, later ones with `_1`, `_2`.

    Per name asked for it keeps the steps in order, so that a fan-out of 100,000 costs 100,000
    numbers and no texts. Source of the suffixes: Ray Workflow 1.12.
    """

    def __init__(self) -> None:
        self._holders: dict[str, list[int]] = {}  # by name asked for; the place is the suffix

    def add(self, asked: str, number: int) -> int:
        """The suffix for step `number`, which asks for this name; 0 is the bare name."""
        holders = self._holders.get(asked)
        if holders is None:
            is_free = self._with_suffix(asked) is None
            self._holders[asked] = [number] if is_free else [TAKEN, number]
            return 0 if is_free else 1
        # A step may have asked for `a_1` as such, before a second `a` came.
        while self._bare(f"{asked}_{len(holders)}") is not None:
            holders.append(TAKEN)
        holders.append(number)
        return len(holders) - 1

    def find(self, name: str) -> int | None:
        """The number of the step that has this name."""
        number = self._bare(name)
        return self._with_suffix(name) if number is None else number

    def _bare(self, name: str) -> int | None:
        holders = self._holders.get(name)
        return None if holders is None or holders[0] == TAKEN else holders[0]

    def _with_suffix(self, name: str) -> int | None:
        asked, _, digits = name.rpartition("_")
        holders = self._holders.get(asked)
        if holders is None or not digits.isdecimal() or digits != str(int(digits)):
            return None
        suffix = int(digits)
        is_held = 0 < suffix < len(holders) and holders[suffix] != TAKEN
        return holders[suffix] if is_held else None


def with_suffix(asked: str, suffix: int) -> str:
    """The name that `Names.add` means."""
    return f"{asked}_{suffix}" if suffix else asked
