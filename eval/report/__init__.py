"""The report: one self-contained page that shows runs to somebody who was not there. Reads what the rest of eval wrote;
nothing in eval imports it.
"""
