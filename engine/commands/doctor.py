"""`stt2v doctor`."""

import typer

from stt2v.engine.commands.output import say
from stt2v.engine.doctor import examine


def doctor() -> None:
    """Say what this machine can run, and why not."""
    findings = list(examine())
    for finding in findings:
        say(f"{finding.mark:3} {finding.subject}: {finding.words}")
    if any(finding.mark == "BAD" for finding in findings):
        raise typer.Exit(1)
