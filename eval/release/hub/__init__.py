"""Releases on a model hub that speaks as the Hugging Face Hub does: ``hf://ORG/NAME@REVISION``."""
