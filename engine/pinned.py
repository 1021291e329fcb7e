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
            "manifest.json": "6976ccb405221d04861fa0c87e4fbf6d073521f896b9469a19ec8f8766b14181",
            "parity.json": "f8e95d15639026f3c94274a1d057493413c40adbb60e18d813af10a4f926dd1d",
        },
    }
)
"""Set -> file -> SHA-256."""
