"""The routes of the server itself: its models, plans, login, health and metrics."""

from fastapi import APIRouter, HTTPException, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from stt2v.engine.models import find_model
from stt2v.engine.plan import plan_run
from stt2v.engine.server.answers import StudioHere, wish_of
from stt2v.engine.server.guard import COOKIE, cookie_of, is_same
from stt2v.engine.server.offers import Offer, find_cost
from stt2v.engine.server.schemas import Health, LoginBody, ModelList, ModelObject, PlanBody, PlanObject, refusals

router = APIRouter(tags=["server"])

MONTH = 30 * 24 * 3600  # seconds


@router.get("/v1/models")
def models(studio: StudioHere) -> ModelList:
    """List the models whose engines are here, the default first."""
    return ModelList(data=[_model_object(offer, studio.config.longest) for offer in studio.offers.values()])


@router.post("/v1/plans", responses=refusals(400, 413, 422))
def plan(body: PlanBody, studio: StudioHere) -> PlanObject:
    """Say what a video comes to, before it is asked for."""
    model, wish = wish_of(studio, body, body.picture)
    planned = plan_run(model, wish.resolve(model))
    cost = studio.planner(find_cost, model.name, wish)
    return PlanObject(
        model=model.name,
        num_frames=planned.num_frames,
        fps=planned.fps,
        size=f"{planned.width}x{planned.height}",
        base_frames=planned.base_frames,
        chunks=len(planned.chunks),
        steps=planned.steps,
        windows=len(planned.windows),
        interpolated=planned.interpolate,
        making_seconds=cost.seconds or None,
        measured=cost.measured,
        memory=cost.host_bytes,
        memory_there=cost.host_there,
        disk=cost.disk_bytes,
        disk_free=cost.disk_free,
    )


@router.post("/login", status_code=204, responses=refusals(400, 401, 413, 422))
def login(body: LoginBody, request: Request, response: Response, studio: StudioHere) -> None:
    """Exchange the token for a cookie, which pages cannot read and other sites do not send."""
    token = studio.config.token
    if token is None:
        return
    if not is_same(body.token, token):
        raise HTTPException(401, "the token is wrong; it is the one that the server was started with")
    secure = request.url.scheme == "https"
    response.set_cookie(COOKIE, cookie_of(token), MONTH, httponly=True, samesite="strict", secure=secure)


@router.get("/healthz", responses=refusals(503))
def health(studio: StudioHere) -> Health:
    """Say that the server answers, and makes videos."""
    if not all(attendant.is_alive() for attendant in studio.attendants):
        raise HTTPException(503, "no more videos are made; see the log of the server, and start it again")
    return Health()


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def metrics(studio: StudioHere) -> Response:
    """Tell Prometheus what it counts."""
    return Response(studio.metrics.text(), media_type=CONTENT_TYPE_LATEST)


def _model_object(offer: Offer, longest: int) -> ModelObject:
    model = find_model(offer.model)
    return ModelObject(
        id=model.name,
        summary=model.summary,
        toy=model.toy,
        inputs=[*model.inputs],
        sizes=[*offer.sizes],
        num_frames=model.num_frames,
        fps=model.fps,
        seed=model.seed,
        longest_seconds=longest / model.fps,
    )
