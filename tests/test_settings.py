"""Every numeric setting has a smallest and a largest value; all others are refused by name."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from sef import config
from sef.config import Settings, variable
from sef.errors import ConfigurationError
from sef.terms import LONGEST_SPAN
from smart_emergency_fallback import SmartEmergencyFallback

ENDS: Mapping[str, Mapping[str, float]] = {
    name: {
        key: getattr(bound, key)
        for bound in field.metadata
        for key in ("ge", "gt", "le", "lt")
        if hasattr(bound, key)
    }
    for name, field in Settings.model_fields.items()
    if any(kind in str(field.annotation) for kind in ("int", "float"))
}
"""The bounds of each numeric setting."""

NAMES = sorted(ENDS)


def values_outside(name: str) -> list[Any]:
    bounds = ENDS[name]
    largest = bounds["le"]
    return [
        *(float(text) for text in ("nan", "inf", "-inf")),
        *(1e11, 1e308, -1e11, 10**400),
        largest + 1,
        min(bounds.get("ge", bounds.get("gt", 0)), 0) - 1,
        *([0] if "gt" in bounds else []),
    ]


@pytest.mark.parametrize("name", NAMES)
def test_a_number_has_a_least_and_a_largest_value(name: str) -> None:
    bounds = ENDS[name]
    assert "le" in bounds, f"{name} has no maximum"
    assert bounds.keys() & {"ge", "gt"}, f"{name} has no minimum"
    assert min(bounds.values()) >= 0


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("_seconds")])
def test_a_time_is_at_most_a_year(name: str) -> None:
    assert ENDS[name]["le"] <= LONGEST_SPAN


@pytest.mark.parametrize("name", NAMES)
def test_the_ends_are_accepted(name: str) -> None:
    bounds = ENDS[name]
    for value in (bounds.get("ge"), bounds["le"]):
        if value is not None:
            assert getattr(config.check(Settings(), **{name: value}), name) == value


@pytest.mark.parametrize("name", NAMES)
def test_any_other_number_is_refused_by_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in values_outside(name):
        with pytest.raises(ValidationError, match=name):
            Settings(**{name: value})
        with pytest.raises(ConfigurationError) as caught:
            config.check(Settings(), **{name: value})
        assert str(caught.value).startswith(f"{name}=")
        assert len(str(caught.value).splitlines()) == 1
        monkeypatch.setenv(variable(name), str(value))
        with pytest.raises(ConfigurationError) as caught:
            config.load()
        monkeypatch.delenv(variable(name))
        assert str(caught.value).startswith(f"{variable(name)}=")
        assert len(str(caught.value).splitlines()) == 1
        assert len(str(caught.value)) < 300


def test_the_settings_of_a_gap_bound_the_points_that_fill_it() -> None:
    widest = {"interpolation_max_gap": LONGEST_SPAN}
    assert config.check(Settings(), **widest).interpolation_max_gap == LONGEST_SPAN
    with pytest.raises(ConfigurationError, match=r"^interpolation_step_seconds=1: a gap of SEF"):
        config.check(Settings(), **widest, interpolation_step_seconds=1)


def test_the_facade_refuses_settings_that_were_copied_without_a_check(bare_sqlite_url: str) -> None:
    settings = Settings().model_copy(update={"standby_ttl_seconds": 1e11})
    with pytest.raises(ConfigurationError, match=r"^standby_ttl_seconds=100000000000\.0: "):
        SmartEmergencyFallback(bare_sqlite_url, settings=settings)


@pytest.mark.parametrize("name", ["gap_detection_threshold", "interpolation_max_gap"])
def test_an_attribute_of_the_facade_has_the_bounds_of_its_setting(
    name: str, bare_sqlite_url: str
) -> None:
    sef = SmartEmergencyFallback(bare_sqlite_url)
    before = sef.rules
    for value in (*values_outside(name), None, "long"):
        with pytest.raises(ConfigurationError, match=name):
            setattr(sef, name, value)
        assert sef.rules == before
    for value in (0, ENDS[name]["le"], 900):
        setattr(sef, name, value)
        assert getattr(sef, name) == value
    assert sef.rules == replace(before, **{name: timedelta(seconds=900)})
    sef.close()
