"""The commands, one file each; ``pellucid.cli`` puts them together.

A command turns what was typed into calls of the library and prints what comes back. Importing one costs next to
nothing: the library is imported inside the function.
"""

__all__: list[str] = []
