"""Sets of strings: regular expressions, automata, context-free grammars, predicates."""

from uqsparse.inference.constraints.automata import DFA, TokenAutomaton
from uqsparse.inference.constraints.consistency import check_prefix_consistency
from uqsparse.inference.constraints.constraint import Constraint
from uqsparse.inference.constraints.dfa_constraint import DFAConstraint
from uqsparse.inference.constraints.grammar_constraint import GrammarConstraint
from uqsparse.inference.constraints.json_grammar import JSON, ArrayOf, json_object_grammar
from uqsparse.inference.constraints.predicate import PredicateConstraint
from uqsparse.inference.constraints.regex import RegexConstraint
from uqsparse.inference.constraints.vocabulary import Vocabulary

__all__ = [
    "DFA",
    "JSON",
    "ArrayOf",
    "Constraint",
    "DFAConstraint",
    "GrammarConstraint",
    "PredicateConstraint",
    "RegexConstraint",
    "TokenAutomaton",
    "Vocabulary",
    "check_prefix_consistency",
    "json_object_grammar",
]
