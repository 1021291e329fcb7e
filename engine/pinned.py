"""The engine sets of the package, by the SHA-256 of manifest and certificate: a set is one of them or it is not.

Written by `make pin`; the manifest holds the hashes of all other files.
"""

from collections.abc import Mapping
from types import MappingProxyType

PINNED: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "mini": {
            "manifest.json": "11a3dd7bbfd89875590c4836f07017136c82140a65e05f9ae607788f96458cbe",
            "parity.json": "45ecb5690d70746f0d17216840a85072a1e52da83ac640242e43d1344f9c78c3",
        },
        "tiny": {
            "manifest.json": "bb629b475978e91d69c53afbc99cc0e99e4c62e77b52d72fc39efd1521e502d8",
            "parity.json": "f8e95d15639026f3c94274a1d057493413c40adbb60e18d813af10a4f926dd1d",
        },
    }
)
"""Set -> file -> SHA-256."""
