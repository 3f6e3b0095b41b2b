"""One text for equal values, and one short name for them: what keys, artifacts and snapshots are called by."""

import json
from typing import Any

from blake3 import blake3

DIGEST_LENGTH = 40


def canonical(value: Any) -> bytes:
    """One JSON text for equal values: sorted keys, no spaces, UTF-8; NaN and unknown types are refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest(value: Any) -> str:
    """The name of a plain JSON value: 40 hexadecimal digits, the same on every machine."""
    return blake3(canonical(value)).hexdigest()[:DIGEST_LENGTH]
