"""Text from elsewhere, made fit to be shown."""

# More of a cell or an identifier is of no use to who looks for it.
SHOWN_CHARACTERS = 100


def shorten(text: str) -> str:
    """Return so much of ``text`` that a message can hold it."""
    if len(text) <= SHOWN_CHARACTERS:
        return text
    return f"{text[:SHOWN_CHARACTERS]}..."


def printable(text: str) -> str:
    """Return ``text`` without what would move a terminal's cursor."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def counted(number: int, noun: str) -> str:
    """Return both: "1 device", "2,000 devices"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
