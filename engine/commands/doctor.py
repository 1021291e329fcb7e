"""`stt2v doctor`."""

import typer

from stt2v.engine.commands.options import JsonOption
from stt2v.engine.commands.output import say, say_json
from stt2v.engine.doctor import examine


def doctor(as_json: JsonOption = False) -> None:
    """Say what this machine can run, and why not."""
    findings = list(examine())
    if as_json:
        say_json({"findings": [finding.to_json() for finding in findings]})
    for finding in () if as_json else findings:
        say(f"{finding.mark:3} {finding.subject}: {finding.words}")
    if any(finding.mark == "BAD" for finding in findings):
        raise typer.Exit(1)
