"""The engine sets of the package, by the SHA-256 of manifest and certificate: a set is one of them or it is not.

Written by `make pin`; the manifest holds the hashes of all other files.
"""

from collections.abc import Mapping
from types import MappingProxyType

PINNED: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "tiny": {
            "manifest.json": "148a1abfd50dc54f21381e798d28667e2a98f36397a228363ac5807196000180",
            "parity.json": "6fc34c521be7f3cf1492f3aaaeaacc475e3710dcc2ffaec6d5ddf67ae8810247",
        },
    }
)
"""Set -> file -> SHA-256."""
