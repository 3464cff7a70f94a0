"""Sparse Bayesian regression: which of 65 columns tell the progress of diabetes, and how sure is that?

Ten measurements of 442 patients, their squares and products: 65 columns. Maximum evidence gives each coefficient a
prior variance, and most of these end at zero; nothing is tuned. Then the same prior is sampled by NUTS on the ten
measurements alone, with its hyper-parameters uncertain, to see what fixing them at their best values hides.
"""

import warnings

import jax
import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LassoCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from uqsparse import data
from uqsparse.inference import nuts
from uqsparse.inference.arviz_io import dataset
from uqsparse.models.sparse_bayes import SparseBayesianRegression, sparse_bayesian_model

N_TRAIN = 310


def main() -> None:
    table = data.diabetes()
    order = np.random.default_rng(0).permutation(len(table.y))
    X, y = table.X[order], table.y[order]
    X_train, y_train, X_test, y_test = X[:N_TRAIN], y[:N_TRAIN], X[N_TRAIN:], y[N_TRAIN:]
    quadratic = make_pipeline(StandardScaler(), PolynomialFeatures(2, include_bias=False), StandardScaler())
    columns, columns_test = quadratic.fit_transform(X_train), quadratic.transform(X_test)
    names = quadratic[1].get_feature_names_out(table.feature_names)

    print(f"{'65 columns':10s}{'log evidence':>14s}{'columns':>9s}{'iterations':>12s}{'RMSE':>7s}{'90 % covers':>13s}")
    warnings.simplefilter("ignore", ConvergenceWarning)
    for update in ("fast", "mackay", "mm", "em"):
        model = SparseBayesianRegression(update).fit(columns, y_train)
        mean, sd = model.predict(columns_test, return_std=True)
        rmse, covered = np.sqrt(np.mean((mean - y_test) ** 2)), np.mean(abs(mean - y_test) < 1.645 * sd)
        kept = len(model.support_)
        print(f"{update:10s}{model.log_evidence_:14.2f}{kept:9d}{model.n_iter_:12d}{rmse:7.1f}{covered:13.2f}")
    lasso = LassoCV(cv=5).fit(columns, y_train)
    rmse = np.sqrt(np.mean((lasso.predict(columns_test) - y_test) ** 2))
    print(f"{'LassoCV':10s}{'':14s}{np.count_nonzero(lasso.coef_):9d}{'':12s}{rmse:7.1f}{'-':>13s}")

    model = SparseBayesianRegression().fit(columns, y_train)
    print("\nlargest coefficients, in units of progression per standard deviation of the column")
    for j in np.argsort(-abs(model.coef_))[:6]:
        print(f"  {names[j]:14s}{model.coef_[j]:8.1f} +- {model.coef_std_[j]:4.1f}")

    scaler = StandardScaler().fit(X_train)
    linear, centred = scaler.transform(X_train), (y_train - y_train.mean()) / y_train.std()
    best = SparseBayesianRegression().fit(linear, centred)
    posterior = nuts(
        jax.random.key(0), sparse_bayesian_model, linear, y=centred, scale=0.1, n_warmup=200, n_samples=200,
        n_chains=2, log_likelihood=False,
    )  # fmt: skip
    draws = np.asarray(dataset(posterior)["coef"]).reshape(-1, linear.shape[1])
    print("\nten measurements, in standard deviations: maximum evidence, and NUTS with uncertain hyper-parameters")
    for j, name in enumerate(table.feature_names):
        fixed = f"{best.coef_[j]:6.2f} +- {best.coef_std_[j]:.2f}"
        print(f"  {name:5s}{fixed:>16s}{draws[:, j].mean():10.2f} +- {draws[:, j].std():.2f}")


if __name__ == "__main__":
    main()
