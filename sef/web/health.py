"""The routes for liveness and readiness, and the root with its links."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flask import Blueprint

from sef.web.errors import register_error_handlers

if TYPE_CHECKING:
    from smart_emergency_fallback import SmartEmergencyFallback


def health_blueprint(sef: "SmartEmergencyFallback", check_jobs: Callable[[], None]) -> Blueprint:
    """Build the routes of health checks.

    Args:
        check_jobs: raises `SefError` when the periodic jobs of this process have stopped.
    """
    routes = Blueprint("sef_health", __name__)
    register_error_handlers(routes)

    @routes.get("/healthz")
    def check_liveness() -> Any:
        return {"status": "success"}

    @routes.get("/readyz")
    def check_readiness() -> Any:
        sef.check_ready()
        check_jobs()
        return {"status": "success"}

    @routes.get("/")
    def root() -> Any:
        return {
            "name": "SEF, Smart Emergency Fallback",
            "links": {
                "fleet": "/api/agents",
                "liveness": "/healthz",
                "readiness": "/readyz",
            },
        }

    return routes
