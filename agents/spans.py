"""Questions about much of event time, asked in spans that ClickHouse answers in good time."""

from collections.abc import Callable

from agents.calling import Call, Result
from schemas.errors import SinkUnavailableError

SPAN_MS_FIRST = 120_000
SPAN_MS_MAX = 86_400_000
"""Event time that is asked about at once: to begin with, and at most."""
QUICK_SECONDS = 1.0
"""An answer that took less: twice as much may be asked about."""


class Spans:
    """How much to ask about at once: half when it is not answered, twice when it was quickly.

    A question that is asked again as it was, of what happened to be much or on a busy machine, would
    never be answered.

    Args:
        clock: Seconds that never step.
        first_ms: How much to begin with.
    """

    def __init__(self, clock: Callable[[], float], first_ms: int = SPAN_MS_FIRST) -> None:
        self._clock = clock
        self._span_ms = first_ms

    async def ask(
        self, call: Call, question: Callable[[int, int], Result], from_ms: int, to_ms: int
    ) -> list[Result]:
        """Return the answers about ``[from_ms, to_ms)``, oldest first.

        Args:
            question: Is given where a span begins and where it ends.

        Raises:
            PartitionLostError, FatalError: As ``call``.
        """
        answers = []
        while from_ms < to_ms:

            def one(from_ms: int = from_ms) -> tuple[int, Result]:
                until_ms = min(from_ms + self._span_ms, to_ms)
                return until_ms, self._timed(question, from_ms, until_ms)

            from_ms, answer = await call(one)
            answers.append(answer)
        return answers

    def _timed(self, question: Callable[[int, int], Result], from_ms: int, until_ms: int) -> Result:
        started = self._clock()
        try:
            answer = question(from_ms, until_ms)
        except SinkUnavailableError:
            self._span_ms = max(self._span_ms // 2, 1)
            raise
        if self._clock() - started < QUICK_SECONDS:
            self._span_ms = min(self._span_ms * 2, SPAN_MS_MAX)
        return answer
