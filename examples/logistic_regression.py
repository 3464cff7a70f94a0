"""Logistic regression on the breast cancer data: coefficients, evidence, and the choice between two models.

The evidence says whether the thirty measurements are worth more than ten of them, without a validation set.
"""

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
from scipy.special import expit
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from uqsparse import data
from uqsparse.inference import HMC, TemperedTarget, tempered_smc


def logistic_regression(x, benign=None):
    intercept = numpyro.sample("intercept", dist.Normal(0.0, 1.0))
    weights = numpyro.sample("weights", dist.Normal(0.0, 1.0).expand([x.shape[1]]).to_event(1))
    numpyro.sample("benign", dist.Bernoulli(logits=intercept + x @ weights), obs=benign)


def main() -> None:
    table = data.breast_cancer()
    x_train, x_test, y_train, y_test = train_test_split(
        table.X, table.y, test_size=0.25, random_state=0, stratify=table.y
    )
    scaler = StandardScaler().fit(x_train)
    x_train, x_test = scaler.transform(x_train), scaler.transform(x_test)

    print(f"{'model':22s}{'log evidence':>18s}{'test accuracy':>16s}{'test log loss':>16s}")
    for name, columns in (("the ten means", slice(0, 10)), ("all thirty", slice(0, 30))):
        target = TemperedTarget.from_numpyro(logistic_regression, x_train[:, columns], benign=y_train)
        result = tempered_smc(jax.random.key(0), target, n_particles=500, move=HMC(), n_moves=3)
        draws = result.samples
        logits = draws["intercept"][:, None] + draws["weights"] @ x_test[:, columns].T
        probability = expit(logits).mean(axis=0)
        accuracy = np.mean((probability > 0.5) == y_test)
        log_loss = -np.mean(np.log(np.where(y_test == 1, probability, 1 - probability)))
        evidence = f"{result.log_evidence:.1f} +- {result.log_evidence_se:.1f}"
        print(f"{name:22s}{evidence:>18s}{accuracy:16.3f}{log_loss:16.3f}")


if __name__ == "__main__":
    main()
