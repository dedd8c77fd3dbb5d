"""Figures as words: every number on the page is written by one of these.

KB = 1000 bytes. Three significant digits, or all of them where they can be counted.
"""

from __future__ import annotations

import math
import re

ABSENT = "–"


def significant(value: float) -> str:
    """Three significant digits, never in powers of ten between 0.001 and any size: 124, 12.4, 1.24, 0.124."""
    size = abs(value)
    if size >= 99.95:
        return f"{value:,.0f}"
    if size >= 9.995:
        return f"{value:.1f}"
    return f"{value:.2f}" if size >= 0.995 else f"{value:.3g}"


def plain(value: float) -> str:
    """Three significant digits of any number, small or large, with a true minus."""
    return f"{value:.3g}".replace("-", "−")


def count(value: float) -> str:
    """431080 -> 431,080."""
    return f"{value:,}"


def short(value: float) -> str:
    """216792 -> 217 k."""
    for unit, one in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= one:
            return f"{value / one:.3g} {unit}"
    return f"{value:g}"


def size(value: float) -> str:
    """Bytes: 312 B, 13.9 KB, 1,724 KB, 44.7 MB (a unit goes on to 1,999)."""
    if abs(value) < 1000:
        return f"{value} B"
    scaled, units = value / 1e3, ["MB", "GB", "TB"]
    unit = "KB"
    while abs(scaled) >= 1999.5 and units:
        scaled, unit = scaled / 1e3, units.pop(0)
    return f"{significant(scaled)} {unit}"


def percent(value: float) -> str:
    """A share: two decimals, and more where two would make it a false 0 or 100."""
    digits = 2
    while digits < 6 and float(f"{value:.{digits + 2}f}") in (0.0, 1.0) and value not in (0.0, 1.0):
        digits += 1
    return f"{100 * value:.{digits}f} %"


def score(value: float, metric: str) -> str:
    """A metric's value: accuracies in percent, others as they are."""
    return percent(value) if metric == "accuracy" else f"{value:.4g}"


def gained(before: float, after: float, metric: str) -> str:
    """The change of a score with its sign: accuracies in points of percent."""
    text = f"{100 * (after - before):+.2f} points" if metric == "accuracy" else f"{after - before:+.4g}"
    return re.sub(r"^[+-](?=[0.]*( |$))", "", text).replace("-", "−")


def change(before: float | None, after: float | None, down: str = "smaller", up: str = "larger") -> str:
    """How many times less or more: 124x smaller, 1.05x larger, unchanged; nothing where one is absent."""
    if before is None or after is None or before <= 0 or after <= 0:
        return ""
    if before == after:
        return "unchanged"
    word, ratio = (down, before / after) if before > after else (up, after / before)
    return f"{significant(ratio)}x {word}"


def milliseconds(value: float) -> str:
    """One inference: 0.132 ms, 12.4 ms."""
    return f"{significant(value)} ms"


def seconds(value: float) -> str:
    """A duration: < 0.1 s, 4.2 s, 3 min 20 s, 2 h 5 min."""
    if 0 <= value < 0.05:
        return "< 0.1 s"
    if not 59.95 <= value < math.inf:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60:,} h {minutes % 60} min"


def joules(value: float) -> str:
    """An energy: 1.24 J, 0.512 mJ and 12.4 µJ."""
    for unit, scale in (("J", 1.0), ("mJ", 1e3)):
        if abs(value) * scale >= 0.1:
            return f"{significant(value * scale)} {unit}"
    return f"{significant(value * 1e6)} µJ"


def plural(number: int, noun: str) -> str:
    """1 step, 2 steps, 12 classes."""
    ending = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}{ending}"


def unbroken(text: str) -> str:
    """The same words, but no line ends between a figure and its unit."""
    return re.sub(r"(?<=\d) (?=(?:[KMGT]?B|%|ms|s|min|points)(?!\w))", "\u00a0", text)
