"""What can be guaranteed: prediction sets, worst-case bounds, calibration."""

__all__: list[str] = []
