"""What makes a run the run it is: a canonical description, its hash, and the run's id."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from gateloop.config import Config
from gateloop.derived import sequences
from gateloop.keys import keys, plain, values

# Raise it whenever a default in config.py, or the meaning of a key, changes: a key at its default
# is not hashed, and an old id must never stand for another run.
SCHEMA_VERSION = 1

# A path says where the corpus and the tokeniser are; the fingerprint says what they are.
_PATHS = ("data.path", "data.tokenizer_path")
_ALWAYS = ("model.name", "data.name")


def identity(config: Config, fingerprint: str | None = None) -> dict[str, Any]:
    """Everything that defines the result, by dotted key, and nothing that does not.

    Keys at their default are left out, so that a key added later keeps old ids. The batch is
    given in sequences, whichever way the user gave it. ``fingerprint`` stands for corpus and
    tokeniser; None for generated data.
    """
    found: dict[str, Any] = {"schema_version": SCHEMA_VERSION}
    if fingerprint is not None:
        found["fingerprint"] = fingerprint
    given = {**values(config), "data.batch_size": sequences(config), "data.batch_tokens": None}
    for name, key in keys(config).items():
        if name in _PATHS or not key.identity:
            continue
        if name in _ALWAYS or given[name] != key.default:
            found[name] = plain(given[name])
    return found


def digest(described: dict[str, Any]) -> str:
    """Eight hexadecimal digits of the SHA-256 of an identity's canonical JSON."""
    canonical = json.dumps(described, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:8]


def run_id(config: Config, fingerprint: str | None = None, data: str | None = None) -> str:
    """``<model>-<data>-s<seed>-<hash8>``; ``data`` is the name that results carry, where it is
    not the configured one (``wt103-partial``)."""
    short = digest(identity(config, fingerprint))
    return f"{config.model.name}-{data or config.data.name}-s{config.seed}-{short}"
