"""The private folder of everything stt2v keeps, and the key in it that tells what this user made."""

import os
import secrets
import tempfile
from pathlib import Path

from stt2v.engine.errors import EngineSetError, UsageError

KEY, KEY_BYTES = "key", 32


def home() -> Path:
    """The folder of everything stt2v keeps: `STT2V_HOME`, by default `~/.cache/stt2v`. Raises UsageError for none."""
    try:
        return Path(os.environ.get("STT2V_HOME") or Path.home() / ".cache" / "stt2v")
    except RuntimeError as error:
        raise UsageError("this user has no home folder; set STT2V_HOME to the folder of what is kept") from error


def private_folder(path: Path) -> Path:
    """Make the folder `path` and those above it; what is inside is for this user alone."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o700)
    return path


def find_key() -> bytes | None:
    """This user's key, or None before anything was sealed.

    Raises EngineSetError when others could have made it, or where it cannot be read.
    """
    path = home() / KEY
    try:
        status, key = path.stat(), path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise EngineSetError(
            f"{path} cannot be read ({error.strerror}); set STT2V_HOME to a folder of yours"
        ) from error
    if status.st_mode & 0o077 or status.st_uid != os.geteuid() or len(key) != KEY_BYTES:
        raise EngineSetError(f"{path}: is damaged or others can read it, so it proves nothing; remove it, build again")
    return key


def make_key() -> bytes:
    """This user's key, drawn at random when there is none."""
    return find_key() or _draw_key()


def _draw_key() -> bytes:
    """A new key, or of two processes that draw one the other's. It appears under its name only when whole."""
    folder, key = private_folder(home()), secrets.token_bytes(KEY_BYTES)
    handle, draft = tempfile.mkstemp(prefix=f".{KEY}-", dir=folder)  # for this user alone
    with os.fdopen(handle, "wb") as file:
        file.write(key)
    try:
        os.link(draft, folder / KEY)
    except FileExistsError:
        key = find_key() or key
    finally:
        Path(draft).unlink()
    return key
