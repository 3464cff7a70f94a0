"""The entries that come with the package: tasks and methods, claims, speed contests."""
