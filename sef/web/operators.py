"""The routes that an existing application gets: manual mode, manual switch and agent status."""

from typing import TYPE_CHECKING, Any

from flask import Blueprint, Flask

from sef.parsing import parse_agent_id
from sef.web.errors import register_error_handlers
from sef.web.request_parsing import (
    dry_run_argument,
    dry_run_field,
    idempotency_key,
    register_agent_id_converter,
    reject_unknown_params,
)

if TYPE_CHECKING:
    from smart_emergency_fallback import SmartEmergencyFallback


def integrate_with_backend(app: Flask, sef: "SmartEmergencyFallback") -> None:
    """Register the manual-replica, manual-switch and sef-status routes on a Flask app.

    The routes have their own error handlers and change nothing else of the app.
    """
    app.register_blueprint(operators_blueprint(sef))


def operators_blueprint(sef: "SmartEmergencyFallback") -> Blueprint:
    """Build the routes that `integrate_with_backend` registers."""
    routes = Blueprint("sef_operators", __name__, url_prefix="/api/agents/<agent_id:agent_id>")
    register_agent_id_converter(routes)
    register_error_handlers(routes)

    @routes.post("/manual-replica/enable")
    def enable(agent_id: str) -> Any:
        reject_unknown_params()
        return sef.enable_manual_replica_mode(
            parse_agent_id(agent_id), idempotency_key=idempotency_key()
        )

    @routes.post("/manual-replica/disable")
    def disable(agent_id: str) -> Any:
        reject_unknown_params()
        return sef.disable_manual_replica_mode(
            parse_agent_id(agent_id), idempotency_key=idempotency_key()
        )

    @routes.post("/manual-switch")
    def switch(agent_id: str) -> Any:
        return sef.execute_manual_switch(
            parse_agent_id(agent_id),
            dry_run=dry_run_argument() or dry_run_field(),
            idempotency_key=idempotency_key(),
        )

    @routes.get("/sef-status")
    def show_status(agent_id: str) -> Any:
        return sef.get_agent_status(parse_agent_id(agent_id))

    return routes
