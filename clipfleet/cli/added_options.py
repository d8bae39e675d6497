"""Options that several commands have, in place of one parameter of each command."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any


def with_options(
    command: Callable[..., None],
    parameter: str,
    options: Mapping[str, Any],
    collect: Callable[[dict[str, Any]], Any],
) -> Callable[..., None]:
    """Give a command `options`, by their names; `parameter` gets what `collect` makes of them.

    The values of enumerations become plain ones. An option of type bool is false by default, any
    other one None.
    """

    @functools.wraps(command)
    def command_with_options(**arguments: Any) -> None:
        values = {name: _plain(arguments.pop(name)) for name in options}
        command(**arguments, **{parameter: collect(values)})

    signature = inspect.signature(command, eval_str=True)
    own = [one for one in signature.parameters.values() if one.name != parameter]
    added = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=False if annotation.__origin__ is bool else None,
            annotation=annotation,
        )
        for name, annotation in options.items()
    ]
    command_with_options.__signature__ = signature.replace(parameters=[*own, *added])  # type: ignore[attr-defined]
    command_with_options.__annotations__ = {one.name: one.annotation for one in (*own, *added)}
    return command_with_options


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else value
