"""Running a chat template, which is a program that came with somebody's model file.

Jinja's sandbox keeps it away from Python's internals. What is added here bounds the memory that it can ask for (time
it can still waste), and lets it look for control texts inside messages where these have been broken up.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.ext import LoopControlExtension
from jinja2.runtime import Context
from jinja2.sandbox import SandboxedEnvironment, SecurityError, modifies_known_mutable

from k2lite.vocabulary.control_text import ControlText
from quant.errors import RequestError, UnsupportedError

BUDGET_CHARACTERS = 2**28  # a context of a million tokens takes about 2**22, and templates pass over it a few times
_ITEM_CHARACTERS = 64  # what an entry of a list or dict counts for
_MAX_INTEGER_BITS = 1024
_MAX_JSON_FILL = 16
_MAX_ARGUMENT = 100_000  # as jinja2.sandbox.MAX_RANGE

# Everything of Jinja's whose result cannot be much larger than what went in.
_FILTERS = (
    *("abs", "attr", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first", "float", "groupby"),
    *("int", "items", "join", "last", "length", "list", "lower", "map", "max", "min", "reject", "rejectattr"),
    *("replace", "reverse", "safe", "select", "selectattr", "sort", "string", "sum", "title", "tojson"),
    *("trim", "unique", "upper", "urlencode", "wordcount"),
)
_UNBOUNDED_METHODS = frozenset({"expandtabs", "format", "format_map", "translate"})
_SEARCHES = frozenset(
    {"count", "endswith", "find", "index", "lstrip", "partition", "removeprefix", "removesuffix", "replace", "rfind"}
    | {"rpartition", "rsplit", "rstrip", "split", "startswith", "strip"}
)


def render_template(source: str, variables: Mapping[str, Any], control_text: ControlText, breaker: str) -> str:
    """The text that `source` makes of `variables`, in which `breaker` interrupts control texts.

    Raises UnsupportedError when the template asks for what it may not have, RequestError when it fails on, or
    refuses, these variables.
    """
    try:
        sandbox = _Sandbox(control_text, breaker)
        return "".join(map(sandbox.spend, sandbox.template(source).generate(variables)))
    except _RefusedError as error:
        raise RequestError(f"the model's chat template refuses this conversation: {error}") from error
    except (SecurityError, OverflowError, MemoryError) as error:
        raise UnsupportedError(f"the model's chat template is not allowed to run: {error}") from error
    except RecursionError as error:
        raise UnsupportedError("the chat template, or a message in it, is nested too deeply") from error
    except SyntaxError as error:
        raise UnsupportedError(f"the model's chat template is not valid: {error}") from error
    except Exception as error:  # the template is foreign code: it may raise anything
        raise _failure(error) from error


def _failure(error: Exception) -> RequestError | UnsupportedError:
    line = getattr(error, "lineno", None)
    if line is not None:  # only errors of the template's own grammar have one
        return UnsupportedError(f"the model's chat template is not valid in line {line}: {error}")
    return RequestError(f"the model's chat template fails on this conversation: {error!r}")


class _RefusedError(TemplateError):
    """The template called raise_exception."""


def _raise_exception(message: object) -> NoReturn:
    raise _RefusedError(str(message))


class _CountingGenerator(CodeGenerator):
    """Compiles `a ~ b` into a call of the environment: the one operator that a sandbox cannot intercept."""

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("environment.concatenated((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")


class _Sandbox(SandboxedEnvironment):
    """The environment of one rendering: it has a budget, and ends with it."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})
    code_generator_class = _CountingGenerator

    def __init__(self, control_text: ControlText, breaker: str) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[LoopControlExtension], finalize=self.spend, cache_size=0
        )
        self._control_text, self._breaker = control_text, breaker
        self._left = BUDGET_CHARACTERS
        own: dict[str, Callable[..., Any]] = {"tojson": self._to_json, "replace": self._replace, "join": self._join}
        self.filters = {name: self._counted(own.get(name, self.filters[name])) for name in _FILTERS}
        self.globals["raise_exception"] = _raise_exception
        del self.globals["lipsum"]

    def template(self, source: str) -> Any:
        """Compile `source`, with every constant that it looks for in other text broken up as that text is."""
        tree = self.parse(source)
        for constant in _searched_constants(tree):
            constant.value = self._control_text.break_whole(constant.value, self._breaker)
        return self.from_string(tree)

    def spend(self, value: Any) -> Any:
        """Count the size of `value` against the budget and return it."""
        self._left -= _size(value, self._left)
        if self._left < 0:
            raise SecurityError(f"it makes more than {BUDGET_CHARACTERS} characters of text")
        return value

    def _reserve(self, characters: int) -> None:
        if characters > self._left:
            raise SecurityError(f"it makes more than {BUDGET_CHARACTERS} characters of text")

    def concatenated(self, parts: Iterable[Any]) -> str:
        """The `~` operator."""
        return "".join([str(self.spend(part)) for part in parts])

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """An intercepted operator, refused before it makes something huge."""
        if operator == "%" and isinstance(left, str):
            raise SecurityError("text formatting with % is not available")
        if operator in ("*", "**"):
            self._check_product(operator, left, right)
        return self.spend(super().call_binop(context, operator, left, right))

    def _check_product(self, operator: str, left: Any, right: Any) -> None:
        if isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
            if bits > _MAX_INTEGER_BITS:
                raise SecurityError(f"a number of {bits} bits is too large")
            return
        for text, count in ((left, right), (right, left)):
            if isinstance(text, str | list | tuple) and isinstance(count, int):
                self._reserve(_size(text, self._left + 1) * count)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """A call, refused before it makes something huge. The names leave every keyword to the callee."""
        if any(isinstance(value, int) and abs(value) > _MAX_ARGUMENT for value in (*args, *kwargs.values())):
            raise SecurityError(f"a call with a number above {_MAX_ARGUMENT} is not allowed")
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        if isinstance(owner, str) and name in ("join", "replace"):
            guarded = __self._join if name == "join" else __self._replace
            return __self.spend(guarded(*(args[0], owner) if name == "join" else (owner, *args), **kwargs))
        return __self.spend(super().call(__context, __obj, *args, **kwargs))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Lists may be appended to and popped from (templates number calls so); nothing else is changed in place."""
        if isinstance(obj, str) and attr in _UNBOUNDED_METHODS:
            return False
        changes = modifies_known_mutable(obj, attr) and not (isinstance(obj, list) and attr in ("append", "pop"))
        return super().is_safe_attribute(obj, attr, value) and not changes

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """`str.format` is refused like the other unbounded methods, not wrapped."""
        return None

    def _counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)  # keeps the mark by which Jinja knows what a filter wants as its first argument
        def counted(*args: Any, **kwargs: Any) -> Any:
            return self.spend(function(*map(self.spend, args[:2]), *args[2:], **kwargs))

        return counted

    def _replace(self, text: Any, old: str, new: str, count: int = -1) -> str:
        text = str(text)
        self._reserve(len(text) + text.count(old) * len(new))
        return text.replace(old, new, count)

    def _join(self, values: Iterable[Any], separator: str = "", attribute: str | None = None) -> str:
        items = [self.getitem(value, attribute) if attribute else value for value in values]
        texts = [str(self.spend(item)) for item in items]
        self._reserve(len(separator) * len(texts))
        return separator.join(texts)

    def _to_json(
        self,
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        """JSON as chat templates expect it: not escaped for HTML, and letters as they are unless asked otherwise."""
        if (indent or 0) > _MAX_JSON_FILL or sum(map(len, separators or ())) > _MAX_JSON_FILL:
            raise SecurityError(f"JSON with more than {_MAX_JSON_FILL} characters between its values is not allowed")
        text = json.dumps(value, ensure_ascii=False, indent=indent, separators=separators, sort_keys=sort_keys)
        return re.sub(r"[^\x00-\x7e]", self._escaped, text) if ensure_ascii else text

    def _escaped(self, match: re.Match[str]) -> str:
        return match[0] if match[0] == self._breaker else json.dumps(match[0])[1:-1]


def _size(value: Any, limit: int) -> int:
    """Characters in nested text, lists and dicts, whose entries count too; counting ends above `limit`."""
    if isinstance(value, str):
        return len(value)
    size, stack = 0, [value]
    while stack and size <= limit:
        item = stack.pop()
        if isinstance(item, str):
            size += len(item)
        elif isinstance(item, dict):
            size += _ITEM_CHARACTERS * len(item)
            stack += [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple):
            size += _ITEM_CHARACTERS * len(item)
            stack += item
    return size


def _searched_constants(tree: nodes.Template) -> Iterable[nodes.Const]:
    """Constants that are compared with text or looked for in it, as in `'</think>' in content`."""
    found: list[nodes.Expr] = []
    for compare in tree.find_all(nodes.Compare):
        found += [compare.expr, *(operand.expr for operand in compare.ops)]
    for call in tree.find_all(nodes.Call):
        if isinstance(call.node, nodes.Getattr) and call.node.attr in _SEARCHES:
            found += call.args[:1]
    for filtered in tree.find_all(nodes.Filter):
        if filtered.name == "replace":
            found += filtered.args[:1]
    return [item for item in found if isinstance(item, nodes.Const) and isinstance(item.value, str)]
