"""Real series to be forecast one step ahead: the last third, from all that came before."""

from collections.abc import Callable

from uqsparse import bench, data

TEST_SHARE = 1 / 3


def _split(load: Callable[[], data.Series]) -> bench.Split:
    try:
        series = load()
    except ImportError as error:
        raise bench.NotMeasured(str(error)) from None
    n_train = round(len(series.values) * (1 - TEST_SHARE))
    times, y = series.times[:, None], series.values
    return bench.Split(
        times[:n_train], y[:n_train], times[n_train:], y[n_train:], source=series.source, licence=series.licence
    )


@bench.task("inflation", kind="forecast")
def inflation(context: bench.Context) -> bench.Split:
    """Quarterly inflation in the United States: the level wanders, and so does the volatility."""
    return _split(data.inflation)


@bench.task("treasury bill rate", kind="forecast", quick=False)
def treasury_bill(context: bench.Context) -> bench.Split:
    """A short interest rate, quarterly: nearly a random walk whose steps are calm for years and wild for others."""
    return _split(data.treasury_bill)


@bench.task("Nile", kind="forecast", quick=False)
def nile(context: bench.Context) -> bench.Split:
    """Annual flow of the Nile: a level under constant noise."""
    return _split(data.nile)
