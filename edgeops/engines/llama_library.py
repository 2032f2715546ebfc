"""llama.cpp through llama-cpp-python, imported when it is asked for, and quiet: its log goes nowhere but
into the errors that it explains."""

from __future__ import annotations

import ctypes
import os
import threading
from collections import deque
from functools import cache
from typing import Any

from edgeops.engines.refusals import one_line
from edgeops.errors import ConfigError

# enum ggml_log_level (ggml.h); 5 continues the line before it.
_WARNING = 3
_CONTINUED = 5

_said: deque[str] = deque(maxlen=8)
_lock = threading.Lock()


@cache
def llama_library() -> Any:
    """The module `llama_cpp`, initialised. Raises `ConfigError` when it is missing or cannot be loaded."""
    # An abort would print a backtrace by attaching a debugger to this process: never on a device.
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")
    try:
        import llama_cpp
    except (ImportError, OSError, RuntimeError) as error:
        raise ConfigError(
            f"llama.cpp cannot be loaded ({one_line(error)}).",
            remedy="Install it: pip install 'edgeops[gguf]'.",
            subject="llama_cpp",
        ) from error
    llama_cpp.llama_log_set(_callback(llama_cpp), ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    return llama_cpp


def forget_words() -> None:
    """Drops what llama.cpp said so far, before a call whose failure `last_words` is to explain."""
    with _lock:
        _said.clear()


def last_words() -> str:
    """The warnings and errors since `forget_words`, on one line of at most 300 characters."""
    with _lock:
        return " ".join("".join(_said).split())[-300:].rstrip(". ")


def text_tokens(llama: Any, vocab: Any, text: bytes) -> list[int] | None:
    """The tokens of UTF-8 text: special ones are parsed, none is added. None if llama.cpp cannot."""
    room = len(text) + 2  # no text has more tokens than bytes, but for a space put in front
    buffer = (llama.llama_token * room)()
    count = llama.llama_tokenize(vocab, text, len(text), buffer, room, False, True)
    return None if count < 0 else list(buffer[:count])


def end_tokens(llama: Any, vocab: Any) -> list[int]:
    """The tokens that llama.cpp takes for ends of an answer."""
    size = llama.llama_vocab_n_tokens(vocab)
    return [token for token in range(size) if llama.llama_vocab_is_eog(vocab, token)]


@cache
def _callback(llama_cpp: Any) -> Any:
    """The log callback. It is kept for ever, since llama.cpp keeps a pointer to it."""
    level_before = 0

    def hear(level: int, text: bytes, _data: Any) -> None:
        nonlocal level_before
        level_before = level_before if level == _CONTINUED else level
        if level_before >= _WARNING:
            with _lock:
                _said.append(text.decode(errors="replace"))

    return llama_cpp.llama_log_callback(hear)
