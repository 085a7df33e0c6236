"""Serve two endpoints of a backend without SEF, as peers of SEF.

`/before` makes one INSERT and one COMMIT per report; `/validate` parses, validates and responds.
Granian serves both, as it serves SEF. BENCH_DATABASE_URL names the database.
"""

import os
from datetime import UTC, datetime
from typing import Any

from flask import Flask, request
from sqlalchemy import create_engine, text

from sef.prices.parse import parse_report

TABLE = """
CREATE TABLE IF NOT EXISTS plain_reports (
    agent_id VARCHAR(64) NOT NULL,
    pool_id VARCHAR(128) NOT NULL,
    timestamp DOUBLE NOT NULL,
    spot_price DECIMAL(13, 9) NOT NULL
)
"""
INSERT = text("INSERT INTO plain_reports VALUES (:agent_id, :pool_id, :timestamp, :spot_price)")


def create_app() -> Flask:
    app = Flask(__name__)
    engine = create_engine(os.environ["BENCH_DATABASE_URL"], pool_size=20, max_overflow=20)
    with engine.begin() as connection:
        connection.execute(text(TABLE))

    @app.post("/before/<agent_id>")
    def before(agent_id: str) -> Any:
        report = request.get_json()
        row = {key: report[key] for key in ("pool_id", "timestamp", "spot_price")}
        with engine.begin() as connection:
            connection.execute(INSERT, row | {"agent_id": agent_id})
        return {"status": "success"}

    @app.post("/validate/<agent_id>")
    def validate(agent_id: str) -> Any:
        report = parse_report(agent_id, request.get_json(), datetime.now(UTC))
        return {"status": "success", "price": str(report.observation.price)}

    return app
