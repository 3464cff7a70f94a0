"""Settings every test shares: the compilation cache, Hypothesis profiles, third-party warnings."""

import gc
import os
import signal
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Compiled programs outlive the run, the clone and the environment: most of a cold run is XLA compiling. The
# cache lies with the user's other caches, outside the tree, so that a fresh clone finds it warm and `git
# clean` spares it. Environment variables rather than `jax.config`: the examples and the command line run in
# processes of their own. JAX reads them when it is first imported, which happens later, in the test modules.
# (The benchmarks do not use the cache: they report compile times.)
_cache_home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_cache_home / "uqsparse" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
# No test looks at a screen, and none may wait for one.
os.environ.setdefault("MPLBACKEND", "Agg")
# A run in the background is started with interrupts ignored, which the children that tests interrupt would inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# Compilation makes the first example slow, so time limits per example mean nothing here.
_relaxed = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("local", max_examples=25, **_relaxed)
# The same examples in every run: a red build says something about the change, not about the day.
settings.register_profile("ci", max_examples=25, derandomize=True, **_relaxed)
# A long search for the night before a release: HYPOTHESIS_PROFILE=thorough make test
settings.register_profile("thorough", max_examples=1000, **_relaxed)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "local"))


def pytest_configure(config: pytest.Config) -> None:
    """Silence what other packages announce about themselves, so that our own warnings are seen."""
    for noise in (
        "ignore:.*:FutureWarning:arviz",  # ArviZ 0.2x announces 1.x on import
        "ignore:.*:DeprecationWarning:(particles|pytensor|pymc|etuples|unification|kanren)",
    ):
        config.addinivalue_line("filterwarnings", noise)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that hold the most slow tests: a file stays on one worker, and none is to wait for one."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(autouse=True, scope="module")
def _drop_compiled_programs():
    """Every program holds memory maps, of which Linux grants a process 65 530: a session that kept them all crashed."""
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()
        gc.collect()


@pytest.fixture(scope="session")
def smollm2_path():
    """The file of SmolLM2; tests that ask for it are skipped where the extra `lm` or the weights are missing."""
    pytest.importorskip("gguf", reason="needs the extra lm")
    pytest.importorskip("safetensors", reason="needs the extra lm")
    pytest.importorskip("tokenizers", reason="needs the extra lm")
    from uqsparse.data.language import smollm2

    try:
        return smollm2(check=False).path
    except ImportError as error:
        pytest.skip(str(error))
