"""What a method of sparse training says it is, and whether a recorded run agrees.

Source: Liu & Wang (2023), Ten lessons we have learned in the new "Sparseland", for the terms. The explored share is the
in-time over-parameterisation of Liu, Yin, Mocanu & Pechenizkiy (2021), ICML.
"""

from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple, get_args, get_type_hints

from uqsparse.pruning.run_trace import RunTrace
from uqsparse.pruning.storage import fits
from uqsparse.pruning.structures import Structure, Unstructured

When = Literal["before training", "during training", "after training"]
Start = Literal["dense", "sparse"]
Topology = Literal["static", "growing sparsity", "dynamic"]
Data = Literal["none", "one batch", "calibration set", "training"]
Retraining = Literal["none", "same run", "extra"]
DenseGradient = Literal["never", "at updates", "always"]


@dataclass(frozen=True)
class SparsityCard:
    """What a method says it is; every field is required.

    Args:
        when: the final density is reached. A method that has it from the first step and only exchanges weights later
            reaches it before training.
        start: whether all weights are trained at first.
        topology: "static": one mask; "growing sparsity": weights only leave; "dynamic": weights come in, too.
        structure: what masks look like, see `uqsparse.pruning.structures`.
        criterion: what weights are ranked by.
        data: what the criterion needs.
        weights_updated: whether weights are trained.
        retraining: of weights after the last change of the mask.
        dense_gradient: when gradients of inactive weights are computed.
        dense_storage: whether values of inactive weights are kept.

    Raises:
        ValueError: a field has an unknown value.
    """

    when: When
    start: Start
    topology: Topology
    structure: Structure
    criterion: str
    data: Data
    weights_updated: bool
    retraining: Retraining
    dense_gradient: DenseGradient
    dense_storage: bool

    def __post_init__(self) -> None:
        types = get_type_hints(SparsityCard)
        for field in fields(self):
            value, known = getattr(self, field.name), get_args(types[field.name])
            if known and value not in known:
                raise ValueError(f"{field.name} must be one of {', '.join(map(repr, known))}, got {value!r}")


def _card(when: When, start: Start, topology: Topology, criterion: str, data: Data, **rest: Any) -> SparsityCard:
    usual = {
        "structure": Unstructured(),
        "weights_updated": True,
        "retraining": "same run",
        "dense_gradient": "never",
        "dense_storage": False,
    }
    return SparsityCard(when, start, topology, criterion=criterion, data=data, **(usual | rest))


# Of the recipes with their default options; those of SNIP are for its mask under `static`.
CARDS: dict[str, SparsityCard] = {
    "static": _card("before training", "sparse", "static", "random", "none"),
    "snip": _card("before training", "sparse", "static", "|w g|", "one batch"),
    "set": _card("before training", "sparse", "dynamic", "magnitude, random growth", "none"),
    "rigl": _card(
        "before training", "sparse", "dynamic", "magnitude, gradient growth", "training", dense_gradient="at updates"
    ),
    "gmp": _card("during training", "dense", "growing sparsity", "magnitude", "none"),
    "granet": _card(
        "during training", "dense", "dynamic", "magnitude, gradient growth", "training", dense_gradient="at updates"
    ),
    "granet from sparse": _card(
        "during training", "sparse", "dynamic", "magnitude, gradient growth", "training", dense_gradient="at updates"
    ),
    "imp": _card("during training", "dense", "growing sparsity", "magnitude", "none", retraining="extra"),
    "one_shot": _card("during training", "dense", "growing sparsity", "magnitude", "none"),
    "essential_sparsity": _card("after training", "dense", "growing sparsity", "magnitude", "none", retraining="none"),
    "ssvi": _card(
        "before training", "sparse", "dynamic", "SNR of |w|, gradient growth", "training", dense_gradient="at updates"
    ),
}


class Labels(NamedTuple):
    """What a run was.

    Args:
        when: its final density was reached, as in `SparsityCard`.
        start: whether it began with all weights.
        topology: of its masks.
        kind: "sparse to sparse", "dense to sparse", or "dense".
        explored: share of the weights that were active at any time.
    """

    when: When
    start: Start
    topology: Topology
    kind: Literal["sparse to sparse", "dense to sparse", "dense"]
    explored: float


def classify(trace: RunTrace) -> Labels:
    """The labels that a finished run deserves.

    Sparse to sparse: never all of its weights were active. Growing sparsity: weights left, and none came back. After
    training: no update of the weights follows the last change of the mask. Before training: the density was the
    final one at step 0.

    Raises:
        ValueError: the trace is empty or not finished.
    """
    if trace.n_steps is None or not trace.entries:
        raise ValueError("the trace is empty or not finished; call append, and finish at the end")
    start = "dense" if trace.initial_density == 1 else "sparse"
    topology = "static" if not trace.n_changes else "dynamic" if trace.came else "growing sparsity"
    if trace.n_changes and trace.last_change >= trace.n_steps:
        when = "after training"
    else:
        when = "during training" if trace.last_density_change else "before training"
    full = trace.highest_count == trace.size
    kind = "sparse to sparse" if not full else "dense to sparse" if trace.final_density < 1 else "dense"
    return Labels(when, start, topology, kind, trace.explored)


def violations(card: SparsityCard, trace: RunTrace) -> tuple[str, ...]:
    """Where a finished run is not what its card says; empty if it is.

    Args:
        card: what was declared.
        trace: what was recorded. Whether weights that are off are zero is known only if it was given parameters.

    Raises:
        ValueError: the trace is empty or not finished.
    """
    labels = classify(trace)
    found = [
        f"{name}: declared {getattr(card, name)}, actual {getattr(labels, name)}"
        for name in ("when", "start", "topology")
        if getattr(card, name) != getattr(labels, name)
    ]
    found += [
        f"structure of {path}: declared {card.structure}, the mask is not"
        for path in trace.sizes
        if not fits(trace.final_mask(path), card.structure)
    ]
    if card.weights_updated != (trace.n_steps != 0):
        found.append(f"weights: declared {'' if card.weights_updated else 'not '}updated, {trace.n_steps} updates")
    if trace.actual_density is not None and not card.dense_storage:
        most = trace.highest_count / trace.size
        if trace.actual_density > most + 0.5 / trace.size:
            found.append(f"density: declared {most:.3g}, actual {trace.actual_density:.3g}: weights are not masked")
    return tuple(found)
