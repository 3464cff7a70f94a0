"""Which weights live: masks, criteria, schedules and the Optax hook."""

__all__: list[str] = []
