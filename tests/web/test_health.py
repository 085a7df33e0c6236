"""GET /healthz, /readyz and /."""

import pytest
from flask.testing import FlaskClient
from sqlalchemy import text

from tests.db.rows import transaction


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_a_healthy_server_answers_success(client: FlaskClient, path: str) -> None:
    answer = client.get(path)
    assert (answer.status_code, answer.json) == (200, {"status": "success"})


@pytest.mark.databases("sqlite", "mariadb")
def test_readiness_reads_a_real_table(client: FlaskClient, database_url: str) -> None:
    with transaction(database_url) as connection:
        connection.execute(text("ALTER TABLE agents RENAME TO somewhere_else"))
    try:
        assert client.get("/healthz").status_code == 200
        answer = client.get("/readyz")
    finally:
        with transaction(database_url) as connection:
            connection.execute(text("ALTER TABLE somewhere_else RENAME TO agents"))
    assert answer.status_code >= 500
    assert answer.json["status"] == "error"


def test_the_root_answers(client: FlaskClient) -> None:
    assert client.get("/").status_code == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/"])
def test_health_paths_answer_head_but_not_post(client: FlaskClient, path: str) -> None:
    assert client.head(path).status_code == 200
    answer = client.post(path)
    assert (answer.status_code, answer.json["reason"]) == (405, "method_not_allowed")
