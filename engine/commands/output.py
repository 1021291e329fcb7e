"""What a command prints: the one place that writes to stdout."""

import json
import sys
from collections.abc import Iterable
from typing import Any, Protocol


class Report(Protocol):
    """A result that can be told in words and as JSON."""

    def lines(self) -> Iterable[str]:
        """The result in words."""
        ...

    def to_json(self) -> dict[str, Any]:
        """The result for machines."""
        ...


def say(line: str) -> None:
    """Print one line, which whoever reads it gets at once.

    What the output cannot spell, such as the name of a file that is no text, is escaped.
    """
    try:
        sys.stdout.write(f"{line}\n")
    except UnicodeEncodeError as error:
        sys.stdout.write(f"{line}\n".encode(error.encoding, "backslashreplace").decode(error.encoding))
    sys.stdout.flush()


def say_json(value: dict[str, Any]) -> None:
    """Print one line that holds `value`, whose numbers are all finite, as JSON."""
    say(json.dumps(value, allow_nan=False))


def report(result: Report, as_json: bool) -> None:
    """Print `result` in words, or as JSON."""
    if as_json:
        say_json(result.to_json())
        return
    for line in result.lines():
        say(line)
