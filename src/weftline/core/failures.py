"""The failures of a run: which are open, which are borne, and what has no value because of them."""

from collections.abc import Iterable


class Failures:
    """Failed steps, and the steps that get no value by them, all by their numbers.

    A failure is *open* when the run failed of it, and *borne* as long as everybody who would read
    what it prevents does without.
    """

    def __init__(self) -> None:
        self.open: list[int] = []
        """Steps that a resume tries afresh."""
        self._prevented: dict[int, list[int]] = {}  # a failed step: all that get no value by it
        self._preventing: dict[int, list[int]] = {}  # the same the other way round
        self._causes: dict[int, list[int]] = {}  # a failed wait: the failures that it failed of

    @property
    def are_borne(self) -> bool:
        """Whether any step has no value because of a failure that is borne."""
        return bool(self._preventing)

    def behind(self, number: int) -> list[int]:
        """The failures, borne so far, by which the step gets no value."""
        return self._preventing.get(number, [])

    def bear(self, failed: int, prevented: Iterable[int]) -> list[int]:
        """These steps get no value because of the failure; gives those of which that is news."""
        self._prevented.setdefault(failed, [failed]).extend(prevented)
        fresh: list[int] = []
        for number in prevented:
            known = self._preventing.setdefault(number, [])
            if not known:
                fresh.append(number)
            if failed not in known:
                known.append(failed)
        return fresh

    def reopen(self, failed: int) -> list[int]:
        """The failure is borne no more; gives the steps that may get a value again."""
        self.open.append(failed)
        hopeful: list[int] = []
        for number in dict.fromkeys(self._prevented.pop(failed, (failed,))):
            known = self._preventing.get(number, [])
            if failed in known:
                known.remove(failed)
            if not known:
                self._preventing.pop(number, None)
                hopeful.append(number)
        return hopeful

    def note_causes(self, failed: int, causes: list[int]) -> None:
        """The step failed of failures that were borne so far."""
        self._causes[failed] = causes

    def take_causes(self, failed: int) -> list[int]:
        """What the step failed of, if it was others; asked once."""
        return self._causes.pop(failed, [])

    def origin_of(self, failed: int) -> int:
        """The failure where this one began."""
        while failed in self._causes:
            failed = self._causes[failed][0]
        return failed

    def clear(self) -> None:
        """Forget everything."""
        for known in (self._prevented, self._preventing, self._causes):
            known.clear()
        self.open.clear()
