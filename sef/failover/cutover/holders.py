"""Placeholder."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sef.context import Context


@dataclass
class Holders:
    unknown: Sequence[str] = ()

    def held_by(self, instance_id: str) -> Sequence[str]:
        return ()


def holders_of(ctx: Context, targets: Any, instance_ids: Collection[str]) -> Holders:
    return Holders()
