"""Chat templates: messages to the text that the model reads.

A template is a file of the bundle, and so a program of somebody else's. It runs in Jinja's immutable
sandbox, with the settings and helpers that Hugging Face's templates are written for
(https://huggingface.co/docs/transformers/chat_templating_writing). What would make two renderings differ,
the time and random numbers, is not there at all: `strftime_now` is undefined, and a template that asks
whether it is defined takes its other branch.

Work is bounded in the template's own terms: steps are counted (see `MAX_STEPS`), and so are the sizes of
the source, of values on the way, and of the output. The bounds are far above what real templates need. What
they do not bound is the memory that one filter takes before its result is looked at; for that a process
has its memory limit.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from functools import cache, wraps
from typing import Any

from edgeops.engines.refusals import one_line
from edgeops.errors import ArtifactError, BadRequestError, ConfigError

MAX_TEMPLATE_CHARACTERS = 256 << 10
MAX_OUTPUT_CHARACTERS = 4 << 20
# Calls, iterations of loops, and items that a range or a filter goes through, in one rendering.
MAX_STEPS = 50_000
# Characters of a string, or items of a list, that a template makes on its way.
MAX_VALUE_ITEMS = 4 << 20
_MAX_INTEGER_BITS = 1 << 16
_MAX_POWER = 1 << 12
_MAX_INDENT = 16
# Filters look at characters in C, about so many in the time of one step.
_CHARACTERS_A_STEP = 4096

# Jinja's filters, but for those that write markup or fillings, that depend on chance, and that loop as often
# as a number tells them.
_FILTERS = (
    "abs capitalize count d default dictsort e escape first float groupby int items join last length list "
    "lower map max min reject rejectattr replace reverse safe select selectattr sort string sum title trim "
    "unique upper wordcount"
)

_steps: ContextVar[list[int] | None] = ContextVar("_steps", default=None)


class ChatTemplate:
    """A compiled chat template with its special tokens and its system prompt. The same messages give the
    same text, everywhere and always. Threads may share one."""

    def __init__(
        self,
        source: str,
        *,
        bos_token: str = "",
        eos_token: str = "",
        system_prompt: str | None = None,
        subject: str = "chat_template",
    ) -> None:
        """Compiles `source`. `subject` names it in errors (its path in the bundle).

        Raises `ArtifactError` when it is too long, no Jinja, or uses a tag or filter that is not there;
        `ConfigError` when Jinja is not installed.
        """
        self._subject = subject
        self._system_prompt = system_prompt
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        if len(source) > MAX_TEMPLATE_CHARACTERS:
            raise self._refused(f"is longer than {MAX_TEMPLATE_CHARACTERS} characters")
        environment = _environment()
        try:
            self._template = environment.from_string(_instrumented(environment.parse(source)))
        except MemoryError as error:
            raise self._refused("needs more memory than there is") from error
        except Exception as error:  # Jinja's own errors, and what Python's compiler makes of odd code
            raise self._refused(f"is not a template that can be used here ({one_line(error)})") from error

    def render(self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True) -> str:
        """The prompt for `messages`, each with a `role` and a `content`, both text. With
        `add_generation_prompt` it ends where the assistant's answer begins. The system prompt, if there is
        one, comes first, unless the first message is a system message itself, which then takes its place.

        Raises `BadRequestError` when the messages are not of that kind, or when the template refuses them
        by `raise_exception`; `ArtifactError` when the template fails or exceeds a bound.
        """
        chat = _checked(messages)
        if self._system_prompt is not None and chat[0]["role"] != "system":
            chat = [{"role": "system", "content": self._system_prompt}, *chat]
        variables = {
            **self._tokens,
            "messages": chat,
            "tools": None,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
        }
        token = _steps.set([0])
        try:
            return self._written(variables)
        except _RefusalError as error:
            raise BadRequestError(
                f"The chat template refuses these messages ({one_line(error)}).", subject="messages"
            ) from error
        except _BoundError as error:
            raise self._refused(str(error)) from error
        except MemoryError as error:
            raise self._refused("needs more memory than there is") from error
        except Exception as error:  # a template's code can raise whatever Python's can
            raise self._refused(f"fails on these messages ({one_line(error)})") from error
        finally:
            _steps.reset(token)

    def _written(self, variables: dict[str, Any]) -> str:
        parts: list[str] = []
        size = 0
        for part in self._template.generate(**variables):
            size += len(part)
            if size > MAX_OUTPUT_CHARACTERS:
                raise _BoundError(f"writes more than {MAX_OUTPUT_CHARACTERS} characters")
            parts.append(part)
        return "".join(parts)

    def _refused(self, why: str) -> ArtifactError:
        return ArtifactError(
            f"The chat template {self._subject} {why}.",
            remedy="Correct the template and build the bundle again.",
            subject=self._subject,
        )


class _RefusalError(Exception):
    """The template called `raise_exception`."""


class _BoundError(Exception):
    """The template exceeds a bound."""


def _checked(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    if not messages:
        raise BadRequestError("There are no messages.", subject="messages")
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise BadRequestError(f"Message {number} is not an object.", subject="messages")
        for key in ("role", "content"):
            if not isinstance(message.get(key), str):
                raise BadRequestError(f"Message {number} has no {key!r} that is text.", subject="messages")
    return [dict(message) for message in messages]


def _spend(steps: int) -> None:
    """Counts steps of the rendering at work; constants that Jinja folds at compile time are free."""
    spent = _steps.get()
    if spent is not None:
        spent[0] += steps
        if spent[0] > MAX_STEPS:
            raise _BoundError(f"takes more than {MAX_STEPS} steps")


def _bounded(value: Any) -> Any:
    if isinstance(value, str | list | tuple | dict) and len(value) > MAX_VALUE_ITEMS:
        raise _BoundError(f"makes a value of more than {MAX_VALUE_ITEMS} characters or items")
    if isinstance(value, int) and value.bit_length() > _MAX_INTEGER_BITS:
        raise _BoundError(f"makes a number of more than {_MAX_INTEGER_BITS} bits")
    return value


def _range(*arguments: int) -> range:
    made = range(*arguments)
    _spend(len(made))
    return made


def _raise_exception(message: str) -> None:
    raise _RefusalError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own escapes HTML, which prompts are not.
    if indent is not None and not 0 <= indent <= _MAX_INDENT:
        raise _BoundError(f"indents JSON by more than {_MAX_INDENT}")
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _counted(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that pays for what it goes through and is held to the bound on values."""

    @wraps(function)  # which also carries Jinja's mark of what the filter wants to be passed
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        for value in (*args, *kwargs.values()):
            if isinstance(value, str):
                _spend(len(value) // _CHARACTERS_A_STEP)
            elif isinstance(value, list | tuple | dict | range):
                _spend(len(value))
        return _bounded(function(*args, **kwargs))

    return wrapper


def _instrumented(tree: Any) -> Any:
    """The parsed template with each loop calling `tick` for every item that it takes or, by its `if`, leaves
    out, and with `~` and block assignments, which Jinja's sandbox has no hook for, held to the bounds too."""
    from jinja2 import nodes
    from jinja2.visitor import NodeTransformer

    def call(name: str, arguments: list[Any], line: int) -> nodes.Call:
        function = nodes.EnvironmentAttribute(name, lineno=line)
        return nodes.Call(function, arguments, [], None, None, lineno=line)

    class Instrument(NodeTransformer):
        def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802 - Jinja finds visitors by name
            self.generic_visit(node)
            node.body.insert(0, nodes.ExprStmt(call("tick", [], node.lineno), lineno=node.lineno))
            if node.test is not None:
                node.test = nodes.And(call("tick", [], node.lineno), node.test, lineno=node.lineno)
            return node

        def visit_Concat(self, node: nodes.Concat) -> nodes.Call:  # noqa: N802
            self.generic_visit(node)
            return call("joined", list(node.nodes), node.lineno)

        def visit_AssignBlock(self, node: nodes.AssignBlock) -> nodes.AssignBlock:  # noqa: N802
            self.generic_visit(node)
            if node.filter is None:
                node.filter = nodes.Filter(None, "string", [], [], None, None, lineno=node.lineno)
            return node

    return Instrument().visit(tree)


@cache
def _environment() -> Any:
    """Jinja with its sandbox, set as transformers sets it, and with the bounds above."""
    try:
        from jinja2 import nodes
        from jinja2.ext import Extension, loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError as error:
        raise ConfigError(
            f"Jinja cannot be imported ({error}), and chat templates need it.",
            remedy="Install the Jinja2 package.",
            subject="jinja2",
        ) from error

    class Generation(Extension):
        """`{% generation %}` marks the assistant's text for training; here it only writes it."""

        tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    class Bounded(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset({"+", "*", "**", "%"})

        @staticmethod
        def tick() -> bool:
            return True  # the call itself is what counts

        @staticmethod
        def joined(*values: Any) -> str:
            return "".join(map(str, values))

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            if operator == "**" and max(abs(left), abs(right)) > _MAX_POWER:
                raise _BoundError(f"takes a power beyond {_MAX_POWER}")
            if operator == "*":
                for repeated, times in ((left, right), (right, left)):
                    if isinstance(repeated, str | list | tuple) and isinstance(times, int):
                        _spend(len(repeated) * max(times, 0) // _CHARACTERS_A_STEP)
            return _bounded(super().call_binop(context, operator, left, right))

        def call(self, context: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
            _spend(1)
            return _bounded(super().call(context, function, *args, **kwargs))

    environment = Bounded(
        trim_blocks=True, lstrip_blocks=True, optimized=False, extensions=[Generation, loopcontrols]
    )
    environment.filters = {name: _counted(environment.filters[name]) for name in _FILTERS.split()}
    environment.filters["tojson"] = _counted(_to_json)
    environment.globals = {
        "range": _range,
        "dict": dict,
        "namespace": environment.globals["namespace"],
        "raise_exception": _raise_exception,
    }
    return environment
