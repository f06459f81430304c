"""Tools as the TypeScript text that Kimi K2.5 and later were trained on.

    # Tools

    ## functions
    namespace functions {
    // description
    type NAME = (_: {
      // field description
      field: string,
      other?: number
    }) => any;
    }

Required fields come first, each group in the order of the names. The model knows this text down to the comma, so
odd corners of the published form (Python's `True` as a default, `never` for closed objects) are kept.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Schema = Any  # a JSON schema: an object, or true / false

_INDENT = "  "
_UNION_TYPES = {
    "string": "string",
    "number": "number",
    "integer": "number",
    "boolean": "boolean",
    "null": "null",
    "object": "{}",
    "array": "Array<any>",
}
_CONSTRAINTS = {
    "string": ("maxLength", "minLength", "pattern"),
    "number": ("maximum", "minimum"),
    "integer": ("maximum", "minimum"),
    "array": ("maxItems", "minItems"),
}
_DEFINITIONS = "#/$defs/"
_WHOLE = "#"
_WHOLE_NAME = "parameters"


class DeclarationError(ValueError):
    """A schema says something that this form has no words for."""


def declare_in_typescript(tools: Sequence[Mapping[str, Any]]) -> str | None:
    """The text for `tools` in OpenAI's form, keys sorted; None when a schema cannot be said in TypeScript.

    Entries that are not functions are left out. "" when nothing is left.
    """
    try:
        functions = [tool.get("function") for tool in sort_keys(tools) if tool.get("type") == "function"]
        declared = [_function(function) for function in functions if function]
    except (DeclarationError, AttributeError, TypeError):  # the latter two: a schema of the wrong JSON types
        return None
    if not declared:
        return ""
    body = "\n".join(declared)
    return f"# Tools\n\n## functions\nnamespace functions {{\n{body}\n}}\n"


def sort_keys(value: Any) -> Any:
    """A copy of nested dicts and lists in which every dict has its keys in order."""
    if isinstance(value, Mapping):
        return {key: sort_keys(value[key]) for key in sorted(value)}
    if isinstance(value, list | tuple):
        return [sort_keys(item) for item in value]
    return value


@dataclass
class _Scope:
    """What `$ref` may point at inside one function."""

    definitions: dict[str, Schema] = field(default_factory=dict)
    refers_to_whole: bool = False

    def resolve(self, reference: str) -> str:
        """The name that stands for `reference`."""
        if reference == _WHOLE:
            self.refers_to_whole = True
            return _WHOLE_NAME
        name = reference.removeprefix(_DEFINITIONS)
        if name == reference or name not in self.definitions:
            raise DeclarationError(f"the reference {reference} leads nowhere")
        return name


def _function(function: Mapping[str, Any]) -> str:
    scope = _Scope()
    parameters = function.get("parameters") or {}
    fields = _object(parameters, "", scope)
    interfaces = [_interface(name, schema, scope) for name, schema in list(scope.definitions.items())]
    if scope.refers_to_whole:
        listed = ",\n".join(_fields(parameters, _INDENT, scope, parameters.get("properties", {})))
        interfaces.insert(0, f"interface {_WHOLE_NAME} {{\n{listed}\n}}")
        fields = _WHOLE_NAME
    description = [_comment(function["description"], "")] if function.get("description") else []
    return "\n".join([*interfaces, *description, f"type {function.get('name', 'function')} = (_: {fields}) => any;"])


def _interface(name: str, schema: Schema, scope: _Scope) -> str:
    described = isinstance(schema, Mapping) and schema.get("description")
    comment = _comment(schema["description"], "") + "\n" if described else ""
    return f"{comment}interface {name} {_type(schema, '', scope)}"


def _type(schema: Schema, indent: str, scope: _Scope) -> str:
    """The TypeScript type of a schema; `indent` is that of the line it starts on."""
    if isinstance(schema, bool) or schema == {}:
        return "null" if schema is False else "any"
    for key, write in _BY_KEY.items():
        if key in schema:
            return write(schema, indent, scope)
    raise DeclarationError(f"the schema {schema} has no type")


def _reference(schema: Schema, indent: str, scope: _Scope) -> str:
    return scope.resolve(schema["$ref"])


def _any_of(schema: Schema, indent: str, scope: _Scope) -> str:
    return " | ".join(_type(option, indent, scope) for option in schema["anyOf"])


def _enum(schema: Schema, indent: str, scope: _Scope) -> str:
    return " | ".join(f'"{value}"' if isinstance(value, str) else str(value) for value in schema["enum"])


def _named_type(schema: Schema, indent: str, scope: _Scope) -> str:
    kind = schema["type"]
    if isinstance(kind, list):
        unknown = [name for name in kind if name not in _UNION_TYPES]
        if unknown:
            raise DeclarationError(f"the type {unknown[0]} is unknown")
        return " | ".join(_UNION_TYPES[name] for name in kind)
    if kind == "object":
        return _object(schema, indent, scope)
    if kind == "array":
        return _array(schema, indent, scope)
    return "number" if kind == "integer" else str(kind)


_BY_KEY: Mapping[str, Callable[[Schema, str, _Scope], str]] = {
    "$ref": _reference,
    "anyOf": _any_of,
    "enum": _enum,
    "type": _named_type,
}


def _array(schema: Schema, indent: str, scope: _Scope) -> str:
    items = schema.get("items") or {}
    deeper = indent + _INDENT
    comments = _comments(items, deeper)
    if not comments:
        return f"Array<{_type(items, indent, scope)}>"
    return f"Array<\n{comments}{deeper}{_type(items, deeper, scope)}\n{indent}>"


def _object(schema: Mapping[str, Any], indent: str, scope: _Scope) -> str:
    scope.definitions.update(schema.get("$defs") or {})
    properties = schema.get("properties", {})
    required = set(schema.get("required", []))
    in_order = sorted(properties, key=lambda name: (name not in required, name))
    deeper = indent + _INDENT
    lines = _fields(schema, deeper, scope, in_order)
    rest = schema.get("additionalProperties")
    if rest is not None:
        lines.append(f"{deeper}[k: string]: {'never' if rest is False else _type(rest, deeper, scope)}")
    return "{\n" + ",\n".join(lines) + f"\n{indent}}}" if lines else "{}"


def _fields(schema: Mapping[str, Any], indent: str, scope: _Scope, names: Sequence[str]) -> list[str]:
    """One entry for each of the properties `names`, with its comments above it."""
    lines = []
    for name in names:
        inner = schema["properties"][name]
        default = inner.get("default") if isinstance(inner, Mapping) else None
        comments = _comments(inner, indent)
        if default is not None:
            written = repr(default) if isinstance(default, int | float) else json.dumps(default, ensure_ascii=False)
            comments += f"{indent}// Default: {written}\n"
        optional = "" if name in schema.get("required", []) else "?"
        lines.append(f"{comments}{indent}{name}{optional}: {_type(inner, indent, scope)}")
    return lines


def _comments(schema: Schema, indent: str) -> str:
    """Description and constraints above a field, each line ended."""
    if not isinstance(schema, Mapping):
        return ""
    lines = [_comment(schema["description"], indent)] if schema.get("description") else []
    kind = schema.get("type")
    plain = isinstance(kind, str) and not any(key in schema for key in ("$ref", "anyOf", "enum"))
    constraints = [f"{key}: {schema[key]}" for key in _CONSTRAINTS.get(str(kind), ()) if plain and key in schema]
    if constraints:
        lines.append(f"{indent}// {', '.join(constraints)}")
    return "".join(line + "\n" for line in lines)


def _comment(text: str, indent: str) -> str:
    return "\n".join(f"{indent}// {line}" if line else "" for line in text.split("\n"))
