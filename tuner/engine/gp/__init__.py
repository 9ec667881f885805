"""Bayesian optimization with Gaussian processes, in numpy.

    cube = cube_of(space)                        or inferred(trials), in plain Optuna
    problem = problem_of(cube, trials, directions, seed)
    propose.propose(problem)                     the next point: pure, and apart from everything
    GPSampler(cube, startup=..., seed=...)       the same as a sampler of Optuna's kind

A proposal depends on the problem alone. Nothing is kept from one to the next: kernels are learned
anew from the history, from at most so many of its points that it stays cheap.
"""

from tuner.engine.gp.cube import Array, Cube
from tuner.engine.gp.problem import Problem, problem_of
from tuner.engine.gp.sampler import GPSampler
from tuner.engine.gp.tree import cube_of

__all__ = ["Array", "Cube", "GPSampler", "Problem", "cube_of", "problem_of"]
