"""The routes of pricing reports and of the clean series."""

from typing import TYPE_CHECKING, Any

from flask import Blueprint, request

from sef.parsing import parse_agent_id
from sef.prices.parse import parse_json_line
from sef.prices.reports import LoadResult, load
from sef.web.errors import error_answer, register_error_handlers
from sef.web.fast_path import FAST_PATH_ERROR, report_answer
from sef.web.request_parsing import (
    batch_body,
    body_lines,
    instant_argument,
    is_ndjson,
    json_body,
    limit_argument,
    register_agent_id_converter,
)

if TYPE_CHECKING:
    from smart_emergency_fallback import SmartEmergencyFallback


def prices_blueprint(sef: "SmartEmergencyFallback") -> Blueprint:
    """Build the routes for one report, for a batch, and for reading a series."""
    routes = Blueprint("sef_prices", __name__, url_prefix="/api")
    register_agent_id_converter(routes)
    register_error_handlers(routes)

    @routes.post("/agents/<agent_id:agent_id>/pricing")
    def report_price(agent_id: str) -> Any:
        if FAST_PATH_ERROR in request.environ:
            raise request.environ[FAST_PATH_ERROR]
        record = sef.process_incoming_data(agent_id, "pricing", json_body())
        if record["status"] == "rejected":
            return error_answer(400, record["reason"], record["message"])
        return report_answer(record)

    @routes.post("/pricing/batch")
    def report_prices() -> Any:
        if is_ndjson():
            result = LoadResult()
            for _ in load(body_lines(), parse_json_line, sef.process_batch, result):
                pass  # each step stores some lines in one transaction and adds to the result
            return {"status": "success", **result.as_answer()}
        return {"status": "success", **sef.process_batch(batch_body())}

    @routes.get("/agents/<agent_id:agent_id>/pricing")
    def show_series(agent_id: str) -> Any:
        limit = limit_argument(1000)
        points = sef.price_series(
            parse_agent_id(agent_id),
            pool_id=request.args.get("pool_id"),
            start=instant_argument("from"),
            end=instant_argument("to"),
            limit=limit,
        )
        return {"status": "success", "points": points, "is_complete": len(points) < limit}

    return routes
