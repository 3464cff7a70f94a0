"""Check what stands in a Python file, by what it is; the command line calls this."""

import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
from numpyro.distributions.transforms import Transform

from uqsparse.inference.checks.bijectors import check_bijector
from uqsparse.inference.checks.drift import drift_test
from uqsparse.inference.checks.exact import check_invariance
from uqsparse.inference.checks.involutions import check_involution
from uqsparse.inference.checks.key_kernels import key_kernel
from uqsparse.inference.checks.resamplers import check_resampler
from uqsparse.inference.checks.sbc import sbc
from uqsparse.inference.checks.verdict import Verdict
from uqsparse.inference.involutive import InvolutiveKernel
from uqsparse.inference.model_files import bind_data, load_named


class Options(NamedTuple):
    """Choices of a check; None leaves the check's own default.

    Args:
        against: name in the file of what to check against: masses, a simulator, or a sampler of points.
        seed: of the random keys.
        alpha: level of statistical checks.
        budget: most simulations of statistical checks.
        data: entries for a NumPyro model, by name.
        plot: a file for the picture of ranks that calibration by simulation gives.
    """

    against: str | None = None
    seed: int = 0
    alpha: float | None = None
    budget: int | None = None
    data: dict[str, Any] | None = None
    plot: Path | None = None


def check_from_file(spec: str, options: Options = Options()) -> list[Verdict]:  # noqa: B008 - frozen record
    """Check a kernel, resampler, involution, transform or NumPyro model by name.

    What is done depends on what the name stands for:

    - a function without arguments is called; it returns a verdict, or several;
    - `kernel(chance, state)` or `kernel(key, state)` is checked exactly against the masses `target`, a dictionary;
    - `kernel(key, theta, y)` is tested for drift on pairs drawn by `simulate(key)`;
    - `resampler(weights, uniforms, n)` is checked exactly;
    - `f(x, v)`, or a kernel made by `involutive` or `reversible_jump`, is checked as an involution at points drawn by
      `points(key)`;
    - a NumPyro transform is checked as a bijection;
    - any other function is taken for a NumPyro model and its posterior by NUTS calibrated by simulation.

    Args:
        spec: `FILE.py:NAME`.
        options: see there; `against` names something else than `target`, `simulate` or `points`.

    Returns:
        The verdicts.

    Raises:
        ValueError: the file or the name is not there, or what to check against is missing.
        TypeError: the name stands for something else.
    """
    subject: Any
    subject, module = load_named(spec, "check")
    name = spec.rpartition(":")[2]
    key = jax.random.key(options.seed)

    def against(default: str) -> Any:
        wanted = options.against or default
        if not hasattr(module, wanted):
            raise ValueError(f"{name} is checked against {wanted!r}, which {module.__file__} does not define")
        return getattr(module, wanted)

    if isinstance(subject, Transform):
        return [check_bijector(subject, key=key, subject=name)]
    if isinstance(subject, InvolutiveKernel):
        return [check_involution(subject, against("points"), key=key, subject=name)]
    if not callable(subject):
        raise TypeError(f"{name} is a {type(subject).__name__}; expected a function or a NumPyro transform")
    if not inspect.signature(subject).parameters:
        return _verdicts(name, subject())
    parameters = _parameters(subject)
    if parameters[:3] == ["weights", "uniforms", "n"]:
        return [check_resampler(subject, subject=name)]
    if parameters in (["chance", "state"], ["key", "state"]):
        kernel = subject if parameters[0] == "chance" else key_kernel(subject, seed=options.seed)
        return [check_invariance(_masses(against("target")), kernel, subject=f"{name} leaves its target invariant")]
    if parameters == ["key", "theta", "y"]:
        limits = {"alpha": options.alpha, "budget": options.budget}
        given = {option: value for option, value in limits.items() if value is not None}
        return [
            drift_test(key, against("simulate"), subject, subject=f"{name} leaves the posterior invariant", **given)
        ]
    if parameters == ["x", "v"]:
        f: Any = subject
        return [check_involution(f, against("points"), key=key, subject=name)]
    return [_calibrate(key, subject, options)]


def _calibrate(key: Any, model: Callable, options: Options) -> Verdict:
    model, kwargs = bind_data(model, options.data or {})
    limits = {"alpha": options.alpha, "n_simulations": options.budget}
    given: dict[str, Any] = {option: value for option, value in limits.items() if value is not None}
    verdict = sbc(key, model, **given, **kwargs)
    if options.plot is not None:
        verdict.plot().savefig(options.plot, bbox_inches="tight")
    return verdict


def _parameters(function: Callable) -> list[str]:
    """Names of the arguments it has to be given."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    found = inspect.signature(function).parameters.values()
    return [one.name for one in found if one.kind in kinds and one.default is inspect.Parameter.empty]


def _masses(target: Any) -> dict:
    if not isinstance(target, dict):
        raise TypeError(
            f"the target of an exact check is a dictionary from states to masses, got {type(target).__name__}"
        )
    return target


def _verdicts(name: str, answer: Any) -> list[Verdict]:
    listed = [answer] if isinstance(answer, Verdict) else list(answer) if isinstance(answer, Iterable) else []
    if not listed or not all(isinstance(one, Verdict) for one in listed):
        raise TypeError(f"{name}() returned {answer!r}; expected a verdict or several")
    return listed
