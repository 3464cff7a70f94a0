"""Models from Python files, and data by name bound to them."""

import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import PyTree
from numpyro import handlers

from uqsparse.inference.model_sites import inspect_model, model_name
from uqsparse.inference.state_space import StateSpaceModel


def load_model(spec: str) -> Callable | StateSpaceModel:
    """Import a NumPyro model function or a state-space model from a Python file.

    Args:
        spec: `path/to/file.py:function`. Imports in the file find its neighbours, as when it is run.

    Raises:
        ValueError: if the text has another form, the file fails to import, or it has no such function.
        FileNotFoundError: if there is no such file.
    """
    model, module = load_named(spec, "model")
    if not callable(model) and not isinstance(model, StateSpaceModel):
        _, _, name = spec.rpartition(":")
        raise ValueError(
            f"{name!r} in model file {module.__file__!r} is a {type(model).__name__}, not a model function or "
            "StateSpaceModel"
        )
    return model


def load_named(spec: str, what: str) -> tuple[Any, ModuleType]:
    """Import a Python file and take one of its names.

    Args:
        spec: `path/to/file.py:name`. Imports in the file find its neighbours, as when it is run.
        what: what it is called in errors.

    Returns:
        What the name stands for, and the module.

    Raises:
        ValueError: if the text has another form, the file fails to import, or it has no such name.
        FileNotFoundError: if there is no such file.
    """
    file, separator, name = spec.rpartition(":")
    if not separator or not name or not file.endswith(".py"):
        raise ValueError(f"{what} must be given as FILE.py:FUNCTION, got {spec!r}")
    path = Path(file).resolve()
    if not path.is_file():
        raise FileNotFoundError(f"{what} file {file!r} does not exist")
    module_spec = importlib.util.spec_from_file_location(path.stem, path)
    assert module_spec is not None
    assert module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    sys.path.insert(0, str(path.parent))
    try:
        module_spec.loader.exec_module(module)
    except Exception as error:
        line = error.lineno if isinstance(error, SyntaxError) else _last_line(error, path)
        at = f" (line {line})" if line else ""
        raise ValueError(f"{what} file {file!r} cannot be imported{at}: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(path.parent))
    found = getattr(module, name, None)
    if found is None:
        functions = [n for n, v in vars(module).items() if inspect.isfunction(v) and v.__module__ == module.__name__]
        raise ValueError(f"{what} file {file!r} has no {name!r}; it defines {', '.join(functions) or 'no functions'}")
    return found, module


def bind_data(model: Callable, data: Mapping[str, Any], source: str = "data") -> tuple[Callable, dict[str, Any]]:
    """Give each named entry to the model: as the parameter of that name, or else as the value of that sample
    site.

    Args:
        model: a NumPyro model function.
        data: entry name to value.
        source: what messages call the data, such as a file name.

    Returns:
        The model, conditioned on the entries that name sites, and its keyword arguments.

    Raises:
        ValueError: if an entry names neither a parameter nor a latent site, does not fit the site's shape, or
            a parameter without default has no entry. The message lists what there is.
    """
    parameters = inspect.signature(model).parameters
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    accepted = [name for name, p in parameters.items() if p.kind in named]
    kwargs = {name: value for name, value in data.items() if name in accepted}
    missing = [n for n in accepted if parameters[n].default is inspect.Parameter.empty and n not in kwargs]
    if missing:
        raise ValueError(
            f"{source} lacks {', '.join(map(repr, missing))}, which model {model_name(model)!r} requires; "
            f"it has {', '.join(map(repr, data)) or 'no entries'}"
        )
    conditions = {name: value for name, value in data.items() if name not in kwargs}
    if not conditions:
        return model, kwargs
    sites = inspect_model(model, (), kwargs)
    for name, value in conditions.items():
        latent = (*sites.latent, *sites.discrete)
        if name not in latent:
            listed = f"parameters: {', '.join(accepted) or 'none'}; latent sites: {', '.join(latent) or 'none'}"
            raise ValueError(
                f"entry {name!r} of {source} is neither a parameter nor a latent site of model "
                f"{model_name(model)!r} ({listed})"
            )
        _require_shape(name, np.shape(value), sites.shapes[name], source)
    conditioned = handlers.condition(model, {name: np.asarray(value) for name, value in conditions.items()})
    return conditioned, kwargs


def bind_series(data: Mapping[str, Any], source: str = "data") -> tuple[PyTree, PyTree]:
    """Find observations and inputs of a state-space model among named entries.

    Args:
        data: entry name to value. `observations` and `inputs` are arrays with leading axis T; entries such as
            `observations_price` and `observations_volume` become a dictionary with the keys `price` and `volume`.
        source: what messages call the data, such as a file name.

    Returns:
        Observations, and inputs or None.

    Raises:
        ValueError: there are no observations, or an entry is neither.
    """
    found: dict[str, Any] = {}
    for name, value in data.items():
        stem, _, rest = name.partition("_")
        if stem not in ("observations", "inputs"):
            raise ValueError(
                f"entry {name!r} of {source} is neither observations nor inputs of a state-space model; call it "
                "'observations' or 'inputs', or 'observations_<key>' for one part of them"
            )
        clash = rest and stem in found and not isinstance(found[stem], dict)
        if clash or (not rest and stem in found):
            raise ValueError(f"{source} has both {stem!r} and parts of it")
        if rest:
            found.setdefault(stem, {})[rest] = value
        else:
            found[stem] = value
    if "observations" not in found:
        raise ValueError(f"{source} lacks 'observations'; it has {', '.join(map(repr, data)) or 'no entries'}")
    return found["observations"], found.get("inputs")


def _require_shape(name: str, shape: tuple[int, ...], expected: tuple[int, ...], source: str) -> None:
    try:
        fits = np.broadcast_shapes(shape, expected) == shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"entry {name!r} of {source} has shape {shape}, the site has shape {expected}")


def _last_line(error: BaseException, path: Path) -> int | None:
    """Find the line of the user's file at which the error left it."""
    line, step = None, error.__traceback__
    while step is not None:
        if Path(step.tb_frame.f_code.co_filename) == path:
            line = step.tb_lineno
        step = step.tb_next
    return line
