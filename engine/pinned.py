"""The engine sets of the package, by the SHA-256 of manifest and certificate: a set is one of them or it is not.

Written by `make pin`; the manifest holds the hashes of all other files.
"""

from collections.abc import Mapping
from types import MappingProxyType

PINNED: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "tiny": {
            "manifest.json": "2d4a445f41e0381662de1fd047590cb507119dcb2b21163add358aec2081c755",
            "parity.json": "6fc34c521be7f3cf1492f3aaaeaacc475e3710dcc2ffaec6d5ddf67ae8810247",
        },
    }
)
"""Set -> file -> SHA-256."""
