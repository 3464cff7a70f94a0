"""Enter a method of your own into the leaderboard: one decorated function.

Run it as a script, or hand it to the command line:
`uqsparse bench --load bring_your_own_method.py --only forest`.
"""

from rich.console import Console
from sklearn.ensemble import RandomForestRegressor

from uqsparse import bench


@bench.method("forest residuals", kind="regression")
def forest_residuals(context, X_train, y_train, X_test):
    """A random forest whose out-of-bag errors, added to its predictions, are the predictive draws."""
    n_trees = 100 if context.quick else 500
    forest = RandomForestRegressor(n_trees, min_samples_leaf=5, oob_score=True, random_state=context.seed)
    forest.fit(X_train, y_train)
    errors = y_train - forest.oob_prediction_
    return forest.predict(X_test)[None, :] + errors[:, None]


def main() -> None:
    result = bench.run(only="forest residuals", out="report/my_method")
    bench.print_results(result, Console(width=100))


if __name__ == "__main__":
    main()
