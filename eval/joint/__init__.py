"""Judges what two towers of a run embed in one space: images, and text, sound or depth beside them."""
