"""What is wrong with the data themselves, whatever the model makes of them: gaps, strangers, stuck sensors, columns that came, went or changed.

A finding about shares (missing, new categories, out of range, stuck) raises an alarm exactly where the test behind it does, under the check's
budget of false alarms; below its threshold it is told and raises none.  A finding about the schema is a fact: no chance is involved.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime

from .. import telemetry
from ..summaries import ColumnSummary
from ..telemetry.queries import QUOTED, UNFIT
from .judging import FEWEST_ROWS, Judged, outside
from .reports import Finding
from .telling import cut, percent, short

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LEAST = 0.005
"""A smaller share is not worth a line unless it raises an alarm."""
_MOST_BEYOND = 20
_NAMED = re.compile(rf"(unknown|missing) columns? ({QUOTED}(?:, {QUOTED})*)")
_OTHER_TYPE = re.compile(rf"Column ({QUOTED})(?: \(row \d+\))?: (expected .*)$", re.DOTALL)
_UNNAMED = ("a missing value", "a number too large", "nothing")
"""What came, where no value is quoted."""


def findings(
    judged: Sequence[Judged], newest: Sequence[ColumnSummary], beyond: Mapping[str, tuple[float, float]], *, alpha: float, effect: float
) -> list[Finding]:
    """What is wrong with features that were compared, alarms first; *newest* has the newest window of each, in the same order."""
    found: list[Finding] = []
    for one, now in zip(judged, newest, strict=True):
        by = [_missing(one, alpha, effect), _strangers(one, beyond.get(one.reference.name), alpha, effect), _stuck(one, now, alpha)]
        found += [finding for finding in by if finding]
    return sorted(found, key=lambda finding: (not finding.is_alarm, -(finding.share or 0.0)))


def _alarms(judged: Judged, kind: str, alpha: float) -> bool:
    test = judged.first(kind)
    return test is not None and test.p_adjusted < alpha


def _missing(judged: Judged, alpha: float, effect: float) -> Finding | None:
    window = judged.seen("missing")
    before, now = (side.missing / max(side.rows, 1) for side in (judged.reference, window))
    alarm = _alarms(judged, "missing", alpha)
    if not alarm and (abs(now - before) < _LEAST or now < before):
        return None
    if not window.count:
        return Finding(feature=judged.reference.name, kind="gone", share=1.0, threshold=before, is_alarm=alarm, words="requests bring it no more")
    bound = before + effect if now > before else before - effect
    words = f"missing in {percent(now)} of the rows, {percent(before)} before"
    return Finding(feature=judged.reference.name, kind="missing", share=now, threshold=bound, is_alarm=alarm, words=words)


def _strangers(judged: Judged, beyond: tuple[float, float] | None, alpha: float, effect: float) -> Finding | None:
    reference, window = judged.reference, judged.seen("new")
    if not window.count or not reference.count or (reference.kind == "category" and len(reference.categories) >= 1000):
        return None
    share, alarm = outside(reference, window) / window.count, _alarms(judged, "new", alpha)
    if not alarm and share < _LEAST:
        return None
    if reference.kind == "category":
        names = ", ".join(f"{cut(name)!r} {percent(count / window.count)}" for name, count in list(window.new.items())[:3])
        words = f"{percent(share)} are of categories that it did not have: {names}" if names else f"{percent(share)} are of categories that it did not have"
        return Finding(feature=reference.name, kind="new categories", share=share, threshold=effect, is_alarm=alarm, words=words)
    words = f"{percent(share)} lie outside [{short(reference.edges[0])}, {short(reference.edges[-1])}]{_how_far(reference, beyond)}"
    return Finding(feature=reference.name, kind="out of range", share=share, threshold=effect, is_alarm=alarm, words=words)


def _how_far(reference: ColumnSummary, beyond: tuple[float, float] | None) -> str:
    """`, up to 900 (12 times the range above it)`."""
    if not beyond:
        return ""
    low, high = reference.edges[0], reference.edges[-1]
    above, below, width = beyond[1] - high, low - beyond[0], high - low
    if max(above, below) <= 0:
        return ""
    reached, where = (beyond[1], "above") if above >= below else (beyond[0], "below")
    times = max(above, below) / width if width > 0 else 0.0
    return f", as far as {short(reached)}" + (f" ({times:.2g} times the range {where} it)" if times >= 0.005 else "")


def _stuck(judged: Judged, now: ColumnSummary, alpha: float) -> Finding | None:
    """A value that varied in the reference and does not in the newest window; an alarm where the window's values raise one."""
    value = _only_value(now)
    if now.count < FEWEST_ROWS or value is None or not _varied(judged.reference):
        return None
    words = f"always {value} in the newest {now.count:,} rows; it varied before"
    return Finding(feature=judged.reference.name, kind="stuck", share=1.0, threshold=1.0, is_alarm=_alarms(judged, "values", alpha), words=words)


def _only_value(side: ColumnSummary) -> str | None:
    if side.kind == "number":
        return short(side.mean) if side.deviation == 0 and side.mean is not None else None
    seen = [name for name, count in [*side.categories.items(), *side.new.items()] if count]
    return repr(cut(seen[0])) if len(seen) == 1 and side.other in (0, side.count) else None


def _varied(side: ColumnSummary) -> bool:
    return bool(side.deviation) if side.kind == "number" else sum(count > 0 for count in side.categories.values()) > 1


# ── the schema ───────────────────────────────────────────────────────────────────────────────────────────────────────


def schema(
    endpoint: str, deployment: str | None, *, since: datetime | None, until: datetime, known: Collection[str], new: Collection[str], gone: Collection[str],
    effect: float,
) -> list[Finding]:  # fmt: skip
    """Columns that requests have anew or no longer, and those that made the server refuse requests: facts, which no chance brings about.

    A refused request that brought one strange column in place of all the *known* ones was an array or a Series and not rows by name: it lacks those,
    and what it was called is no column.

    Refused requests raise an alarm when they are more than *effect* of all; a column that is *gone* always does, one that is *new* never.
    """
    found = [_fact(name, "gone", 1.0, is_alarm=True, words="requests bring it no more") for name in sorted(gone)]
    found += [_fact(name, "new column", None, is_alarm=False, words="requests bring it, and the model does not know it") for name in sorted(new)]
    counts: dict[tuple[str, str], int] = {}
    for why, requests in telemetry.misfits(endpoint, deployment=deployment, since=since, until=until).items():
        for problem in _problems(why, known):
            counts[problem] = counts.get(problem, 0) + requests
    if counts:
        answered = telemetry.counted(endpoint, since=since or _EPOCH, until=until)
        total = max(sum(one.requests for name, one in answered.items() if deployment in (None, name)), 1)
        found += [_refused(column, why, count, total, effect) for (column, why), count in sorted(counts.items(), key=lambda item: -item[1])]
    return found


def _problems(error: str, known: Collection[str]) -> list[tuple[str, str]]:
    """The columns that a refused request got wrong, and how."""
    if typed := _OTHER_TYPE.match(error):
        return [(ast.literal_eval(typed[1]), _without_value(typed[2]))]
    if not error.startswith(UNFIT):
        return []
    named = {found[1]: [ast.literal_eval(name) for name in re.findall(QUOTED, found[2])] for found in _NAMED.finditer(error, len(UNFIT))}
    unknown, lacking = named.get("unknown", []), named.get("missing", [])
    if len(unknown) == 1 and len(known) > 1 and {*known} <= {*lacking}:
        unknown = []
    return [*((name, "a column that the model does not know") for name in unknown), *((name, "without it") for name in lacking)]


def _without_value(words: str) -> str:
    """`expected float64, got text` of what quotes a value, so that a thousand values are one finding."""
    expected, got, came = words.partition(", got ")
    if not got or came in _UNNAMED:
        return words
    if came.startswith(("[", "an array of shape ")):
        return f"{expected}, got another"
    return f"{expected}, got {re.match(r'the number|the truth value|[^ ]*', came)[0]}"  # type: ignore[index]


def _refused(column: str, why: str, count: int, total: int, effect: float) -> Finding:
    share = min(count / total, 1.0)
    words = f"{count:,} of {total:,} requests were refused: {why}"
    return Finding(feature=column, kind="refused", share=share, threshold=effect, is_alarm=share > effect, by_chance=False, words=words)


def _fact(column: str, kind: str, share: float | None, *, is_alarm: bool, words: str) -> Finding:
    return Finding(feature=column, kind=kind, share=share, is_alarm=is_alarm, by_chance=False, words=words)


def reach(
    endpoint: str, deployment: str | None, judged: Sequence[Judged], *, since: datetime | None, until: datetime
) -> dict[str, tuple[float, float]]:  # fmt: skip
    """How far the numbers reach that lie outside their range, by feature."""
    numbers = [(one.reference, one.seen("new")) for one in judged if one.reference.kind == "number"]
    beyond = [reference.name for reference, window in numbers if outside(reference, window) >= max(_LEAST * window.count, 1)]
    return telemetry.extremes(endpoint, beyond[:_MOST_BEYOND], deployment=deployment, since=since, until=until)
