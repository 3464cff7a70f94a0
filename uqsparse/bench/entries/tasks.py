"""The leaderboard's tasks: three real tables, and a synthetic one whose noise depends on x."""

from sklearn.model_selection import train_test_split

from uqsparse import bench, data

TEST_SHARE = 0.25


@bench.task("diabetes", kind="regression")
def diabetes(context: bench.Context) -> bench.Split:
    """Progression of diabetes in a year from ten measurements; the noise is large and nearly constant."""
    table = data.diabetes()
    parts = train_test_split(table.X, table.y, test_size=TEST_SHARE, random_state=context.seed)
    return _split(parts, table)


@bench.task("heteroscedastic", kind="regression")
def heteroscedastic(context: bench.Context) -> bench.Split:
    """A sine whose noise triples from left to right; 1000 test points, since they cost nothing here."""
    n_train, n_test = 300 if context.quick else 600, 1000
    table = data.heteroscedastic_regression(context.seed, n_train + n_test)
    parts = table.X[:n_train], table.X[n_train:], table.y[:n_train], table.y[n_train:]
    return _split(parts, table)


@bench.task("breast cancer", kind="classification")
def breast_cancer(context: bench.Context) -> bench.Split:
    """Malignant or benign, from thirty measurements; nearly separable, so confidence is what is tested."""
    table = data.breast_cancer()
    parts = train_test_split(table.X, table.y, test_size=TEST_SHARE, random_state=context.seed, stratify=table.y)
    return _split(parts, table)


@bench.task("digits", kind="classification")
def digits(context: bench.Context) -> bench.Split:
    """Ten handwritten digits; the quick suite trains on 600 of them, the full suite on 1347."""
    table = data.digits()
    parts = train_test_split(table.X, table.y, test_size=TEST_SHARE, random_state=context.seed, stratify=table.y)
    if context.quick:
        X_train, X_test, y_train, y_test = parts
        parts = X_train[:600], X_test, y_train[:600], y_test
    return _split(parts, table)


def _split(parts, table: data.Table | data.HeteroscedasticRegression) -> bench.Split:
    X_train, X_test, y_train, y_test = parts
    return bench.Split(X_train, y_train, X_test, y_test, source=table.source, licence=table.licence)
