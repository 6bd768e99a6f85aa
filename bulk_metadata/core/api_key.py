"""What an API key looks like: ``tlm_`` + 160 random bits + checksum, in hexadecimal."""

import re
import secrets
from binascii import crc32
from hashlib import sha256

PREFIX = "tlm_"
# 160 bits cannot be guessed; hexadecimal is selected whole by a double click.
RANDOM_BYTES = 20
FORM = re.compile(rf"({PREFIX}[0-9a-f]{{{2 * RANDOM_BYTES}}})([0-9a-f]{{8}})")


def generate_key() -> str:
    """Return a new key. It is shown once; only its digest is stored."""
    start = PREFIX + secrets.token_hex(RANDOM_BYTES)
    return start + _checksum(start)


def is_well_formed(key: str) -> bool:
    """Tell whether ``key`` could be a key: a mistyped or cut one is refused without
    asking the database."""
    match = FORM.fullmatch(key)
    return match is not None and _checksum(match[1]) == match[2]


def digest(key: str) -> bytes:
    """Return the SHA-256 digest under which ``key`` is stored. A slow, salted hash is
    for passwords: nobody can try 2**160 keys."""
    return sha256(key.encode()).digest()


def _checksum(start: str) -> str:
    return f"{crc32(start.encode()):08x}"
