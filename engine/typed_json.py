"""JSON into the types that it was made of: what was read from a file is what its type says, or an error."""

import functools
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


def read_as(kind: Any, value: Any) -> Any:
    """`value`, as `json.loads` gives it, as a `kind`.

    That may be a frozen dataclass (fields with a default may be missing), a tuple, a mapping from text, a union, a
    literal, Any, or one of JSON's own; a whole number stands for itself where a float is expected. Raises TypeError.
    """
    origin, parts = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if is_dataclass(kind):
        return _dataclass(kind, _checked(value, dict))
    if origin in (Union, UnionType):
        return _first(parts, value)
    if origin is tuple:
        return _tuple(parts, _checked(value, list, tuple))
    if origin is Mapping:
        return {name: read_as(parts[1], part) for name, part in _checked(value, dict).items()}
    if origin is Literal:
        if not any(type(part) is type(value) and part == value for part in parts):
            raise TypeError(f"{value!r} is none of {parts}")
        return value
    if kind is float:
        return _float(_checked(value, int, float))
    return _checked(value, kind)


def _checked(value: Any, *kinds: type) -> Any:
    if type(value) not in kinds:
        raise TypeError(f"{value!r} is no {kinds[-1].__name__}")
    return value


def _float(value: int | float) -> int | float:
    """`value` as it is, if a float can be as large."""
    try:
        float(value)
    except OverflowError as error:
        raise TypeError("a number is too large for a float") from error
    return value


def _dataclass(kind: Any, data: dict[str, Any]) -> Any:
    types, own = _types(kind), {field.name: field for field in fields(kind)}
    if over := data.keys() - own.keys():
        raise TypeError(f"{kind.__name__} has no {', '.join(sorted(over))}")
    if missing := [n for n, f in own.items() if n not in data and f.default is f.default_factory is MISSING]:
        raise TypeError(f"{kind.__name__} lacks {', '.join(missing)}")
    return kind(**{name: read_as(types[name], value) for name, value in data.items()})


@functools.cache
def _types(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _tuple(parts: tuple[Any, ...], values: list[Any]) -> tuple[Any, ...]:
    if parts[-1] is ...:
        parts = parts[:1] * len(values)
    if len(parts) != len(values):
        raise TypeError(f"{values!r} has not {len(parts)} parts")
    return tuple(read_as(part, value) for part, value in zip(parts, values, strict=True))


def _first(parts: tuple[Any, ...], value: Any) -> Any:
    """As the first of `parts` that it can be; of an optional one, the error says what else was expected."""
    if value is None and NoneType in parts:
        return None
    *others, last = (part for part in parts if part is not NoneType)
    for part in others:
        try:
            return read_as(part, value)
        except TypeError:
            continue
    return read_as(last, value)
