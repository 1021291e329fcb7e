"""`stt2v plan`."""

from stt2v.engine.commands.options import JsonOption
from stt2v.engine.commands.output import report
from stt2v.engine.flags import Order, takes_request
from stt2v.engine.models import find_model
from stt2v.engine.plan import plan_run


@takes_request
def plan(order: Order, as_json: JsonOption = False) -> None:
    """Say what a run comes to, before any work: frames, chunks, windows, steps."""
    declared = find_model(order.model)
    report(plan_run(declared, order.request.resolve(declared)), as_json)
