"""Draw bars for the figures of a part beside its peers', with minimum and maximum."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from statistics import median

from bench.results import Comparison, Result, shown

WIDTH, LABELS, BARS, LINE = 900, 300, 380, 22
OURS, THEIRS, WHISKER = "#2a6f97", "#b7c3cb", "#333"
STYLE = "text { font: 13px sans-serif; fill: #222 } .head { font-weight: bold }"


@dataclass(frozen=True, slots=True)
class Bar:
    label: str
    figures: Sequence[float]
    colour: str


def chart(result: Result) -> str:
    """Return an SVG with a group of bars per work and a scale per unit."""
    parts: list[str] = []
    top = 10.0
    for unit in dict.fromkeys(one.unit for one in result.comparisons):
        groups = _groups([one for one in result.comparisons if one.unit == unit])
        most = max(max(bar.figures) for bars in groups.values() for bar in bars) or 1.0
        for what, bars in groups.items():
            parts.append(_text(10, top + 14, f"{what} ({unit})", "head"))
            top += LINE
            for bar in bars:
                parts += _drawn(bar, top, BARS / most)
                top += LINE
            top += LINE / 2
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top:.0f}" '
        f'width="{WIDTH}" height="{top:.0f}" role="img">'
    )
    back = f'<rect width="{WIDTH}" height="{top:.0f}" fill="#fff"/>'
    return "\n".join([head, f"<style>{STYLE}</style>", back, *parts, "</svg>"]) + "\n"


def _groups(comparisons: Sequence[Comparison]) -> dict[str, list[Bar]]:
    groups: dict[str, list[Bar]] = {}
    for one in comparisons:
        bars = groups.setdefault(one.what, [])
        for bar in _bars(one):
            if bar not in bars:
                bars.append(bar)
    return groups


def _bars(one: Comparison) -> Iterator[Bar]:
    yield Bar("SEF", one.ours, OURS)
    if one.theirs:
        yield Bar(one.against, one.theirs, THEIRS)


def _drawn(bar: Bar, top: float, scale: float) -> Iterator[str]:
    middle, length = median(bar.figures), median(bar.figures) * scale
    least, most = min(bar.figures), max(bar.figures)
    yield _text(LABELS - 8, top + 14, bar.label, anchor="end")
    yield (
        f'<rect x="{LABELS}" y="{top + 3:.0f}" width="{length:.1f}" height="15" '
        f'fill="{bar.colour}"/>'
    )
    if least < most:
        left, right, y = LABELS + least * scale, LABELS + most * scale, top + 10.5
        yield f'<path d="M{left:.1f} {y}H{right:.1f}" stroke="{WHISKER}" stroke-width="1.5"/>'
    yield _text(LABELS + max(length, most * scale) + 8, top + 14, shown(middle))


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    attribute = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}"{attribute}>{escape(text)}</text>'
