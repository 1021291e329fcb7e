"""What every converter shares: choosing, renaming and strictly loading tensors by key."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from torch import Tensor, nn

from stt2v.engine.errors import ExportError

State = Mapping[str, Tensor]
Rule = tuple[str, str]
"""A regular expression and its replacement, as for `re.sub`."""

Module = TypeVar("Module", bound=nn.Module)

SHOWN = 3  # keys that an error message lists


def take(state: State, prefix: str) -> dict[str, Tensor]:
    """The tensors whose keys begin with `prefix`, under the rest of their keys."""
    return {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}


def rename(state: State, rules: Sequence[Rule], ignored_prefixes: Sequence[str] = ()) -> dict[str, Tensor]:
    """The state under new keys: every rule is applied in turn to every key that has no ignored prefix.

    Raises: ExportError when two keys become the same.
    """
    kept = {key: tensor for key, tensor in state.items() if not key.startswith(tuple(ignored_prefixes))}
    renamed = {_rename_key(key, rules): tensor for key, tensor in kept.items()}
    if len(renamed) != len(kept):
        raise ExportError(f"{len(kept)} keys became {len(renamed)}; two rename rules of this converter collide")
    return renamed


def _rename_key(key: str, rules: Sequence[Rule]) -> str:
    for pattern, replacement in rules:
        key = re.sub(pattern, replacement, key)
    return key


def load_strict(module: Module, state: State) -> Module:
    """Put `state` into `module` (also one on the meta device), for evaluation only.

    The tensors are taken as they are, without a copy and in their own types.

    Raises: ExportError when a key is missing or over, or a shape differs.
    """
    expected = module.state_dict()
    missing, over = expected.keys() - state.keys(), state.keys() - expected.keys()
    if missing or over:
        raise ExportError(
            f"weights do not fit {type(module).__name__}: missing {_some(missing)}, over {_some(over)}; "
            "use the published checkpoint of this model"
        )
    for key, tensor in expected.items():
        if tensor.shape != state[key].shape:
            raise ExportError(
                f"weights do not fit {type(module).__name__}: {key} is {list(state[key].shape)}, expected "
                f"{list(tensor.shape)}; use the published checkpoint of this model"
            )
    module.load_state_dict(dict(state), assign=True)
    return module.eval().requires_grad_(False)


def _some(keys: Iterable[str]) -> str:
    """The first few of `keys` and how many there are."""
    listed = sorted(keys)
    shown = ", ".join(listed[:SHOWN]) + (", ..." if len(listed) > SHOWN else "")
    return f"{len(listed)} keys ({shown})" if listed else "none"
