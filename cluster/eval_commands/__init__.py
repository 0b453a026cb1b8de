"""The words of ``eyespot eval`` that need a file of their own, and how results are printed; no command of its own."""
