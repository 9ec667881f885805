"""tuner.v1: generated from protos/, never edited."""
