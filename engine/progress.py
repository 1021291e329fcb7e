"""How a run or a build tells whoever waits for it how far it is."""

from typing import Protocol


class Progress(Protocol):
    """Is told about stages, which may run side by side, and the steps inside each."""

    def stage(self, name: str, total: int) -> None:
        """The stage `name` of `total` steps begins."""
        ...

    def advance(self, name: str, steps: int = 1, **info: object) -> None:
        """`steps` more steps of the stage `name` are done; `info` says where, such as chunk=2, step=7."""
        ...

    def note(self, line: str) -> None:
        """One line that the user should read, such as what was cut from an image."""
        ...


class Silent:
    """The progress of a run that nobody watches."""

    def stage(self, name: str, total: int) -> None:
        """Ignored."""

    def advance(self, name: str, steps: int = 1, **info: object) -> None:
        """Ignored."""

    def note(self, line: str) -> None:
        """Ignored."""
