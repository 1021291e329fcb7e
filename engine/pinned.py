"""The engine sets of the package, by the SHA-256 of manifest and certificate: a set is one of them or it is not.

Written by `make pin`; the manifest holds the hashes of all other files.
"""

from collections.abc import Mapping
from types import MappingProxyType

PINNED: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "tiny": {
            "manifest.json": "6a91721baeb873b17153ba69a273a3c141a97cf3c03117bc59f2da02a8434141",
            "parity.json": "86f22d50375b8b6bbb24361fda3fe3db8b91715903995f551307ac5cb77b7285",
        },
    }
)
"""Set -> file -> SHA-256."""
