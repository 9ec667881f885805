"""Trains trials: statistics of the data, preprocessing, canned trainers, export and prediction."""
