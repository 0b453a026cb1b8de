"""One file per way of running an objective on many processes. Found by name through pretrain/engine.py: the trainer and
the objectives import none of them, and they know no method.
"""
