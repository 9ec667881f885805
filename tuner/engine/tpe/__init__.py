"""Tree-structured Parzen estimators whose arrays grow with the trials instead of being rebuilt.

    outcomes = Outcomes(directions)         what became of trials, and which are good
    outcomes.put(row, trial)
    model = Model(outcomes)                 draws a block of parameters jointly
    model.draw(block, generator)
    Tree(space).draw(...)                   what is always active, then the children of that
    TreeTPESampler(space, seed=1)           the same for plain Optuna

Proposals are distributed as those of Optuna 5's `TPESampler(multivariate=True,
constant_liar=True)`: the same good and bad trials, kernels, weights and candidates. What differs:

- A tree of parameters is drawn a generation at a time, each from the trials that have all of it.
  Optuna knows no tree: it draws jointly only what all trials share.
- Among trials with equal values of a parameter, the ones next to a gap are the oldest and the
  newest; in Optuna it is left to its sorting algorithm which.
- A value outside the present range counts at the nearest end of it.
- A mixture has at most about 16 thousand kernels (`model.thinned` says which), so from there on a
  draw costs hardly more with each trial.
- From a front of more than 100 the good trials are chosen in parts (`Outcomes`).
- Several objectives are drawn jointly too; by default Optuna draws one by one there.

Sources: Bergstra et al., Algorithms for Hyper-Parameter Optimization, NeurIPS 2011; Bergstra,
Yamins and Cox, Making a Science of Model Search, ICML 2013; Falkner, Klein and Hutter, BOHB, ICML
2018 (kernels over all parameters together); Watanabe, Tree-Structured Parzen Estimator:
Understanding Its Algorithm Components, 2023; Ozaki et al., Multiobjective Tree-Structured Parzen
Estimator, GECCO 2020 and JAIR 2022.
"""

from tuner.engine.tpe.model import Model
from tuner.engine.tpe.outcomes import Outcomes
from tuner.engine.tpe.sampler import TreeTPESampler
from tuner.engine.tpe.tree import Tree

__all__ = ["Model", "Outcomes", "Tree", "TreeTPESampler"]
