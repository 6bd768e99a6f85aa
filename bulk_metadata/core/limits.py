"""Fixed limits that the service, its commands and the client share, and the endpoint.

Limits that an operator can change are settings: see config.py.
"""

# Given by the public API.
ENDPOINT = "/api/ext-v1/device/bulk-metadata"

# Devices in a request, given by the public API.
MAX_DEVICES = 1000

# Default of the setting MAX_BODY_BYTES, and of the client option --max-body-bytes.
# 1,000 devices with 10 kB of metadata each fit.
DEFAULT_MAX_BODY_BYTES = 10 * 1024 * 1024

# Bytes of an identifier in UTF-8. An entry of the index on the identifiers can hold it.
MAX_IDENTIFIER_BYTES = 1024
