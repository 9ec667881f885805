"""Predictions over the network: a gateway without TensorFlow, and replicas of model versions."""
