"""Measuring one entry: the function that is sent to the worker processes."""

import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from uqsparse.bench import loading, registry
from uqsparse.bench.contest import hold_contest
from uqsparse.bench.forecasts import one_step_forecasts
from uqsparse.bench.machine import describe_machine
from uqsparse.bench.records import FEW_SHOT, Contest, Context, Episodes, GaussianMixture, Measured, NotMeasured, Split
from uqsparse.bench.results import EntryResult, Status
from uqsparse.bench.scores import LEVEL, as_labels, classification_scores, regression_scores


def derive_seed(seed: int, label: str) -> int:
    """A seed in [0, 2**31) that depends on the run's seed and on a label, and on nothing else.

    >>> derive_seed(0, "a") == derive_seed(0, "a") != derive_seed(0, "b")
    True
    """
    state = np.random.SeedSequence([seed, *label.encode()]).generate_state(1)[0]
    return int(state) & 0x7FFFFFFF


def _expect(value: Any, wanted: type, entry: registry.Entry) -> Any:
    if not isinstance(value, wanted):
        raise TypeError(f"{entry.name!r} returned {type(value).__name__}; expected bench.{wanted.__name__}")
    return value


def _measure_claim(entry: registry.Entry, seed: int, quick: bool, details: dict[str, Any]) -> Status:
    (claim,) = entry.parts
    measured: Measured = _expect(claim.function(Context(derive_seed(seed, entry.id), quick)), Measured, entry)
    details |= {
        "value": measured.value,
        "relation": measured.relation,
        "bound": measured.bound,
        "comparator": measured.comparator,
        "detail": measured.detail,
    }
    if measured.pictures:
        details["pictures"] = [asdict(one) for one in measured.pictures]
    return "holds" if measured.holds else "missed"


def _measure_score(entry: registry.Entry, seed: int, quick: bool, details: dict[str, Any]) -> Status:
    task, method = entry.parts
    # All methods of a task see the same split.
    made = task.function(Context(derive_seed(seed, f"task/{task.name}"), quick))
    if task.options["kind"] in FEW_SHOT:
        context = Context(derive_seed(seed, entry.id), quick)
        return _measure_episodes(method, context, _expect(made, Episodes, entry), task.options["kind"], details)
    split: Split = _expect(made, Split, entry)
    details |= {
        "source": split.source,
        "licence": split.licence,
        "n_train": len(split.y_train),
        "n_test": len(split.y_test),
        "n_features": split.X_train.shape[1],
        "level": LEVEL,
    }
    context = Context(derive_seed(seed, entry.id), quick)
    kind = task.options["kind"]
    if kind == "classification":
        details["n_classes"] = 1 + int(max(as_labels(split.y_train).max(), as_labels(split.y_test).max()))
    if entry.conformal:
        # All conformal versions of a task are calibrated on the same rows.
        shares = derive_seed(seed, f"conformal/{task.name}")
        details |= _conformal_scores(kind, method.function, context, split, shares, details.get("n_classes", 0))
        return "measured"
    if kind == "forecast":
        prediction, details["method_seconds"] = one_step_forecasts(method.function, context, split)
        details |= regression_scores(prediction, split.y_test)
        return "measured"
    # Copies, so that a method that writes into its input cannot disturb the scores.
    inputs = split.X_train.copy(), split.y_train.copy(), split.X_test.copy()
    prediction, details["method_seconds"] = _timed(method, context, *inputs)
    details |= _scores_of(method, prediction, split.y_test, details.get("n_classes"))
    return "measured"


def _measure_episodes(
    method: registry.Registered, context: Context, episodes: Episodes, kind: str, details: dict[str, Any]
) -> Status:
    test = episodes.test
    support_x, support_y, query_x, query_y = (
        np.array(getattr(test, name)) for name in ("support_x", "support_y", "query_x", "query_y")
    )
    n_tasks, n_query = query_x.shape[:2]
    details |= {
        "source": episodes.source,
        "licence": episodes.licence,
        "n_tasks": n_tasks,
        "n_train": support_x.shape[1],
        "n_test": n_query,
        "n_features": support_x.shape[2],
        "level": LEVEL,
    }
    if kind == "few-shot classification":
        details["n_classes"] = 1 + int(max(as_labels(support_y.ravel()).max(), as_labels(query_y.ravel()).max()))
    y = query_y.ravel()
    prediction, details["method_seconds"] = _timed(method, context, episodes.sample, support_x, support_y, query_x)
    details |= _scores_of(method, prediction, y, details.get("n_classes"), group=n_query)
    return "measured"


def _timed(method: registry.Registered, *inputs: Any) -> tuple[GaussianMixture | np.ndarray, float]:
    """What a method predicts, and the seconds it took."""
    start = time.perf_counter()
    prediction = method.function(*inputs)
    if not isinstance(prediction, GaussianMixture):
        prediction = np.asarray(prediction)  # waits for JAX
    return prediction, time.perf_counter() - start


def _scores_of(
    method: registry.Registered, prediction: Any, y: np.ndarray, n_classes: int | None, group: int = 1
) -> dict[str, Any]:
    if n_classes is None:
        return regression_scores(prediction, y, group=group)
    if isinstance(prediction, GaussianMixture):
        raise TypeError(f"{method.name!r} returned GaussianMixture; a classification method returns probabilities")
    return classification_scores(prediction, as_labels(y), n_classes, group=group)


def _conformal_scores(
    kind: str, method: Callable[..., Any], context: Context, split: Split, shares: int, n_classes: int
) -> dict[str, Any]:
    """Scores of a conformal version, with what the report says about it."""
    # Imported only here: it brings the models' libraries with it, and whoever just starts a run needs none of them.
    from uqsparse.bench.conformal_versions import conformal_classification, conformal_forecast, conformal_regression

    y: Any = split.y_test
    if kind == "classification":
        version = conformal_classification(method, context, split, n_classes, shares)
        scores = classification_scores(version.prediction, as_labels(y), n_classes, sets=version.sets.member)
    else:
        version = (
            conformal_forecast(method, context, split)
            if kind == "forecast"
            else conformal_regression(method, context, split, shares)
        )
        scores = regression_scores(version.prediction, y, interval=(version.sets.lower, version.sets.upper))
    return {**scores, "method_seconds": version.seconds, "conformal": version.details(kind)}


def _measure_speed(entry: registry.Entry, seed: int, quick: bool, details: dict[str, Any]) -> Status:
    (speed,) = entry.parts
    contest: Contest = _expect(speed.function(Context(derive_seed(seed, entry.id), quick)), Contest, entry)
    details |= hold_contest(contest, speed.options["at_least"])
    return "holds" if details["reached"] else "missed"


def known_details(entry: registry.Entry) -> dict[str, Any]:
    """What the report says about an entry whether or not it could be measured."""
    if entry.kind == "score":
        task, method = entry.parts
        details = {"task": task.name, "method": method.name, "kind": task.options["kind"]}
        if entry.conformal:
            details |= {"method": method.name + registry.CONFORMAL, "base": method.name}
        return details
    return dict(entry.parts[0].options)


def run_entry(entry_id: str, load_paths: list[str], seed: int, quick: bool) -> dict[str, Any]:
    """Measure one entry and report how it went; an exception inside the entry becomes a "failed" report.

    Args:
        entry_id: the entry's id.
        load_paths: users' files to import first.
        seed: the run's seed.
        quick: quick or full suite.

    Returns:
        An `EntryResult` as plain data.

    Raises:
        LookupError: this process knows no such entry.
        ValueError: a user's file cannot be loaded here.
    """
    entry = loading.find(entry_id, load_paths)
    measure = {"claim": _measure_claim, "score": _measure_score, "speed": _measure_speed}[entry.kind]
    details = known_details(entry)
    reason = trace = ""
    start = time.perf_counter()
    try:
        status = measure(entry, seed, quick, details)
    except NotMeasured as error:
        status, reason = "not measured", one_line(error)
    except (Exception, SystemExit) as error:
        status, reason, trace = "failed", f"{type(error).__name__}: {one_line(error)}", short_traceback(error)
    return EntryResult(
        id=entry.id,
        kind=entry.kind,
        name=entry.name,
        status=status,
        seconds=time.perf_counter() - start,
        details=details,
        reason=reason,
        traceback=trace,
        machine=describe_machine(),
    ).to_json()


def one_line(error: BaseException, limit: int = 300) -> str:
    """An exception's message in one line of at most `limit` characters."""
    text = " ".join(str(error).split()) or "no message"
    return text if len(text) <= limit else text[: limit - 1] + "…"


def short_traceback(error: BaseException) -> str:
    """A traceback whose file names do not tell where on the machine they lie."""
    lines = []
    for frame in traceback.extract_tb(error.__traceback__):
        parts = Path(frame.filename).parts
        start = max((i + 1 for i, part in enumerate(parts) if part == "site-packages"), default=None)
        if start is None:
            start = max((i for i, part in enumerate(parts) if part == "uqsparse"), default=len(parts) - 1)
        lines.append(f"{'/'.join(parts[start:])}:{frame.lineno} in {frame.name}: {frame.line}")
    return "\n".join([*lines, *(line.rstrip() for line in traceback.format_exception_only(error))])
