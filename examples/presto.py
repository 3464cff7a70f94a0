"""Who rates her marriage "very poor"? One in sixty-four does, in a survey of 6366 women.

Eight hundred rows hold a dozen such cases: too few for a logistic regression with 16 features. Those who say "poor"
or "fair" know something about them. PRESTO lets every step of the scale have its own weights, and keeps a change from
one step to the next only where the data ask for it.
"""

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from uqsparse.data.ordinal_tables import fair
from uqsparse.models.presto import PrestoClassifier


def main() -> None:
    table = fair()
    order = np.random.default_rng(2).permutation(len(table.y))
    train, test = order[:800], order[800:]
    X, y, rare = table.X, table.y, table.y == 4
    print(
        f"{rare[train].sum()} of 800 training rows say {table.classes[-1]!r}; {rare[test].sum()} of {len(test)} others"
    )

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = PrestoClassifier().fit(X[train], y[train])
        logistic = make_pipeline(StandardScaler(), LogisticRegression(C=np.inf, max_iter=2000))
        logistic.fit(X[train], rare[train])

    path, chosen = model.path_, model.best_index_
    print(f"penalty {model.best_lambda_:.4f}, fit {chosen + 1} of {len(path.lambdas)}; gaps up to {path.gap.max():.0e}")
    print(f"{path.n_nonzero[chosen]} of {path.differences[chosen].size} weights and changes are not zero. Changes:")
    steps = [f"{a} | {b}" for a, b in zip(table.classes[:-1], table.classes[1:], strict=True)]
    sd = X[train].std(axis=0)
    for boundary, feature in np.argwhere(path.differences[chosen][1:] != 0):
        change = path.differences[chosen][boundary + 1, feature] * sd[feature]
        print(f"  from {steps[boundary]} to {steps[boundary + 1]}: {table.feature_names[feature]} {change:+.2f} a sd")

    print("test rows             log loss    AUC")
    predictions = {
        "PRESTO": model.predict_proba(X[test])[:, -1],
        "logistic regression": logistic.predict_proba(X[test])[:, 1],
        "share in training": np.full(len(test), rare[train].mean()),
    }
    for name, q in predictions.items():
        print(f"  {name:19} {log_loss(rare[test], q):8.4f} {roc_auc_score(rare[test], q):8.3f}")


if __name__ == "__main__":
    main()
