"""Published methods of sparse training, each a short composition of the pieces of `uqsparse.pruning`.

All take `(inner, *, density, steps, key, ...)` and give an Optax transformation around the optimiser `inner`.
"""
