"""What a user fits: NumPyro models and scikit-learn estimators."""

__all__: list[str] = []
