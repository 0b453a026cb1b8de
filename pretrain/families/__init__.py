"""What several methods share as a whole: objectives that a method completes with a few lines of its own. They know no
method and no engine.
"""
