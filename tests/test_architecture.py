"""The rules of the house that a machine can check: who imports whom, how long, how documented."""

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("kernels", "engine", "export", "bench", "cli")  # each may import itself and those before it
SOURCES = sorted([ROOT / "__init__.py", ROOT / "cli.py", *(p for room in ROOMS for p in (ROOT / room).rglob("*.py"))])
TORCH_LIBRARIES = {"torch", "diffusers", "transformers"}
TORCH_AT_RUN_TIME = {
    ROOT / "engine" / name
    for name in (
        "backends/inductor.py",
        "backends/inductor_card.py",
        "backends/inductor_values.py",
        "backends/inductor_weights.py",
        "parallel/wire.py",
    )
}
LONGEST_FILE, LONGEST_FUNCTION = 300, 50

Function = ast.FunctionDef | ast.AsyncFunctionDef
Rule = Callable[[Path, ast.Module], Iterator[str]]


def imports(tree: ast.AST) -> Iterator[tuple[ast.stmt, str]]:
    """Each import statement below `tree` with the full name of the module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node, "." * node.level + (node.module or "")


def in_functions(tree: ast.AST) -> set[ast.AST]:
    return {inner for node in ast.walk(tree) if isinstance(node, Function) for inner in ast.walk(node)}


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def one_way(path: Path, tree: ast.Module) -> Iterator[str]:
    """A room imports only itself and the rooms below it; the root imports the engine."""
    room = room_of(path)
    allowed = ROOMS[: ROOMS.index(room) + 1] if room in ROOMS else ("engine",)
    for node, name in imports(tree):
        parts = name.split(".")
        if parts[0] == "stt2v" and len(parts) > 1 and parts[1] not in allowed:
            yield f"line {node.lineno}: {room} imports {name}"


def absolute(path: Path, tree: ast.Module) -> Iterator[str]:
    """Our own modules are imported as stt2v.<room>..., never bare and never relative."""
    for node, name in imports(tree):
        if name.startswith(".") or name.split(".")[0] in ROOMS:
            yield f"line {node.lineno}: import of {name}"


def torch_free(path: Path, tree: ast.Module) -> Iterator[str]:
    """The engine imports no torch; the inductor backend and what joins processes may, inside their functions."""
    if room_of(path) not in ("engine", "cli", "__init__"):
        return
    late = in_functions(tree) if path in TORCH_AT_RUN_TIME else set()
    for node, name in imports(tree):
        if name.split(".")[0] in TORCH_LIBRARIES and node not in late:
            yield f"line {node.lineno}: import of {name}"


def short(path: Path, tree: ast.Module) -> Iterator[str]:
    """Files and functions fit a reader's head."""
    lines = len(path.read_text().splitlines())
    if lines > LONGEST_FILE:
        yield f"{lines} lines, at most {LONGEST_FILE}"
    for node in ast.walk(tree):
        if isinstance(node, Function) and (length := (node.end_lineno or 0) - node.lineno + 1) > LONGEST_FUNCTION:
            yield f"{node.name}: {length} lines, at most {LONGEST_FUNCTION}"


def quiet(path: Path, tree: ast.Module) -> Iterator[str]:
    """Only commands print, through `engine/commands/output.py`, which needs no `print`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
            yield f"line {node.lineno}: print"


def documented(path: Path, tree: ast.Module) -> Iterator[str]:
    """Every module that holds code, and every public class and function in it, has a docstring."""
    if not tree.body:
        return
    public = [node for node in tree.body if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_")]
    for node in (tree, *public):
        if not ast.get_docstring(node):
            yield f"{getattr(node, 'name', 'module')}: no docstring"


RULES = (one_way, absolute, torch_free, short, quiet, documented)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule(rule: Rule) -> None:
    breaches = [
        f"{path.relative_to(ROOT)}: {breach}" for path in SOURCES for breach in rule(path, ast.parse(path.read_text()))
    ]
    assert not breaches, "\n".join([rule.__doc__ or "", *breaches])


@pytest.mark.parametrize(
    ("rule", "path", "source"),
    [
        (one_way, "engine/planted.py", "from stt2v.export.graph import Graph"),
        (one_way, "kernels/planted.py", "def late():\n    import stt2v.engine"),
        (one_way, "export/planted.py", "from stt2v.cli import app"),
        (absolute, "export/planted.py", "from engine.spec import EngineSpec"),
        (absolute, "export/planted.py", "from .graph import Graph"),
        (torch_free, "engine/planted.py", "def late():\n    import torch.nn"),
        (torch_free, "engine/backends/inductor.py", "import torch"),
        (quiet, "bench/planted.py", "print('hello')"),
        (documented, "bench/planted.py", "'''A module.'''\ndef public(): ..."),
    ],
)
def test_rules_find_planted_breaches(rule: Rule, path: str, source: str) -> None:
    assert list(rule(ROOT / path, ast.parse(source)))


@pytest.mark.parametrize("module", ["stt2v", "stt2v.engine", "stt2v.cli"])
def test_import_is_light(module: str, tmp_path: Path) -> None:
    heavy = "{'torch', 'onnx', 'onnxruntime', 'av', 'diffusers', 'transformers'}"
    code = f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
