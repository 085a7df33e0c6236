"""How sentences say numbers."""


def counted(count: int, what: str) -> str:
    """As in `1 instance` and `2 instances`."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
