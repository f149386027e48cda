"""The decoding contract: what every way of generating must keep, as checks that anyone can run on any model.

The checks know nothing of how something is generated: they are handed a *way of generating* (``ways.py``) and compare
what it says with slow searches of their own (``reference.py``).
"""
