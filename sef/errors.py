"""What SEF refuses to do, as exceptions that carry the answer a caller gets."""


class SefError(Exception):
    """A refusal with a `reason` for programs, a `message` for people and an HTTP `status`."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message


class NotHereYet(LookupError):
    """A row is missing that another node of a database cluster may have committed just now."""


class AgentNotFound(SefError, NotHereYet):
    def __init__(self, agent_id: str) -> None:
        super().__init__(404, "agent_not_found", f"There is no agent {agent_id}.")


class IncidentNotFound(SefError):
    def __init__(self, incident_id: str) -> None:
        super().__init__(404, "incident_not_found", f"There is no incident {incident_id}.")


class ModeConflict(SefError):
    """Manual and automatic modes exclude each other."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(403, reason, message)


class Conflict(SefError):
    """The call is right, but the agent's state does not allow it."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(409, reason, message)


class KeyReused(SefError):
    def __init__(self) -> None:
        super().__init__(
            422,
            "idempotency_key_reused",
            "This Idempotency-Key belongs to another call; use a new one for each.",
        )


class KeyInUse(SefError):
    def __init__(self) -> None:
        super().__init__(
            409,
            "idempotency_key_in_use",
            "The call with this Idempotency-Key is still being carried out; try again in a moment.",
        )


class Unavailable(SefError):
    """The database is away: nothing was acknowledged, the call may be repeated."""

    def __init__(self, message: str = "The database cannot be reached; try again.") -> None:
        super().__init__(503, "database_unavailable", message)


class Overloaded(SefError):
    """More work waits than is taken on: nothing was acknowledged, the call may be repeated."""

    def __init__(self) -> None:
        super().__init__(503, "overloaded", "Too many reports wait to be written; try again.")


class JobsNotRunning(SefError):
    """The periodic jobs of this process do not run any more: it has to be started again."""

    def __init__(self, told: str) -> None:
        super().__init__(503, "jobs_stopped", f"The periodic jobs have stopped: {told}.")


class CloudUnavailable(SefError):
    """EC2 cannot be reached, or does not know, and the call would be unsafe without it."""

    def __init__(self, told: str) -> None:
        super().__init__(503, "cloud_unavailable", f"EC2 could not say: {told}")
        self.told = told


class ConnectionInUse(SefError):
    """The open connection that SEF was given cannot be used while its owner is reading from it."""

    def __init__(self) -> None:
        super().__init__(
            409, "connection_in_use", "The connection has an unread result: fetch it first."
        )


class ConfigurationError(ValueError):
    """A setting that cannot be used; the message is one line that names it."""


class Refused(ValueError):
    """Input that is not taken. `reason` is for programs, `message` is a sentence for people."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
