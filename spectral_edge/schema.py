"""Checks plain data against the JSON Schemas that this package ships.

Covers the keywords that ``spectral_edge/schemas/*.json`` use (draft 2020-12), so that a device
needs no ``jsonschema``. One deliberate difference from the standard: ``1.0`` is no integer here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["first_violation", "load_schema", "strict_json"]

_FOLDER = Path(__file__).parent / "schemas"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


_TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda v: isinstance(v, dict),
    "array": lambda v: isinstance(v, list),
    "string": lambda v: isinstance(v, str),
    "boolean": lambda v: isinstance(v, bool),
    "null": lambda v: v is None,
    "number": _is_number,
    "integer": lambda v: isinstance(v, int) and not isinstance(v, bool),
}


@cache
def load_schema(name: str) -> dict[str, Any]:
    """Return the shipped schema ``name`` ("bundle" or "report")."""
    data: dict[str, Any] = json.loads((_FOLDER / f"{name}.schema.json").read_text("utf-8"))
    return data


def strict_json(text: str) -> Any:
    """Parse JSON, refusing duplicate keys and the non-standard NaN and Infinity.

    Raises:
        ValueError: what is wrong and where.
    """
    return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"key {twice!r} appears twice")
    return result


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not a JSON number")


def first_violation(data: Any, schema: dict[str, Any], definition: str | None = None) -> str | None:
    """Return the first violation as "path: value seen, what is expected", or None.

    Args:
        data: what :func:`strict_json` returned.
        schema: a schema of :func:`load_schema`.
        definition: check against this entry of its ``$defs`` only.
    """
    rule = schema if definition is None else schema["$defs"][definition]
    return _check(data, rule, schema, "")


def _check(value: Any, schema: dict[str, Any], root: dict[str, Any], path: str) -> str | None:
    while "$ref" in schema:
        schema = root["$defs"][schema["$ref"].removeprefix("#/$defs/")]
    where = path or "top level"
    forms = schema.get("anyOf")
    if forms and all(_check(value, form, root, path) for form in forms):
        return f"{where} has none of the {len(forms)} forms allowed"
    if "const" in schema and not _same(value, schema["const"]):
        return f"{where} is {_short(value)}, must be {schema['const']!r}"
    if "enum" in schema and not any(_same(value, allowed) for allowed in schema["enum"]):
        return f"{where} is {_short(value)}, must be one of {', '.join(map(str, schema['enum']))}"
    if "type" in schema:
        types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        if not any(_TYPES[t](value) for t in types):
            return f"{where} is {_short(value)}, must be {' or '.join(types)}"
    if isinstance(value, str):
        return _check_string(value, schema, where)
    if _is_number(value):
        return _check_number(value, schema, where)
    if isinstance(value, list):
        return _check_array(value, schema, root, path)
    if isinstance(value, dict):
        return _check_object(value, schema, root, path)
    return None


def _check_string(value: str, schema: dict[str, Any], where: str) -> str | None:
    if "pattern" in schema and re.search(schema["pattern"], value) is None:
        return f"{where} is {_short(value)}, must match {schema['pattern']}"
    return None


def _check_number(value: float, schema: dict[str, Any], where: str) -> str | None:
    if "minimum" in schema and not value >= schema["minimum"]:
        return f"{where} is {value}, must be at least {schema['minimum']}"
    if "maximum" in schema and not value <= schema["maximum"]:
        return f"{where} is {value}, must be at most {schema['maximum']}"
    if "exclusiveMinimum" in schema and not value > schema["exclusiveMinimum"]:
        return f"{where} is {value}, must be above {schema['exclusiveMinimum']}"
    return None


def _check_array(
    value: list[Any], schema: dict[str, Any], root: dict[str, Any], path: str
) -> str | None:
    low, high = schema.get("minItems", 0), schema.get("maxItems", len(value))
    if not low <= len(value) <= high:
        return f"{path or 'top level'} has {len(value)} items, must have {low}…{high}"
    heads = schema.get("prefixItems", [])
    for i, item in enumerate(value):
        rule = heads[i] if i < len(heads) else schema.get("items")
        if rule is not None and (bad := _check(item, rule, root, f"{path}[{i}]")):
            return bad
    return None


def _check_object(
    value: dict[str, Any], schema: dict[str, Any], root: dict[str, Any], path: str
) -> str | None:
    known = schema.get("properties", {})
    for name in schema.get("required", []):
        if name not in value:
            return f"{path or 'top level'} lacks the key {name!r}"
    names = schema.get("propertyNames")
    others = schema.get("additionalProperties", {})
    for name, item in value.items():
        here = f"{path}.{name}" if path else name
        if names is not None and (bad := _check(name, names, root, f"{here} (key)")):
            return bad
        if name in known:
            rule = known[name]
        elif others is False:
            return f"unknown key {here!r}; known here: {', '.join(known)}"
        else:
            rule = others
        if bad := _check(item, rule, root, here):
            return bad
    return None


def _same(a: Any, b: Any) -> bool:
    """Compare like JSON: true is not 1."""
    return bool(a == b) and isinstance(a, bool) == isinstance(b, bool)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
