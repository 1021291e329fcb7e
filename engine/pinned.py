"""The engine sets of the package, by the SHA-256 of manifest and certificate: a set is one of them or it is not.

Written by `make pin`; the manifest holds the hashes of all other files.
"""

from collections.abc import Mapping
from types import MappingProxyType

PINNED: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "mini": {
            "manifest.json": "5ef05e15377f389759a3eef52457294b4b03ec30e7cd79af7ea28ffe642fbc03",
            "parity.json": "fb1575a72df058576d21c13dc27a1f37850e7d44d973e6bc36b3a2dee3867dc1",
        },
        "tiny": {
            "manifest.json": "3ad2141899c452c283ac754aac9998b9170f75e1475527131cd91ea153bb59ec",
            "parity.json": "7e9d05c1f8b8b543e821b6afbd285c82c2b8e1d6c34ec00479713b64b18dd8c8",
        },
    }
)
"""Set -> file -> SHA-256."""
