"""The routes of interruption signals, incidents and spot pools."""

from typing import TYPE_CHECKING, Any

from flask import Blueprint, request

from sef.parsing import parse_agent_id
from sef.web.errors import register_error_handlers
from sef.web.request_parsing import (
    dry_run_argument,
    limit_argument,
    next_cursor,
    register_agent_id_converter,
    signal_body,
)

if TYPE_CHECKING:
    from smart_emergency_fallback import SmartEmergencyFallback


def failover_blueprint(sef: "SmartEmergencyFallback") -> Blueprint:
    """Build the routes for signals, and for reading incidents and pools."""
    routes = Blueprint("sef_failover", __name__, url_prefix="/api")
    register_agent_id_converter(routes)
    register_error_handlers(routes)

    @routes.post("/agents/<agent_id:agent_id>/interruption")
    def receive_signal(agent_id: str) -> Any:
        return sef.handle_interruption(agent_id, signal_body(), dry_run=dry_run_argument())

    @routes.get("/agents/<agent_id:agent_id>/incidents")
    def list_incidents(agent_id: str) -> Any:
        agent, limit = parse_agent_id(agent_id), limit_argument(100)
        page = sef.agent_incidents(agent, before=request.args.get("before"), limit=limit)
        return {"status": "success", "incidents": page, "next_before": next_cursor(page, limit)}

    @routes.get("/incidents/<string:incident_id>")
    def show_incident(incident_id: str) -> Any:
        return sef.get_incident(incident_id)

    @routes.get("/pools")
    def list_pools() -> Any:
        return {"status": "success", "pools": sef.list_pools()}

    return routes
