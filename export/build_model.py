"""`stt2v build-engines`: one model, one backend, one engine set."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from stt2v.engine.backends.inductor_card import inside
from stt2v.engine.build_costs import costs
from stt2v.engine.errors import InputError, UsageError
from stt2v.engine.models import find_model
from stt2v.engine.models.enhancers import choose_enhancer
from stt2v.engine.models.model import Enhancing, Model
from stt2v.engine.paths import is_folder
from stt2v.engine.progress import Progress, Silent
from stt2v.engine.store import built_set, weight_folder
from stt2v.export.build import BuiltSet, EngineSetBuild
from stt2v.export.build_plan import plan_build
from stt2v.export.compilers import compiler_of
from stt2v.export.expected import ExpectedProgress
from stt2v.export.recipes import recipe_for
from stt2v.export.staleness import Survey

GRANULE = 64  # a side must be a multiple: eight pixels a latent pixel, halved three times
NOISE = "random weights: its frames are noise"


def model_build(
    model: str,
    backend: str = "onnxruntime",
    precision: str | None = None,
    target: str | None = None,
    size: tuple[int, int] | None = None,
    enhancer: str | None = None,
    weights: Path | None = None,
    random_weights: bool = False,
    out: Path | None = None,
    progress: Progress | None = None,
    window: int | None = None,
    vram: int | None = None,
) -> EngineSetBuild:
    """The build of the engine set of `model`, in `out` or where the store keeps it.

    Without a precision it is the backend's default, without a target this machine, without an enhancer the model's
    own; a set holds one, or "none". A set of random weights lies apart from the real one. `window`: frames that the
    enhancer sees at most; `vram`: bytes of a card within which each engine should run.

    Raises UsageError, InputError for a weight folder that is none, ExportError.
    """
    declared = find_model(model)
    if weights is not None:
        _check_weights(weights, random_weights)
    if size is not None:
        declared = resized(declared, *size)
    declared = replace(declared, enhancing=_enhancing(declared, enhancer, window))
    if weights is None and not (random_weights or declared.toy):
        weights = own_weights(model) or _pulled(model)
    random = weights is None and not declared.toy
    if random:
        declared = replace(declared, warning=NOISE)
    compiler = compiler_of(backend)
    precision = precision or compiler.precisions[0]
    target = target or compiler.own_target()
    directory = out or built_set(declared, backend, target, precision, random)
    if vram is not None:
        _check_card(backend, target, vram)
    recipe = recipe_for(declared, weights)
    graphs = recipe.graphs
    if vram is not None:
        from stt2v.export.footprint import Within  # with PyTorch's compiler

        graphs = Within(vram, declared, precision).chosen(graphs, progress or Silent())
    if progress and declared.interpolate and not any(name.startswith("interpolate") for name in recipe.graphs):
        progress.note(f"{weights} has no interpolator: these engines need `generate --no-interpolate`")
    return EngineSetBuild.of(
        declared.to_json(), graphs, backend, precision, target, directory, progress, files=recipe.files
    )


def run_planned(build: EngineSetBuild, jobs: int, only: Collection[str], vram: int | None = None) -> BuiltSet:
    """Tell the plan of a build, and run it if it fits, with what is expected of each engine and left of all.

    Says which engines take more than `vram` bytes of the card after all. Raises what `EngineSetBuild.run` does, and
    ExportError for a build that this machine cannot hold.
    """
    wanted, graphs = build.builder.wanted, build.builder.graphs
    expected = costs(Model.from_json(wanted.model), wanted.backend, wanted.precision, graphs)

    def review(found: Survey) -> None:
        plan = plan_build(build, found, jobs, only)
        for line in plan.lines():
            build.builder.progress.note(line)
        plan.check()

    with ExpectedProgress(build.builder.progress, {cost.graph: cost.seconds for cost in expected}) as progress:
        built = replace(build, builder=replace(build.builder, progress=progress)).run(jobs, only, review)
    if vram is not None:
        from stt2v.export.footprint import exceeding

        for line in exceeding(built.manifest.engines, vram):
            build.builder.progress.note(line)
    return built


def _check_card(backend: str, target: str, vram: int) -> None:
    """Raise UsageError where engines cannot keep to `vram` bytes of a card."""
    if (backend, target) != ("inductor", "cuda"):
        raise UsageError(
            f"--vram is given, engines of {backend} for {target} cannot keep to it; leave it out, or use"
            " --backend inductor --target cuda"
        )
    inside(vram)


def _enhancing(model: Model, enhancer: str | None, window: int | None) -> Enhancing | None:
    how = choose_enhancer(model, enhancer)
    if window is None:
        return how
    if how is None:
        raise UsageError(f"--window is {window} and there is no enhancer that has windows; leave it out")
    if not 1 < window <= how.window:
        raise UsageError(f"--window is {window}, expected 2 to {how.window} frames")
    return how.in_windows(window)


def _check_weights(folder: Path, random: bool) -> None:
    if random:
        raise UsageError(f"--weights {folder} and --random-weights are given; leave one of them out")
    if not is_folder(folder):
        raise InputError(f"weights {folder} are no folder; give one that `stt2v pull` made")


def own_weights(model: str) -> Path | None:
    """The folder of the weights of `model` where they are part of the package."""
    folder = Path(__file__).parent / model / "weights"
    return folder if folder.is_dir() else None


def _pulled(model: str) -> Path:
    folder = weight_folder(model)
    if not folder.is_dir():
        raise UsageError(
            f"model {model!r} needs its weights, there are none at {folder}: run `stt2v pull {model}`, give --weights "
            "DIR, or --random-weights to try without them"
        )
    return folder


def resized(model: Model, width: int, height: int) -> Model:
    """`model` for other frames. Raises UsageError for sizes that its networks cannot have."""
    if min(width, height) < GRANULE or width % GRANULE or height % GRANULE:
        raise UsageError(f"size is {width}x{height}, expected multiples of {GRANULE}")
    return replace(model, width=width, height=height)
