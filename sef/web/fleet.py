"""The routes of agents: registration, the fleet, the history, and the auto modes."""

from typing import TYPE_CHECKING, Any

from flask import Blueprint, request
from werkzeug.exceptions import MethodNotAllowed, NotFound

from sef.parsing import parse_agent_id
from sef.web.errors import register_error_handlers
from sef.web.request_parsing import (
    adoption_body,
    agent_body,
    before_argument,
    idempotency_key,
    limit_argument,
    next_cursor,
    register_agent_id_converter,
    reject_unknown_params,
)

if TYPE_CHECKING:
    from smart_emergency_fallback import SmartEmergencyFallback

ROUTE_ENDINGS = frozenset(
    {
        "adopt",
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
"""Last segments of other routes. PUT rejects an id that ends with one: an id may contain slashes,
so a PUT to `/api/agents/web-1/events` would otherwise register the agent `web-1/events`."""


def fleet_blueprint(sef: "SmartEmergencyFallback") -> Blueprint:
    """Build the routes for agents, their events and their auto modes."""
    routes = Blueprint("sef_fleet", __name__, url_prefix="/api")
    register_agent_id_converter(routes)
    register_error_handlers(routes)

    @routes.get("/agents")
    def list_agents() -> Any:
        limit = limit_argument(100)
        page = sef.list_agents(after=request.args.get("after"), limit=limit)
        return {"status": "success", "agents": page, "next_after": next_cursor(page, limit)}

    @routes.put("/agents/<agent_id:agent_id>")
    def register_agent(agent_id: str) -> Any:
        if agent_id.rstrip("/").rpartition("/")[2] in ROUTE_ENDINGS:
            raise NotFound if agent_id.endswith("/") else MethodNotAllowed
        return sef.register_agent(parse_agent_id(agent_id), agent_body())

    @routes.get("/agents/<agent_id:agent_id>/events")
    def list_events(agent_id: str) -> Any:
        agent, limit = parse_agent_id(agent_id), limit_argument(100)
        page = sef.agent_events(agent, before=before_argument(), limit=limit)
        return {"status": "success", "events": page, "next_before": next_cursor(page, limit)}

    @routes.post("/agents/<agent_id:agent_id>/adopt")
    def adopt_instance(agent_id: str) -> Any:
        reject_unknown_params()
        fields = adoption_body()
        agent, instance = parse_agent_id(agent_id), fields["instance_id"]
        return sef.adopt_instance(agent, instance, fields.get("role"))

    auto_mode = "/agents/<agent_id:agent_id>/<any('auto-switch', 'auto-terminate'):mode>"

    @routes.post(f"{auto_mode}/enable", defaults={"enabled": True})
    @routes.post(f"{auto_mode}/disable", defaults={"enabled": False})
    def set_auto_mode(agent_id: str, mode: str, *, enabled: bool) -> Any:
        reject_unknown_params()
        return sef.set_auto_mode(
            parse_agent_id(agent_id), mode, enabled=enabled, idempotency_key=idempotency_key()
        )

    return routes
