"""`stt2v serve`."""

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from stt2v.engine.commands.output import say
from stt2v.engine.errors import BackendError

NEEDED = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")


def serve(
    host: Annotated[str, typer.Option("--host", help="The address. Any but this machine's own needs a token.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="The port; 0 is any that is free.")] = 8000,
    token: Annotated[
        str | None,
        typer.Option("--token", envvar="STT2V_TOKEN", help="What clients have to know. Better set than typed."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="The folder of videos and queue. Default: server in the store.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option("--model", help="Offer this model; may be repeated. Default: all with engines.")
    ] = None,
    places: Annotated[int, typer.Option("--queue", min=1, help="Videos that may wait; more are refused.")] = 32,
    longest: Annotated[int, typer.Option("--max-frames", min=1, help="Frames of the longest video.")] = 1200,
    upload: Annotated[int, typer.Option("--max-upload", min=1, help="MiB of the largest picture.")] = 20,
) -> None:
    """Serve videos over HTTP, with a page to make them: an API after OpenAI's, a worker on every card."""
    for module in NEEDED:
        if importlib.util.find_spec(module) is None:
            raise BackendError(f"serve needs {module}, which is not installed; pip install 'stt2v[serve]'")
    from stt2v.engine.server.serving import listening, run
    from stt2v.engine.server.studio import Config

    config = Config(token=token, places=places, models=tuple(model or ()), longest=longest, upload=upload * 2**20)
    if data:
        config = replace(config, folder=data)
    with listening(host, port, token) as (socket, address):
        run(config, socket, lambda: say(f"stt2v serves at {address}, videos are in {config.folder}; Ctrl-C stops"))
