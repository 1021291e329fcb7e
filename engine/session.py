"""A session: an engine set kept open, making videos from requests."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from stt2v import __version__
from stt2v.engine.backends import check_backend
from stt2v.engine.backends.base import Closing, Engine, Frames, Value
from stt2v.engine.certificate import check_certificate
from stt2v.engine.engine_set import EngineSet, Without
from stt2v.engine.errors import ParityError, UsageError
from stt2v.engine.first_chunk import still
from stt2v.engine.loop import OnStep
from stt2v.engine.media.image import fit_image, load_image
from stt2v.engine.media.tokenizer import Tokenizer
from stt2v.engine.memory_plan import MemoryPlanner
from stt2v.engine.models import DEFAULT_MODEL, find_model
from stt2v.engine.models.model import Model
from stt2v.engine.noise import Noise
from stt2v.engine.parallel.group import Alone, Group, SpreadEngines, check_size
from stt2v.engine.pipeline import OnBase, Pipeline, unseen
from stt2v.engine.plan import RunPlan, plan_run
from stt2v.engine.progress import Progress, Silent
from stt2v.engine.request import Request, Settings
from stt2v.engine.runs.run import scratch_run
from stt2v.engine.stages.denoise import fused_steps
from stt2v.engine.store import find_sets

if TYPE_CHECKING:
    from PIL.Image import Image

StepCallback = Callable[["Session", int, float, dict[str, Any]], dict[str, Any]]
"""As in diffusers: (session, step index, timestep, {"latents": ..., "chunk": ...}) -> that dict, latents may change."""


@dataclass(frozen=True)
class Chunk:
    """Frames that follow those of the chunk before: [F, H, W, 3], uint8."""

    index: int
    frames: Frames


class Session(Closing):
    """The engines of one model, and `generate`.

    with Session.open("tiny") as session:
        for chunk in session.generate(Request(image=Path("photo.jpg"))):
            ...
    """

    def __init__(
        self, model: Model, engines: Mapping[str, Engine], tokenizers: Mapping[str, Tokenizer] | None = None
    ) -> None:
        self.model = model
        self.engines = engines
        self._usable = engines
        self._group: Group = Alone()
        self.tokenizers = tokenizers or {}

    @classmethod
    def open(
        cls,
        model: str = DEFAULT_MODEL,
        engines: Path | None = None,
        backend: str | None = None,
        enhancer: str | None = None,
        trust: bool = False,
        progress: Progress | None = None,
        gpus: int = 1,
        vram: int | None = None,
    ) -> Self:
        """Open the engine set in `engines`, or the one of `model` that was built here or is shipped.

        A set that runs on this machine for the first time is certified, which `progress` is told; one whose engines
        compute wrongly here is passed over for the next that there is.

        Without `engines`, `enhancer` is the one that the set should hold; None is the model's own. With `trust` the set
        may be of any origin. With `gpus` so many processes, each with a card of its own, work on every video; for
        engines of a processor they share it. `vram`: bytes of the card's memory within which all stays.

        Raises UsageError for an unknown model, for a set of another model or backend, and for one that cannot keep to
        `vram`, EngineSetError and BackendError for a set that cannot be used.
        """
        find_model(model)
        check_size(gpus, vram)
        if backend is not None:
            check_backend(backend)
        *others, last = [engines] if engines else find_sets(model, backend, enhancer)
        for directory in others:
            try:
                return cls._certified(model, directory, backend, trust, progress, vram)._spread(gpus, trust)
            except ParityError as error:
                if progress:
                    progress.note(f"{error}; falls back to another set")
        return cls._certified(model, last, backend, trust, progress, vram)._spread(gpus, trust)

    @classmethod
    def _certified(
        cls,
        model: str,
        directory: Path,
        backend: str | None,
        trust: bool,
        progress: Progress | None,
        vram: int | None,
    ) -> Self:
        opened = EngineSet.open(directory, backend, trust, vram)
        if opened.model.name != model:
            raise UsageError(f"engine set {opened.directory} is of model {opened.model.name!r}, expected {model!r}")
        session = cls(opened.model, opened, opened.tokenizers)
        session._usable = Without(opened, check_certificate(directory, opened.manifest, progress))
        return session

    def _spread(self, gpus: int, trust: bool) -> Self:
        """This session, its engines in so many processes."""
        if gpus > 1 and isinstance(self.engines, EngineSet):
            from stt2v.engine.parallel.processes import Processes

            try:
                self._group = Processes(self.engines, gpus, trust)
            except BaseException:
                self.close()
                raise
        return self

    def plan(self, request: Request) -> RunPlan:
        """What `request` comes to. Raises UsageError before any work."""
        return plan_run(self.model, request.resolve(self.model))

    def settings(self, request: Request) -> dict[str, Any]:
        """What is needed to make the video of `request` again, as it is kept in the file."""
        made: dict[str, Any] = {
            "stt2v": __version__,
            "model": self.model.name,
            "width": self.model.width,
            "height": self.model.height,
        }
        if isinstance(self.engines, EngineSet):
            manifest = self.engines.manifest
            made |= {"backend": manifest.backend, "weights": manifest.weights_hash, "engines": manifest.engines_hash}
        return made | request.resolve(self.model).to_json()

    def generate(
        self,
        request: Request,
        progress: Progress | None = None,
        callback_on_step_end: StepCallback | None = None,
    ) -> Iterator[Chunk]:
        """The video of `request`, chunk by chunk, exactly as many frames as were asked for.

        Arguments are checked and the picture is read, or made of the prompt, here and now; the other work begins
        with the first chunk taken. What grows with the video lies in a temporary folder until the last is taken.
        Raises UsageError, InputError, StageError, BackendError.
        """
        watcher = progress or Silent()
        settings = request.resolve(self.model)
        pipeline = self.pipeline(settings, plan_run(self.model, settings), watcher)
        picture = self.picture(settings, watcher)
        return self._chunks(pipeline, picture, self.on_step(watcher, callback_on_step_end))

    def _chunks(self, pipeline: Pipeline, picture: Frames | None, on_step: OnStep) -> Iterator[Chunk]:
        with scratch_run() as run:
            for index, frames in enumerate(pipeline.frames(run, picture, on_step)):
                yield Chunk(index, frames)

    def pipeline(self, settings: Settings, plan: RunPlan, progress: Progress, on_base: OnBase = unseen) -> Pipeline:
        """What makes the frames of `plan`.

        Raises UsageError and EngineSetError where the engines cannot, or the memory of the card is too small.
        """
        noise = Noise(settings.seed)
        pipeline = Pipeline(self.model, self._usable, self.tokenizers, settings, plan, noise, progress, on_base)
        return replace(pipeline, engines=SpreadEngines(self._fitted(settings, plan, progress), self._group))

    def _fitted(self, settings: Settings, plan: RunPlan, progress: Progress) -> Mapping[str, Engine]:
        """The engines with which a run fits into the memory of the card, which are told in what order they come."""
        if not isinstance(self.engines, EngineSet):
            return self._usable
        planner = MemoryPlanner(self.model, self.engines.needs, [*self._usable], self._group.size)
        halved = planner.plan(settings, plan, self.engines.budget).halved
        if halved:
            progress.note(
                f"takes the halves of {', '.join(sorted(halved))} one after the other, to fit into the memory"
            )
            self._use_halves(halved)
        self.engines.expect(planner.first_uses(settings, plan, halved))
        self._group.expect(planner.first_uses(settings, plan, halved, others=True))
        return self._usable

    def step_down(self) -> str | None:
        """From now on use what takes less memory and gives the same.

        That is, keep fewer weights on the card where others have taken of it and record no engine again, then do steps
        by halves in place of fused ones. Returns what changes in words, None when nothing is left to change.
        """
        if isinstance(self.engines, EngineSet) and self.engines.refit():
            return "keeps to the memory that is free now"
        fused = fused_steps(self._usable)
        if not fused:
            return None
        self._use_halves(fused)
        return "takes the halves of each step one after the other"

    def _use_halves(self, fused: Collection[str]) -> None:
        if isinstance(self.engines, EngineSet):
            self.engines.unload(fused)
        self._usable = Without(self._usable, frozenset(fused))

    def close(self) -> None:
        self._group.close()
        self._group = Alone()
        if isinstance(self.engines, EngineSet):
            self.engines.close()

    def picture(self, settings: Settings, progress: Progress) -> Frames | None:
        """The picture to start from, where the model takes one: the request's, or one of its prompt."""
        if "image" not in self.model.inputs or (settings.image is None and "text" in self.tokenizers):
            return None
        picture = self._still(settings, progress) if settings.image is None else load_image(settings.image)
        pixels, word = fit_image(picture, self.model.width, self.model.height, settings.fit)
        if word:
            progress.note(word)
        return pixels

    def _still(self, settings: Settings, progress: Progress) -> "Image":
        progress.note("no image is given: Stable Diffusion XL makes one of the prompt, outside the engines")
        return still(settings.prompt or "", settings.seed)

    def on_step(self, progress: Progress, callback: StepCallback | None = None) -> OnStep:
        """What tells `progress` of a chunk's steps, and asks `callback` what to go on with."""

        def on_step(chunk: int, step: int, timestep: float, latents: Value) -> Value:
            progress.advance("generate", chunk=chunk, step=step)
            if callback is None:
                return latents
            result: Value = callback(self, step, timestep, {"latents": latents, "chunk": chunk})["latents"]
            return result

        return on_step
