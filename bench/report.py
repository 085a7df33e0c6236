"""Render the tables and charts of docs/benchmarks.md from the stored results."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median

from bench.chart import chart
from bench.results import ROOT, STORED, Comparison, Result, read_all, shown

PAGE = ROOT / "docs" / "benchmarks.md"
CHARTS = ROOT / "docs" / "charts"
HEAD = (
    "| workload | SEF | compared with | its figure | ratio | aim |",
    "|---|---|---|---|---|---|",
)
_PLACE = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def render(stored: Path = STORED) -> None:
    """Write the page and the charts anew from the stored results."""
    results = read_all(stored)
    PAGE.write_text(rendered(PAGE.read_text(), results))
    CHARTS.mkdir(exist_ok=True)
    for name, drawing in charts(results).items():
        (CHARTS / name).write_text(drawing)


def rendered(page: str, results: Mapping[str, Result]) -> str:
    """Return the page with its figures replaced by those of `results`."""

    def figures(place: re.Match[str]) -> str:
        result = results.get(place[2])
        text = "Not measured yet.\n" if result is None else "\n".join(_lines(result)) + "\n"
        return f"{place[1]}{text}{place[3]}"

    return _PLACE.sub(figures, page)


def places(page: str) -> list[str]:
    """List the parts that the page has a place for."""
    return [found[2] for found in _PLACE.finditer(page)]


def charts(results: Mapping[str, Result]) -> dict[str, str]:
    """Draw a chart of each part, by file name."""
    return {f"{part}.svg": chart(result) for part, result in results.items()}


def table(comparisons: Sequence[Comparison]) -> list[str]:
    """Return a row per figure: the median of its rounds, with minimum and maximum in brackets."""
    return [*HEAD, *map(_row, comparisons)]


def _lines(result: Result) -> Iterator[str]:
    yield from table(result.comparisons)
    yield ""
    for note in dict.fromkeys(one.note for one in result.comparisons if one.note):
        yield f"- {note}"
    yield f"- {_when(result)}"
    yield ""
    yield f"![bar chart of {result.part}](charts/{result.part}.svg)"


def _when(result: Result) -> str:
    on, python = result.machine, result.machine["python"]
    versions = {"Python": python, **result.versions}
    shown_names = ("Python", "MariaDB", "InfluxDB", "duckdb", "pandas")
    used = ", ".join(f"{name} {versions[name]}" for name in shown_names if name in versions)
    return (
        f"Measured on {result.date}, on {on['cores']} cores "
        f"({on['processor']}), {on['memory_gib']} GiB, {on['system']}; {used}."
    )


def _row(one: Comparison) -> str:
    theirs = _spread(one.theirs) if one.theirs else one.absent
    ratio = _spread(one.ratios) if one.ratios else ""
    cells = (one.what, f"{_spread(one.ours)} {one.unit}", one.against, theirs, ratio, _aim(one))
    return "| " + " | ".join(cells) + " |"


def _aim(one: Comparison) -> str:
    if one.aim is None:
        return ""
    verdict = {True: "met", False: "missed", None: "not measured"}[one.is_met]
    return f"{one.aim}: {verdict}"


def _spread(figures: Sequence[float]) -> str:
    middle, least, most = shown(median(figures)), shown(min(figures)), shown(max(figures))
    return middle if least == most else f"{middle} ({least} to {most})"
