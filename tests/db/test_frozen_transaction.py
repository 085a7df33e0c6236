"""Roll back the transaction of a frozen process, so that it does not keep its row locks."""

from datetime import UTC, datetime

import pytest
from sqlalchemy import func, insert, select, update
from sqlalchemy.exc import DBAPIError

from sef.db import engines
from sef.db.database import Database
from sef.db.tables import agents

NOW = datetime(2024, 3, 1, tzinfo=UTC)


def test_the_server_rolls_back_an_idle_transaction(
    mariadb_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Database(mariadb_url)
    if "MariaDB" not in str(other.read(lambda c: c.scalar(select(func.version())))):
        pytest.skip("MySQL has no time limit for idle transactions")
    row = {"id": "a", "created_at": NOW, "updated_at": NOW}
    other.write(lambda c: c.execute(insert(agents), row))
    # Only for the frozen connection: a busy machine may also delay the other for a second.
    monkeypatch.setattr(engines, "IDLE_SECONDS", 1)
    frozen = Database(mariadb_url)
    with frozen.engine.connect() as connection:
        connection.execute(update(agents).values(instance_id="i-late"))
        other.write(lambda c: c.execute(update(agents).values(instance_id="i-quick")))
        with pytest.raises(DBAPIError) as raised:
            connection.execute(select(agents.c.id))
        assert raised.value.connection_invalidated
    assert other.read(lambda c: c.scalar(select(agents.c.instance_id))) == "i-quick"
    for database in (frozen, other):
        database.dispose()
