"""Formatting of untrusted text for messages."""

import re
from collections.abc import Iterable

# Characters of a cell or an identifier in a message, enough to find it in the file.
MAX_LENGTH = 100

# An API key, or the user and password of a URL.
SECRET = re.compile(r"tlm_[0-9A-Za-z]{8,}|(?<=://)[^/@\s]+(?=@)")


def shorten(text: str, max_length: int = MAX_LENGTH) -> str:
    """Truncate ``text`` for use in a message."""
    return text if len(text) <= max_length else f"{text[:max_length]}..."


def mask(text: str, secrets: Iterable[str] = ()) -> str:
    """Replace API keys, passwords in URLs, and ``secrets`` in ``text``."""
    for secret in filter(None, secrets):
        text = re.sub(re.escape(secret), "***", text, flags=re.IGNORECASE)
    return SECRET.sub("***", text)


def printable(text: str) -> str:
    """Escape the control characters of ``text``, which could move the cursor of a
    terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def encodable(text: str) -> str:
    """Escape the surrogates of ``text``: invalid bytes of a file name or a file, which
    JSON cannot contain."""
    return text.encode("utf-8", "backslashreplace").decode()


def counted(number: int, noun: str) -> str:
    """Return number and noun: "1 device", "2,000 devices"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
