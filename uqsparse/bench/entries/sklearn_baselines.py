"""scikit-learn baselines: what a careful practitioner would try first, tuned on the training data."""

import numpy as np
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct, WhiteKernel
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from uqsparse import bench


@bench.method("Gaussian process", kind="regression", quick=True)
def gaussian_process(
    context: bench.Context, X_train: np.ndarray, y_train: np.ndarray, X_test: np.ndarray
) -> bench.GaussianMixture:
    """Linear trend plus smooth deviations plus constant noise, marginal likelihood maximised from two starts.

    The noise is constant by construction, so on a heteroscedastic task its intervals have the right width on
    average only.
    """
    kernel = (
        ConstantKernel(0.1) * DotProduct(sigma_0=1.0)
        + ConstantKernel(0.5) * RBF(length_scale=np.sqrt(X_train.shape[1]))
        + WhiteKernel(0.5)
    )
    process = GaussianProcessRegressor(kernel, normalize_y=True, n_restarts_optimizer=1, random_state=context.seed)
    model = make_pipeline(StandardScaler(), process).fit(X_train, y_train)
    mean, sd = model.predict(X_test, return_std=True)
    return bench.GaussianMixture(mean[None, :], sd[None, :])


@bench.method("logistic regression", kind="classification", quick=True)
def logistic_regression(
    context: bench.Context, X_train: np.ndarray, y_train: np.ndarray, X_test: np.ndarray
) -> np.ndarray:
    """Ridge-penalised softmax regression; the penalty is chosen by 5-fold cross-validated log loss."""
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    penalties = {"logisticregression__C": np.logspace(-3, 2, 6)}
    search = GridSearchCV(model, penalties, scoring="neg_log_loss", cv=5).fit(X_train, y_train)
    return search.predict_proba(X_test)
