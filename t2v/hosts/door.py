"""Whether a host serves an API, and to whom: what its user said when starting it."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from modules import shared


def api_wanted() -> bool:
    """Whether the host's user asked for an API. SD.Next always has one, and calls it so."""
    options = shared.cmd_opts
    return bool(getattr(options, "api", False) or getattr(options, "nowebui", False))


def api_users() -> dict[str, str]:
    """Names and passwords for the host's API; none where everybody may call. Those of its page are not among them,
    but for SD.Next, where they are the same."""
    options = shared.cmd_opts
    users = dict(pairs((getattr(options, "api_auth", None) or "").split(",")))
    if not hasattr(options, "gradio_auth"):
        users |= dict(pairs((getattr(options, "auth", None) or "").split(",")))
        if getattr(options, "auth_file", None):
            users |= dict(pairs(Path(options.auth_file).read_text(encoding="utf8").splitlines()))
    return users


def pairs(entries: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Name and password of each entry "name:password"; a password may have colons of its own."""
    for entry in entries:
        name, colon, password = entry.strip().strip('"').partition(":")
        if colon and name:
            yield name, password
