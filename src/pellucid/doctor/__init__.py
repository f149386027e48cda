"""What is wrong with a training run before its first update: settings, text, and the model that they make.

Each check says what it measured and, where that is not as it should be, one sentence: what, where, what is allowed,
what to do. Knows nothing of the command line, and nothing of how a run goes on.
"""

__all__: list[str] = []
