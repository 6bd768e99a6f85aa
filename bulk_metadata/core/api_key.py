"""The format of an API key: ``tlm_``, 160 random bits and a checksum, in
hexadecimal."""

import re
import secrets
from binascii import crc32
from hashlib import sha256

PREFIX = "tlm_"
# 160 bits cannot be guessed. A double click selects a whole hexadecimal number.
RANDOM_BYTES = 20
FORMAT = re.compile(rf"({PREFIX}[0-9a-f]{{{2 * RANDOM_BYTES}}})([0-9a-f]{{8}})")


def generate_key() -> str:
    """Return a new API key. It is shown once; only its digest is stored."""
    start = PREFIX + secrets.token_hex(RANDOM_BYTES)
    return start + _checksum(start)


def is_well_formed(key: str) -> bool:
    """Return whether ``key`` has a valid format and checksum, without a database
    query."""
    match = FORMAT.fullmatch(key)
    return match is not None and _checksum(match[1]) == match[2]


def digest(key: str) -> bytes:
    """Return the SHA-256 digest that is stored for ``key``.

    Slow, salted hashes protect passwords, which can be guessed; 2**160 keys cannot.
    """
    return sha256(key.encode()).digest()


def _checksum(start: str) -> str:
    return f"{crc32(start.encode()):08x}"
