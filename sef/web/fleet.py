"""The routes of agents and of those who look at the fleet: prices, signals, series, history."""

from typing import Any

from flask import Blueprint, request
from werkzeug.exceptions import MethodNotAllowed, NotFound

from sef.parsing import parse_agent_id
from sef.prices.parse import parse_json_line
from sef.prices.reports import LoadResult, load
from sef.web.errors import error_answer, register_error_handlers
from sef.web.facade import Facade
from sef.web.fast_path import FAILED, report_answer
from sef.web.request_parsing import (
    agent_body,
    batch_body,
    before_argument,
    body_lines,
    dry_run_argument,
    idempotency_key,
    instant_argument,
    is_ndjson,
    json_body,
    limit_argument,
    register_agent_id_converter,
    reject_unknown_params,
    signal_body,
)

PARTS_OF_AN_AGENT = frozenset(
    {
        "disable",
        "enable",
        "events",
        "incidents",
        "interruption",
        "manual-switch",
        "pricing",
        "sef-status",
    }
)
"""Ends of routes, which an id with a slash could be mistaken for."""


def agents_blueprint(sef: Facade) -> Blueprint:
    routes = Blueprint("sef_agents", __name__, url_prefix="/api")
    register_agent_id_converter(routes)
    register_error_handlers(routes)

    @routes.post("/agents/<agent_id:agent_id>/pricing")
    def report_price(agent_id: str) -> Any:
        if FAILED in request.environ:
            raise request.environ[FAILED]
        record = sef.process_incoming_data(agent_id, "pricing", json_body())
        if record["status"] == "rejected":
            return error_answer(400, record["reason"], record["message"])
        return report_answer(record)

    @routes.post("/pricing/batch")
    def report_prices() -> Any:
        if is_ndjson():
            tally = LoadResult()
            for _ in load(body_lines(), parse_json_line, sef.process_batch, tally):
                pass  # a transaction after the other
            return {"status": "success", **tally.as_answer()}
        return {"status": "success", **sef.process_batch(batch_body())}

    @routes.get("/agents/<agent_id:agent_id>/pricing")
    def series(agent_id: str) -> Any:
        limit = limit_argument(1000)
        points = sef.price_series(
            parse_agent_id(agent_id),
            pool_id=request.args.get("pool_id"),
            start=instant_argument("from"),
            end=instant_argument("to"),
            limit=limit,
        )
        return {"status": "success", "points": points, "is_complete": len(points) < limit}

    @routes.post("/agents/<agent_id:agent_id>/interruption")
    def interruption(agent_id: str) -> Any:
        return sef.handle_interruption(agent_id, signal_body(), dry_run=dry_run_argument())

    @routes.get("/agents")
    def fleet() -> Any:
        limit = limit_argument(100)
        agents = sef.list_agents(after=request.args.get("after"), limit=limit)
        following = agents[-1]["id"] if len(agents) == limit else None
        return {"status": "success", "agents": agents, "next_after": following}

    @routes.get("/pools")
    def pools() -> Any:
        return {"status": "success", "pools": sef.list_pools()}

    @routes.put("/agents/<agent_id:agent_id>")
    def register(agent_id: str) -> Any:
        if agent_id.rstrip("/").rpartition("/")[2] in PARTS_OF_AN_AGENT:
            raise NotFound if agent_id.endswith("/") else MethodNotAllowed
        return sef.register_agent(parse_agent_id(agent_id), agent_body())

    @routes.get("/agents/<agent_id:agent_id>/events")
    def events(agent_id: str) -> Any:
        limit = limit_argument(100)
        found = sef.agent_events(parse_agent_id(agent_id), before=before_argument(), limit=limit)
        following = found[-1]["id"] if len(found) == limit else None
        return {"status": "success", "events": found, "next_before": following}

    @routes.get("/agents/<agent_id:agent_id>/incidents")
    def incidents(agent_id: str) -> Any:
        agent, limit = parse_agent_id(agent_id), limit_argument(100)
        found = sef.agent_incidents(agent, before=request.args.get("before"), limit=limit)
        following = found[-1]["id"] if len(found) == limit else None
        return {"status": "success", "incidents": found, "next_before": following}

    @routes.get("/incidents/<string:incident_id>")
    def incident(incident_id: str) -> Any:
        return sef.get_incident(incident_id)

    @routes.post("/agents/<agent_id:agent_id>/<any('auto-switch', 'auto-terminate'):mode>/enable")
    def enable_auto(agent_id: str, mode: str) -> Any:
        reject_unknown_params()
        return set_auto(agent_id, mode, enabled=True)

    @routes.post("/agents/<agent_id:agent_id>/<any('auto-switch', 'auto-terminate'):mode>/disable")
    def disable_auto(agent_id: str, mode: str) -> Any:
        reject_unknown_params()
        return set_auto(agent_id, mode, enabled=False)

    def set_auto(agent_id: str, mode: str, *, enabled: bool) -> Any:
        agent, key = parse_agent_id(agent_id), idempotency_key()
        return sef.set_auto_mode(agent, mode, enabled=enabled, idempotency_key=key)

    return routes
