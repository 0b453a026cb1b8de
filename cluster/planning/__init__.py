"""From a recipe and a fleet of GPUs to the plan that a person reads. What a step needs is computed in
pretrain/planning; only commands import this.
"""
