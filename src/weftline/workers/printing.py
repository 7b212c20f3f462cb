"""Passes on what attempts in children print, as it comes and when they end."""

from weftline.core.events import LogRange
from weftline.ports.executor import Attempt, Printed, Report
from weftline.workers.logs import PART_BYTES, STREAMS
from weftline.workers.pool import Child

MAX_BYTES_PER_LOOK = 8 * PART_BYTES


class Printing:
    """Reports what was printed and not reported yet."""

    def __init__(self, reports: list[Report]) -> None:
        self._reports = reports

    def note_output(self, child: Child, attempt: Attempt, log: LogRange) -> None:
        """An attempt has ended and had printed something."""
        if not child.logs.are_named:
            child.logs.publish()
        if attempt.forward:
            starts, ends = [log.out_start, log.err_start], (log.out_end, log.err_end)
            self.pass_on(child, attempt.key, starts, ends, is_over=True)

    def pass_on(
        self, child: Child, key: int, starts: list[int], ends: tuple[int, int], *, is_over: bool
    ) -> None:
        """Pass on what an attempt printed and was not passed on yet."""
        if child.printed[0] != key:
            child.printed = key, starts
        offsets = child.printed[1]
        for stream, name in enumerate(STREAMS):
            end = ends[stream]
            if not is_over:
                end = min(end, offsets[stream] + MAX_BYTES_PER_LOOK)
            for text, offset in child.logs.lines(stream, offsets[stream], end, rest=is_over):
                self._reports.append(Printed(key, name, text))
                offsets[stream] = offset
