"""Network modules (Equinox): drop-in layers for their `equinox.nn` counterparts."""

__all__: list[str] = []
