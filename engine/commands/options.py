"""The options that several commands share."""

from typing import Annotated

import typer

ModelOption = Annotated[str, typer.Option("--model", help="One of `stt2v models`.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
