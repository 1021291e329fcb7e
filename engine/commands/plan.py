"""`stt2v plan`."""

from stt2v.engine.commands.options import JsonOption, ModelOption
from stt2v.engine.commands.output import report
from stt2v.engine.flags import takes_request
from stt2v.engine.models import DEFAULT_MODEL, find_model
from stt2v.engine.plan import plan_run
from stt2v.engine.request import Request


@takes_request
def plan(request: Request, model: ModelOption = DEFAULT_MODEL, as_json: JsonOption = False) -> None:
    """Say what a run comes to, before any work: frames, chunks, windows, steps."""
    declared = find_model(model)
    report(plan_run(declared, request.resolve(declared)), as_json)
