"""The rules of a clean series, written from their English text, independently of the product.

Slow and plain: every pair of observations is compared, and sums are computed in fractions.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise

from sef.prices.series import CleaningRules, Observation, Point
from sef.terms import Flag, Interpolation, Source

Pair = tuple[Observation | None, Observation | None]


def last_received(observations: Iterable[Observation]) -> list[Observation]:
    """Apply rule 1: of several observations by one source at one time, the last received counts."""
    return list({(seen.source, seen.at): seen for seen in observations}.values())


def nearest(one: Observation, all_of_them: Iterable[Observation]) -> Observation | None:
    opposite = [other for other in all_of_them if other.source is not one.source]
    return min(opposite, key=lambda other: (abs(other.at - one.at), other.at), default=None)


def paired(observations: Iterable[Observation], tolerance: timedelta) -> set[Pair]:
    """Apply rule 2: pairs are mutually nearest, at most `tolerance` apart; ties to the earlier."""
    seen = list(observations)
    result: set[Pair] = set()
    for one in seen:
        other = nearest(one, seen)
        if other is None or nearest(other, seen) != one or abs(other.at - one.at) > tolerance:
            result.add((one, None) if one.source is Source.PRIMARY else (None, one))
        elif one.source is Source.PRIMARY:
            result.add((one, other))
    return result


def decimal_of(number: Fraction, places: int) -> Decimal:
    """Round half-even, as Python rounds fractions."""
    return Decimal(round(number * 10**places)).scaleb(-places)


def real_point(pair: Pair, rules: CleaningRules) -> Point:
    """Apply rules 2 to 4."""
    primary, replica = pair
    if primary is None:
        assert replica is not None
        return Point(replica.at, replica.price, Flag.NORMAL, None, replica.price, replica.at)
    if replica is None:
        return Point(primary.at, primary.price, Flag.NORMAL, primary.price)
    mean = (Fraction(primary.price) + Fraction(replica.price)) / 2
    difference = abs(Fraction(primary.price) - Fraction(replica.price))
    halves = (primary.price, replica.price, replica.at)
    if difference > Fraction(rules.divergence_limit) * mean:
        return Point(primary.at, primary.price, Flag.DIVERGENT, *halves)
    return Point(primary.at, decimal_of(mean, 9), Flag.AVERAGED, *halves)


def filled(before: Point, after: Point, rules: CleaningRules) -> list[Point]:
    """Apply rule 5."""
    gap = after.at - before.at
    if gap <= rules.gap_detection_threshold or gap > rules.interpolation_max_gap:
        return []
    result = []
    count = 1
    while (moment := before.at + count * rules.interpolation_step) < after.at:
        price = before.price
        if rules.interpolation_method is Interpolation.LINEAR:
            share = Fraction(microseconds(moment - before.at), microseconds(gap))
            rise = Fraction(after.price) - Fraction(before.price)
            price = decimal_of(Fraction(before.price) + share * rise, 9)
        result.append(Point(moment, price, Flag.INTERPOLATED))
        count += 1
    return result


def microseconds(span: timedelta) -> int:
    return (span.days * 86400 + span.seconds) * 1_000_000 + span.microseconds


def real_points(observations: Iterable[Observation], rules: CleaningRules) -> list[Point]:
    pairs = paired(last_received(observations), rules.pairing_tolerance)
    return sorted((real_point(pair, rules) for pair in pairs), key=lambda point: point.at)


def series(observations: Iterable[Observation], rules: CleaningRules) -> list[Point]:
    """Apply rules 1 to 5."""
    real = real_points(observations, rules)
    rows = list(real)
    for before, after in pairwise(real):
        rows += filled(before, after, rules)
    return sorted(rows, key=lambda point: point.at)


def wide_gaps(
    observations: Iterable[Observation], rules: CleaningRules
) -> list[tuple[datetime, datetime]]:
    """Return the gaps in which rule 5 writes no points because they are too wide."""
    moments = [point.at for point in real_points(observations, rules)]
    return [
        (start, end)
        for start, end in pairwise(moments)
        if end - start > rules.interpolation_max_gap
    ]
