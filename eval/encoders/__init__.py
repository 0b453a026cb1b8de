"""Which encoder is judged, where its weights come from, and its features of a data set. Knows releases, no protocol:
protocols import it.
"""
