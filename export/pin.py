"""Pins the engine sets of the package in `engine/pinned.py`, once they are what should be shipped: `make pin`."""

from pathlib import Path

from stt2v.engine import pinned
from stt2v.engine.manifest import MANIFEST, PARITY, hash_file
from stt2v.engine.seal import SUFFIX
from stt2v.engine.store import SHIPPED

Pins = dict[str, dict[str, str]]


def shipped_hashes() -> Pins:
    """What `engine/pinned.py` has to say of the sets below `engine/sets`."""
    folders = sorted(path.parent for path in SHIPPED.glob(f"*/{MANIFEST}"))
    return {folder.name: {name: hash_file(folder / name) for name in (MANIFEST, PARITY)} for folder in folders}


def pin(source: Path) -> None:
    """Write them there; the text around stays."""
    head, _, rest = source.read_text(encoding="utf-8").partition("MappingProxyType(")
    _, _, tail = rest.partition("\n)\n")
    lines = [f'        "{name}": {{\n{_entries(files)}        }},\n' for name, files in shipped_hashes().items()]
    for seal in SHIPPED.glob(f"*/*{SUFFIX}"):
        seal.unlink()  # a key that nobody else has proves nothing to them
    source.write_text(f"{head}MappingProxyType(\n    {{\n{''.join(lines)}    }}\n)\n{tail}", encoding="utf-8")


def _entries(files: dict[str, str]) -> str:
    return "".join(f'            "{file}": "{hash_}",\n' for file, hash_ in files.items())


if __name__ == "__main__":
    pin(Path(pinned.__file__))
