"""The user's own network: `--model module:function` or `--model FILE.py:function`.

The function takes `num_classes`, and, where it names them or takes `**`, `channels` and the options behind a question
mark (`mine:wide?depth=4`). It returns a `torch.nn.Module` from images (B, c, H, W) to logits (B, C).
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from trainables import code_identity
from trainables.models.errors import ModelError
from trainables.models.heads import LinearHead
from trainables.models.network import Network


def function_of(place: str) -> Callable[..., Any]:
    """The function that `module:function` names.

    Raises:
        ModelError: The module cannot be imported, or has no such function.
    """
    where, _, name = place.rpartition(":")
    module = _module(where, place)
    found: Callable[..., Any] | None = getattr(module, name, None)
    if not callable(found):
        known = [key for key, value in vars(module).items() if inspect.isfunction(value) or inspect.isclass(value)]
        own = [key for key in known if getattr(vars(module)[key], "__module__", None) == module.__name__]
        raise ModelError(f"{place}: {where} has no function {name!r}; it has {', '.join(own) or 'none'}")
    return found


def source(place: str) -> str:
    """Hash of the named module, of the function's own where that is another, and of what they import of the user's."""
    return code_identity.hash_of(files(place).values())


def files(place: str) -> dict[str, Path]:
    """The modules that the network stands on: the named one, the function's own, and what they import of the user's.

    Returns:
        Name of the module, or of the file where the place names a file, to its file.
    """
    where = place.rpartition(":")[0]
    named = _module(where, place)
    found: Any = inspect.unwrap(function_of(place))
    while isinstance(found, functools.partial):
        found = found.func
    begins = {Path(where).stem if where.endswith(".py") else where: getattr(named, "__file__", None)}
    with contextlib.suppress(TypeError):  # an object that can be called has no file of its own
        file = inspect.getsourcefile(found)
        if file not in begins.values():
            begins[found.__module__] = file
    return code_identity.closure({name: Path(file) for name, file in begins.items() if file is not None})


def network(
    place: str, options: Mapping[str, str], *, classes: int, channels: int, generator: torch.Generator
) -> Network:
    """The user's network as a `Network`.

    One that is a `Network` already stays as it is. Of any other, the linear layer with C outputs becomes the head (the
    last one, where there are several), with the values that it has; what it reads are the features. Blends then act at
    "input", "pool" and "logits"; for named layers, return a `Network`. A module without such a layer that returns maps
    (B, D, h, w) is pooled by `Network`.

    What the function draws from the global stream comes from the generator; the stream is left as it was.

    Args:
        place: `module:function`.
        options: Further arguments, read as Python values where they are some.
        classes: C, at least 2.
        channels: c of the images (B, c, H, W).
        generator: On the CPU.

    Raises:
        ModelError: The function cannot be found or called, or what it returns cannot be split.
    """
    made = _called(place, options, classes, channels, generator)
    if isinstance(made, Network):
        if made.classes != classes:
            raise ModelError(f"{place}: returned a network of {made.classes} classes, the data have {classes}")
        return made
    if not isinstance(made, nn.Module):
        raise ModelError(f"{place}: must return a torch.nn.Module, got {type(made).__name__}")
    linear = [(name, layer) for name, layer in made.named_modules() if isinstance(layer, nn.Linear)]
    last = next((found for found in reversed(linear) if found[1].out_features == classes), None)
    if last is None:
        shown = ", ".join(f"{name}: {layer.out_features}" for name, layer in linear) or "none"
        raise ModelError(
            f"{place}: no linear layer has {classes} outputs, one per class (linear layers: {shown}), so features and "
            "classifier cannot be told apart; end in torch.nn.Linear(…, num_classes), or return a "
            "trainables.models.Network"
        )
    name, layer = last
    head = LinearHead(layer.in_features, classes, generator)
    with torch.no_grad():
        head.weight.copy_(layer.weight)
        if layer.bias is not None:
            head.bias.copy_(layer.bias)
    if not name:
        body: nn.Module = nn.Flatten()
    else:
        made.set_submodule(name, nn.Identity())
        body = made
    parts = {"body": _Body(body, layer.in_features, f"{place}: before {name or 'the linear layer'}")}
    return Network(parts, head, features=layer.in_features, classes=classes, layers=())


class _Body(nn.Module):
    """The user's network without its classifier; says what is wrong where it gives no features."""

    def __init__(self, made: nn.Module, features: int, where: str) -> None:
        super().__init__()
        self.made, self.features, self.where = made, features, where

    def forward(self, images: Tensor) -> Tensor:
        """(B, c, H, W) -> (B, D), or maps (B, D, h, w)."""
        found = self.made(images)
        if not isinstance(found, Tensor) or found.ndim not in (2, 4) or found.shape[1] != self.features:
            got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ModelError(f"{self.where} there must be features (B, {self.features}), got {got}")
        return found


def _called(place: str, options: Mapping[str, str], classes: int, channels: int, generator: torch.Generator) -> Any:
    function = function_of(place)
    parameters = inspect.signature(function).parameters
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    arguments: dict[str, Any] = {"num_classes": classes, "channels": channels}
    if not takes_all:
        if "num_classes" not in parameters:
            raise ModelError(f"{place}: must take num_classes, takes {', '.join(parameters) or 'nothing'}")
        arguments = {name: value for name, value in arguments.items() if name in parameters}
        for name in options:
            if name not in parameters:
                raise ModelError(f"{place}: takes no {name!r}; it takes {', '.join(parameters)}")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        try:
            return function(**arguments, **{name: _value(text) for name, text in options.items()})
        except Exception as error:  # the user's code may raise anything
            raise ModelError(f"{place}: {_in_one_line(error)}") from error


def _in_one_line(error: Exception) -> str:
    return ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _module(where: str, place: str) -> ModuleType:
    if os.getcwd() not in sys.path:  # a console script's first entry is the folder of the script
        sys.path.append(os.getcwd())
    try:
        if not where.endswith(".py"):
            return importlib.import_module(where)
        file = Path(where).expanduser().resolve()
        if not file.is_file():
            raise ModelError(f"{place}: {file} is not a file")
        name = f"own_model_{hashlib.sha256(str(file).encode()).hexdigest()[:12]}"
        if name not in sys.modules:
            spec = importlib.util.spec_from_file_location(name, file)
            assert spec is not None and spec.loader is not None
            sys.modules[name] = importlib.util.module_from_spec(spec)
            try:
                spec.loader.exec_module(sys.modules[name])
            except BaseException:
                del sys.modules[name]
                raise
        return sys.modules[name]
    except ModelError:
        raise
    except ModuleNotFoundError as error:
        raise ModelError(
            f"{place}: there is no module {error.name!r} here; write module:function or FILE.py:function"
        ) from error
    except Exception as error:  # the user's code may raise anything
        raise ModelError(f"{place}: {where} cannot be imported: {_in_one_line(error)}") from error
