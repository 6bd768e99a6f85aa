"""Formatting of untrusted text for messages."""

# Characters of a cell or an identifier in a message, enough to find it in the file.
MAX_LENGTH = 100


def shorten(text: str) -> str:
    """Truncate ``text`` for use in a message."""
    return text if len(text) <= MAX_LENGTH else f"{text[:MAX_LENGTH]}..."


def printable(text: str) -> str:
    """Escape the control characters of ``text``, which could move a terminal's
    cursor."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def counted(number: int, noun: str) -> str:
    """Return number and noun: "1 device", "2,000 devices"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
