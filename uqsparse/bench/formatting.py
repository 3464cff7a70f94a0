"""How numbers and outcomes are worded, on the terminal and in the report alike."""

import math
from collections.abc import Sequence

from uqsparse.bench.results import EntryResult, RunResult

# A sign and words for each status, so that nothing rests on colour alone.
SIGNS = {"holds": "✓", "missed": "✕", "measured": "·", "not measured": "–", "failed": "!"}
WORDS = {
    "claim": {"holds": "holds", "missed": "does not hold"},
    "speed": {"holds": "reached", "missed": "not reached"},
    "score": {"measured": "measured"},
}
RELATIONS = {"<": "<", "<=": "≤", "==": "=", ">=": "≥", ">": ">"}


def status_words(kind: str, status: str) -> str:
    """A status in words, for example "does not hold"."""
    return WORDS[kind].get(status, status)


def number(value: float | None, digits: int = 4) -> str:
    """A number with `digits` significant digits, or a dash where there is none.

    >>> number(0.031234), number(12345.6), number(None), number(2.5e-9)
    ('0.03123', '12346', '–', '2.5e-09')
    """
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value and not 1e-4 <= abs(value) < 1e7:
        return f"{value:.{digits - 1}g}"
    if abs(value) >= 10**digits:
        return f"{value:.0f}"
    return f"{value:.{digits}g}"


def _decimals(values: list[float | None]) -> int:
    largest = max((abs(v) for v in values if v is not None and math.isfinite(v)), default=0.0)
    if largest == 0:
        return 3
    exponent = math.floor(math.log10(largest))
    return min(6, max(0, 3 - exponent if exponent >= 0 else 2 - exponent))


def column(values: list[float | None]) -> list[str]:
    """A column of numbers with the same count of decimals, so that their points line up.

    >>> column([31.25, 9.0, None])
    ['31.25', '9.00', '–']
    """
    places = _decimals(values)
    return [f"{v:.{places}f}" if v is not None and math.isfinite(v) else number(v) for v in values]


def method_labels(rows: Sequence[EntryResult]) -> list[str]:
    """How the rows of a leaderboard are called: a conformal version below its method needs no name of its own."""
    above, labels = None, []
    for row in rows:
        base, method = row.details.get("base"), row.details["method"]
        labels.append("↳ + conformal" if base is not None and base == above else method)
        above = method
    return labels


def seconds(value: float | None) -> str:
    """A duration in the unit that suits it.

    >>> seconds(0.00042), seconds(0.25), seconds(3.14159), seconds(75.0)
    ('420 µs', '250 ms', '3.14 s', '1 min 15 s')
    """
    if value is None:
        return "–"
    if value < 1e-3:
        return f"{value * 1e6:.3g} µs"
    if value < 0.9995:
        return f"{value * 1e3:.3g} ms"
    if value < 60:
        return f"{value:.3g} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def times(value: float | None) -> str:
    """A ratio, for example "2.31×"."""
    return "–" if value is None else f"{number(value, 3)}×"


def count_words(count: int, noun: str) -> str:
    """A count with its noun in the right number.

    >>> count_words(1, "claim"), count_words(3, "entry")
    ('1 claim', '3 entries')
    """
    plural = noun[:-1] + "ies" if noun.endswith("y") else noun + "s"
    return f"{count} {noun if count == 1 else plural}"


def summary(result: RunResult) -> str:
    """The outcome of a run in one or two sentences."""
    claims, contests = result.of_kind("claim"), result.of_kind("speed")
    parts = []
    if claims:
        parts.append(f"{sum(c.status == 'holds' for c in claims)} of {count_words(len(claims), 'claim')} hold")
    if contests:
        reached = sum(c.status == "holds" for c in contests)
        parts.append(f"{reached} of {count_words(len(contests), 'speed bar')} reached")
    rows = result.of_kind("score")
    if rows:
        measured = sum(row.status == "measured" for row in rows)
        parts.append(f"{measured} of {count_words(len(rows), 'leaderboard row')} measured")
    text = ", ".join(parts) + "."
    failed, skipped = result.count("failed"), result.count("not measured")
    if failed:
        text += f" {count_words(failed, 'entry')} failed."
    if skipped:
        text += f" {count_words(skipped, 'entry')} could not be measured here."
    return text
