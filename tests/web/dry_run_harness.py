"""An agent on an application whose rows and calls to EC2 are watched, for dry runs."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import insert, select

from sef.db.tables import metadata
from tests.db.rows import transaction

POOL = "m5.large.us-east-1a"


class Harness:
    """An agent on an application whose calls to EC2 are counted."""

    def __init__(self, app: Flask, database_url: str) -> None:
        self.client: FlaskClient = app.test_client()
        self._url = database_url
        self.calls: list[str] = []
        events = app.extensions["sef"]._context.ec2._client.meta.events
        self._unregister = lambda: events.unregister("before-call", self._count)
        events.register("before-call", self._count)
        self.at = datetime.now(UTC)

    def _count(self, model: Any, **_: Any) -> None:
        self.calls.append(model.name)

    def close(self) -> None:
        self._unregister()

    def post(self, path: str, body: Any = None) -> Any:
        answer = self.client.post(f"/api/agents/a/{path}", json=body)
        return answer.json | {"code": answer.status_code}

    def signal(self, kind: str, query: str = "", **more: Any) -> Any:
        body = {"signal_type": kind, "timestamp": self.at.isoformat(), **more}
        return self.post(f"interruption{query}", body)

    def primary(self) -> str:
        answer = self.client.get("/api/agents/a/sef-status").json
        return str(answer["agent"]["instance_id"])

    def dump(self) -> dict[str, list[Any]]:
        with transaction(self._url) as connection:
            return {
                table.name: sorted(map(repr, connection.execute(select(table))))
                for table in metadata.sorted_tables
            }

    def unchanged(self, call: Callable[[], Any]) -> Any:
        """Return the answer of a call; check that the call changes no row and nothing in EC2."""
        before = self.dump()
        self.calls.clear()
        answer = call()
        assert self.dump() == before
        assert [name for name in self.calls if not name.startswith("Describe")] == []
        return answer

    def insert(self, table: Any, **columns: Any) -> None:
        with transaction(self._url) as connection:
            connection.execute(insert(table).values(**columns))


def steps(answer: Any) -> list[str]:
    return [step["step"] for step in answer["plan"]]


def manual(harness: Harness) -> None:
    assert harness.post("manual-replica/enable")["replica"]["status"] == "ready"
