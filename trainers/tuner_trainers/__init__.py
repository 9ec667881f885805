"""Trains trials: statistics of the data, preprocessing, canned trainers, export and prediction."""

from tuner_trainers import lean

# Before any module of this package imports Keras, or TensorFlow, which imports it.
lean.install()
