"""Runs a model so that everything is seen, and writes it down as a trace."""
