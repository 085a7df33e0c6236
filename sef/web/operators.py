"""The routes of operators: manual replica mode, its switch, and an agent's status."""

from typing import Any

from flask import Blueprint

from sef.parsing import parse_agent_id
from sef.web.errors import register_error_handlers
from sef.web.facade import Facade
from sef.web.request_parsing import (
    dry_run_argument,
    dry_run_field,
    idempotency_key,
    register_agent_id_converter,
    reject_unknown_params,
)


def operators_blueprint(sef: Facade) -> Blueprint:
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
    def status(agent_id: str) -> Any:
        return sef.get_agent_status(parse_agent_id(agent_id))

    return routes
