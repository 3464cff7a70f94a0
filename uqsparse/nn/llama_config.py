"""Sizes and constants of a Llama decoder."""

from dataclasses import dataclass

from uqsparse.kernels.arguments import require_count

_COUNTS = ("n_tokens", "width", "n_blocks", "n_heads", "n_kv_heads", "mlp_width", "context", "head_size")


@dataclass(frozen=True)
class LlamaConfig:
    """Sizes and constants of a Llama decoder.

    Args:
        n_tokens: size of the vocabulary.
        width: length of the vectors that pass from block to block.
        n_blocks: number of blocks.
        n_heads: query heads a block.
        n_kv_heads: key and value heads a block, a divisor of n_heads; each serves n_heads / n_kv_heads query heads.
        mlp_width: length of the vectors inside the feed-forward part.
        context: most positions that the model was made for.
        head_size: coordinates a head, even; 0 stands for width / n_heads.
        rope_base: base of RoPE's frequencies, above 0.
        norm_eps: added to the mean square before its root is taken, above 0.
        tied: whether the output map is the embedding's own matrix.

    >>> LlamaConfig(n_tokens=50, width=16, n_blocks=2, n_heads=4, n_kv_heads=2, mlp_width=24, context=32).head_size
    4
    """

    n_tokens: int
    width: int
    n_blocks: int
    n_heads: int
    n_kv_heads: int
    mlp_width: int
    context: int
    head_size: int = 0
    rope_base: float = 10_000.0
    norm_eps: float = 1e-5
    tied: bool = True

    def __post_init__(self):
        if self.head_size == 0 and self.n_heads > 0:
            if self.width % self.n_heads:
                raise ValueError(f"n_heads must divide width, got {self.n_heads} and {self.width}; or give head_size")
            object.__setattr__(self, "head_size", self.width // self.n_heads)
        for name in _COUNTS:
            require_count(name, getattr(self, name), 1)
        for name in ("rope_base", "norm_eps"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 < value < float("inf"):
                raise ValueError(f"{name} must be a finite number above 0, got {value!r}")
        if self.n_heads % self.n_kv_heads:
            raise ValueError(f"n_kv_heads must divide n_heads, got {self.n_kv_heads} and {self.n_heads}")
        if self.head_size % 2:
            raise ValueError(f"head_size must be even, for RoPE turns pairs of coordinates; got {self.head_size}")
