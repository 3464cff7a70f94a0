"""Timing two programs side by side."""

import gc
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from uqsparse.bench.records import Contest


def _timed(program: Callable[[int], Any], round_index: int) -> tuple[Any, float, float]:
    """Run once; returns the result, the wall seconds and the processor seconds of the whole process."""
    processor, wall = time.process_time(), time.perf_counter()
    result = program(round_index)
    if "jax" in sys.modules:  # JAX returns before it has computed; wait for the numbers
        import jax

        jax.block_until_ready(result)
    return result, time.perf_counter() - wall, time.process_time() - processor


def hold_contest(contest: Contest, at_least: float) -> dict[str, Any]:
    """Time both sides in interleaved rounds, A B, B A, A B, ..., with the garbage collector off.

    Each side first runs round 0, which compiles and is not counted. The ratio of a round is
    (peer seconds / peer work) / (our seconds / our work).

    Args:
        contest: the two programs.
        at_least: the median ratio that has to be reached.

    Returns:
        Plain data: `ratio` (median) with its quartiles, all `ratios`, `cpu_ratio` (the same from processor
        seconds, None where they are too small to measure), median seconds, first-run seconds, work and errors
        of both sides.

    Raises:
        ValueError: a work figure is not a positive number.
    """
    sides = {"ours": contest.ours, "peer": contest.peer}
    first = {name: _timed(program, 0)[1] for name, program in sides.items()}
    results: dict[str, list[Any]] = {"ours": [], "peer": []}
    wall: dict[str, list[float]] = {"ours": [], "peer": []}
    processor: dict[str, list[float]] = {"ours": [], "peer": []}
    collecting = gc.isenabled()
    try:
        for index in range(1, contest.rounds + 1):
            for name in ("ours", "peer") if index % 2 else ("peer", "ours"):
                gc.collect()
                gc.disable()
                result, seconds, busy = _timed(sides[name], index)
                if collecting:
                    gc.enable()
                results[name].append(result)
                wall[name].append(seconds)
                processor[name].append(busy)
    finally:
        if collecting:
            gc.enable()

    work = {name: 1.0 if contest.work is None else float(contest.work(results[name])) for name in sides}
    for name, units in work.items():
        if not 0 < units < float("inf"):
            raise ValueError(f"the work of {name} is {units}; expected a positive number of units a run")
    per_work = work["ours"] / work["peer"]
    ratios = np.array(wall["peer"]) / np.array(wall["ours"]) * per_work
    low, median, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    cpu_ratio = None
    if min(np.median(processor["ours"]), np.median(processor["peer"])) > 1e-3:
        cpu_ratio = float(np.median(processor["peer"]) / np.median(processor["ours"]) * per_work)
    return {
        "ratio": float(median),
        "ratio_low": float(low),
        "ratio_high": float(high),
        "ratios": ratios.tolist(),
        "cpu_ratio": cpu_ratio,
        "rounds": contest.rounds,
        "reached": bool(median >= at_least),
        "seconds": {name: float(np.median(wall[name])) for name in sides},
        "first_seconds": first,
        "work": work if contest.work else None,
        "errors": {name: float(contest.error(results[name])) for name in sides} if contest.error else None,
    }
