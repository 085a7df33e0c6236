"""Agent ids in paths: they may have slashes, at their beginning too."""

from flask import Blueprint
from flask.blueprints import BlueprintSetupState
from werkzeug.routing import PathConverter


class AgentIdConverter(PathConverter):
    regex = ".+?"
    part_isolating = False


def take_agent_ids(routes: Blueprint) -> None:
    """Let the rules of a blueprint say `<agent_id:...>`, on whatever app it is registered."""

    @routes.record_once
    def register(state: BlueprintSetupState) -> None:
        state.app.url_map.converters["agent_id"] = AgentIdConverter
