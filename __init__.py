"""eyespot: self-supervised pretraining for vision, from shards to released weights."""

__version__ = "0.1.0"
