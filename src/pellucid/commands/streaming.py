"""``translate --stream``: every part of an output as soon as it is certain.

Knows nothing of models; one text after the other, so nothing waits for a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pellucid.commands.terminal import one_line

if TYPE_CHECKING:
    from pellucid.commands.reading import Line

__all__ = ["refuse_with_stream", "stream_lines"]


def refuse_with_stream(given: Mapping[str, bool]) -> None:
    """Refuse options that need an output as a whole.

    Args:
        given: by its name, whether an option was given.

    Raises:
        ConfigError: one was.
    """
    from pellucid.errors import ConfigError

    if names := [name for name, is_given in given.items() if is_given]:
        raise ConfigError(
            f"--stream writes plain text as it comes, and {names[0]} needs the whole of it: take one of the two away"
        )


def stream_lines(translator: Any, lines: Iterator[Line], place: str, decoding: Mapping[str, Any], file: Any) -> None:
    """Write what each line becomes, part by part, and end it with a line feed; also where an error cuts it off.

    Args:
        translator: a :class:`~pellucid.translator.Translator`.
        lines: of the input.
        place: what they are counted in, for errors.
        decoding: settings.
        file: an open text file; flushed at every part.

    Raises:
        PellucidError: a line cannot be read or translated; what came before it has been written, and of a line of
            which nothing has been written, no line feed.
    """
    from pellucid.commands.failures import located
    from pellucid.errors import PellucidError

    for line in lines:
        if line.error is not None:
            raise line.error
        text, shown = "", 0
        try:
            for part in translator.stream(line.text, index=line.number - 1, **decoding):
                text += part
                row = one_line(text)
                file.write(row[shown:])
                file.flush()
                shown = len(row)
        except OSError:
            raise  # nobody reads on
        except BaseException as error:
            if shown:
                _end(file)
            if isinstance(error, PellucidError):
                raise located(error, f"{place} {line.number}") from None
            raise
        _end(file)


def _end(file: Any) -> None:
    file.write("\n")
    file.flush()
