"""Liveness, readiness, and where to go from the root."""

from collections.abc import Callable
from typing import Any

from flask import Blueprint

from sef.web.errors import register_error_handlers
from sef.web.facade import Facade


def health_blueprint(sef: Facade, check_jobs: Callable[[], None]) -> Blueprint:
    """`check_jobs` raises when the periodic jobs of this process have stopped."""
    routes = Blueprint("sef_health", __name__)
    register_error_handlers(routes)

    @routes.get("/healthz")
    def alive() -> Any:
        return {"status": "success"}

    @routes.get("/readyz")
    def ready() -> Any:
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
