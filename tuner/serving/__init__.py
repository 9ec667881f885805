"""Predictions over the network: a gateway without TensorFlow, and replicas of model versions."""

# Before any module of this package imports TensorFlow, which imports Keras.
import tuner_trainers as tuner_trainers
