"""Named sets of operators whose forward pass the backward pass repeats."""

from __future__ import annotations

from collections.abc import Iterable

from costmodel.errors import InputError

# What may be named: each drops the tensors that the operator produces. `layer` keeps a layer's input only.
OPERATORS = frozenset(
    {"norm", "qkv", "mla_down", "mla_up", "attention_core", "ffn_up", "activation", "dispatch", "dropout", "layer"}
)

SETS = {
    "none": frozenset[str](),
    "selective": frozenset({"attention_core"}),  # Korthikanti et al., arXiv 2205.05198, section 5
    "full": frozenset({"layer"}),  # Chen et al., arXiv 1604.06174: one checkpoint a layer
    "deepseek_v3": frozenset({"norm", "mla_up", "activation"}),  # arXiv 2412.19437, section 3.2.3
}


def expand(names: Iterable[str]) -> frozenset[str]:
    """Return the operators that set and operator names stand for. Raises InputError on an unknown name."""
    operators: set[str] = set()
    for name in names:
        if name not in SETS and name not in OPERATORS:
            raise InputError.single(
                f"unknown operator `{name}`",
                field="recompute",
                hint=f"write one of {', '.join([*SETS, *sorted(OPERATORS)])}",
            )
        operators |= SETS.get(name, frozenset({name}))
    return frozenset(operators)
