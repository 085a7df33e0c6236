"""Errors with the answer that a caller gets, and errors in the settings."""


class SefError(Exception):
    """A call that cannot be carried out.

    Attributes:
        status: the HTTP status of the answer.
        reason: a constant in snake_case, for programs.
        message: a sentence, for people.
    """

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message


class NotHereYet(LookupError):
    """A row is missing that another node of a database cluster may have just committed."""


class AgentNotFound(SefError, NotHereYet):
    """No agent has this id."""

    def __init__(self, agent_id: str) -> None:
        super().__init__(
            404,
            "agent_not_found",
            f"There is no agent {agent_id}. PUT /api/agents/<id> registers an agent.",
        )


class IncidentNotFound(SefError):
    """No incident has this id."""

    def __init__(self, incident_id: str) -> None:
        super().__init__(
            404,
            "incident_not_found",
            f"There is no incident {incident_id}. GET /api/agents/<id>/incidents lists incidents.",
        )


class ModeConflict(SefError):
    """Manual replica mode and the auto modes exclude each other."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(403, reason, message)


class Conflict(SefError):
    """The call is valid, but the state of the agent does not allow it."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(409, reason, message)


class KeyReused(SefError):
    """The idempotency key was stored with another call."""

    def __init__(self) -> None:
        super().__init__(
            422,
            "idempotency_key_reused",
            "This Idempotency-Key was used for another call. Use a new key for each call.",
        )


class KeyInUse(SefError):
    """Another request with the same idempotency key has not finished."""

    def __init__(self) -> None:
        super().__init__(
            409,
            "idempotency_key_in_use",
            "A call with this Idempotency-Key is still running. Try again in a moment.",
        )


class Unavailable(SefError):
    """The database cannot be reached: nothing was acknowledged, and the call may be repeated."""

    def __init__(self, message: str = "The database cannot be reached; try again.") -> None:
        super().__init__(503, "database_unavailable", message)


class Overloaded(SefError):
    """The queue of reports is full: nothing was acknowledged, and the call may be repeated."""

    def __init__(self) -> None:
        super().__init__(
            503, "overloaded", "Too many reports are waiting to be written; try again."
        )


class JobsNotRunning(SefError):
    """The periodic jobs of this process have stopped: the process must be restarted."""

    def __init__(self, cause: str) -> None:
        super().__init__(
            503, "jobs_stopped", f"The periodic jobs have stopped: {cause}. Restart this process."
        )


class CloudUnavailable(SefError):
    """EC2 did not return an answer that the call needs.

    Args:
        cause: the cause, as EC2 or the client reported it.
    """

    def __init__(self, cause: str) -> None:
        super().__init__(503, "cloud_unavailable", f"EC2 did not return a usable answer: {cause}")


class ConnectionInUse(SefError):
    """The open connection that SEF was given has a result that its owner has not fetched."""

    def __init__(self) -> None:
        super().__init__(
            409,
            "connection_in_use",
            "The connection has an unread result. Fetch the result, then call SEF again.",
        )


class ConfigurationError(ValueError):
    """A setting that cannot be used; the message is one line that names the setting."""


class Refused(ValueError):
    """Input that SEF rejects.

    Attributes:
        reason: a constant in snake_case, for programs.
        message: a sentence, for people.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
