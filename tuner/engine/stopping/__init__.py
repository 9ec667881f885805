"""Early stopping: rules that say, from the curves of all trials, which are not worth going on.

    rule = rule_of(spec)
    rule.record(number, place, value)       a trial measured something at a step, or after seconds
    rule.verdict(number, place)             why it should stop, or None
    rule.restart(number)                    another attempt starts over
    StoppingPruner("asha", eta=4)           the same in plain Optuna

A trial is judged by its best value so far, as it will be in the end. A value that is not a number
is worse than all others, and so is one measured together with a violated constraint. Rules that
compare trials never stop the best of them.
"""

from tuner.engine.stopping.pruner import StoppingPruner
from tuner.engine.stopping.rule import Rule
from tuner.engine.stopping.rules import RULES, judged, place_of, rule_of

__all__ = ["RULES", "Rule", "StoppingPruner", "judged", "place_of", "rule_of"]
