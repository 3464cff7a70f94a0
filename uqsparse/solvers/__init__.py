"""Deterministic algorithms with certificates: each returns its answer and the gap that bounds its error."""

__all__: list[str] = []
