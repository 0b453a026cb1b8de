"""From a recipe to a submitted job, or to ranks on this machine: settings, frozen code, containers. Watches nothing
afterwards; only commands import it.
"""
