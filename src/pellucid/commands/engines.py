"""Which engine generates for a command: the native one where it can, PyTorch elsewhere; and how it is told.

Knows neither of them from inside. Imports no PyTorch unless it is what runs.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["Engine", "Precision", "Workers", "computing", "could_round", "open_generator"]

ENGINES = ("auto", "native", "torch")
PRECISIONS = ("float32", "int8")
NOTICED_SECONDS = 1.0
"""What starting may take longer than usual without being told why."""

Engine = Annotated[
    str,
    typer.Option(
        "--engine",
        metavar="auto|native|torch",
        help="What computes: the native engine (CPUs with AVX-512 VNNI), PyTorch, or the first where it can run.",
    ),
]
Precision = Annotated[
    str,
    typer.Option(
        "--precision",
        metavar="float32|int8",
        help="Of matrix products in the native engine: int8 is about twice as fast or more, and rounds.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        metavar="N",
        min=1,
        help="Threads of the native engine, each with sentences of its own; default: one for each CPU it may use.",
        show_default=False,
    ),
]


def open_generator(
    model: str | None,
    device: str | None,
    threads: int | None,
    *,
    engine: str = "auto",
    precision: str = "float32",
    workers: int | None = None,
    needs_torch: str | None = None,
    **languages: str | None,
) -> Any:
    """A :class:`~pellucid.text_generator.TextGenerator` of a model folder.

    Args:
        model, device, threads, languages: as for :func:`~pellucid.commands.reading.open_model`.
        engine, precision, workers: as typed.
        needs_torch: what of the command only PyTorch can do; None: nothing.

    Raises:
        ConfigError: no such engine or precision, or it cannot run here.
        PellucidError: as for :func:`~pellucid.commands.reading.open_model`.
    """
    from pellucid.commands.options import given
    from pellucid.commands.reading import name_bundled, open_model
    from pellucid.commands.terminal import PlainReporter
    from pellucid.config import parse_config
    from pellucid.errors import ConfigError
    from pellucid.machine import usable_cpus

    for name, value, allowed in (("engine", engine, ENGINES), ("precision", precision, PRECISIONS)):
        if value not in allowed:
            raise ConfigError(f"--{name} is one of {', '.join(allowed)}, not {value!r}")
    machine = parse_config({"training": given(device=device, threads=threads)}).training
    reason = "of --engine torch" if engine == "torch" else needs_torch or _elsewhere(machine.device)
    if reason is None:
        from pellucid.native.build import NativeUnavailableError
        from pellucid.native_loading import load_native

        if model is None:
            name_bundled()
        try:
            chosen: Any = precision
            workers = workers or machine.threads or usable_cpus()
            found = load_native(model, precision=chosen, workers=workers, **languages)
            _tell_packing(found.packing)
            return found
        except NativeUnavailableError as error:
            reason = str(error)
            if engine == "auto" and precision == "float32":
                PlainReporter().line(f"generating with PyTorch, because {reason}")
                if error.loaded is not None:
                    return _on_threads(error.loaded, machine.threads)
    if precision != "float32" or engine == "native":
        wanted = "--engine native" if engine == "native" else f"--precision {precision}"
        raise ConfigError(f"{wanted} needs the native engine, which cannot be used because {reason}: take it away")
    return open_model(model, device, threads, **languages)


def computing(generator: Any) -> dict[str, str]:
    """The engine that runs it, and its precision: outputs of two ways of computing do not belong into one file."""
    native = getattr(generator, "engine", None)
    if native is None:
        return {"engine": "torch", "precision": "float32"}
    return {"engine": "native", "precision": native.precision}


def could_round(generator: Any) -> bool:
    """Whether it would be faster in int8."""
    return getattr(getattr(generator, "engine", None), "precision", None) == "float32"


def _tell_packing(packing: tuple[float, bool] | None) -> None:
    """Say why the start took long, where it did."""
    from pellucid.commands.terminal import PlainReporter
    from pellucid.native.build import cache_folder

    if packing is None or packing[0] < NOTICED_SECONDS:
        return
    seconds, is_kept = packing
    again = "kept there for the next time" if is_kept else "every time anew, because nothing can be written there"
    folder = cache_folder() / "packed"
    PlainReporter().line(f"weights were laid out for the native engine in {seconds:.1f} s ({folder}: {again})")


def _on_threads(loaded: Any, threads: int | None) -> Any:
    from pellucid.training.runtime import set_threads

    set_threads(threads)
    return loaded


def _elsewhere(device: str) -> str | None:
    """Why a model is not to run on the CPU; None: it is."""
    if device not in ("auto", "cpu"):
        return f"of --device {device}"
    has_gpu = Path("/dev/nvidiactl").exists() or (sys.platform == "darwin" and os.uname().machine == "arm64")
    return "there is a GPU (--device cpu leaves it alone)" if device == "auto" and has_gpu else None
