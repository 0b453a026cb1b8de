"""What is measured of an encoder now and then while it trains. Handed to the trainer from outside: nothing that trains
imports it but the trainer.
"""
