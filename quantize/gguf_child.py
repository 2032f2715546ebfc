"""llama.cpp in a child process with a memory limit: its quantizer and its tokenizer.

A file can abort native code, and an abort ends a process. So a build calls `run_llama`, which starts
`python -P -m quantize.gguf_child`: the request is one JSON object on its standard input, the answer one on
its standard output.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgeops.errors import ArtifactError, ConfigError, EdgeopsError
from edgeops.processes import die_with_parent, limit_memory

MAX_MEMORY_BYTES = 4 << 30
# Rows that the quantizer holds at once. Its result does not depend on that.
_QUANTIZE_BUFFER_BYTES = 256 << 20


def run_llama(request: dict[str, Any], *, subject: str, memory_bytes: int = MAX_MEMORY_BYTES) -> Any:
    """Has a child do the `request`, `{"do": "quantize" or "tokenize", …}` with the arguments of the function
    of that name below, and returns what that does. `memory_bytes` bounds the child's private memory.

    Raises `ArtifactError` about `subject` when llama.cpp refuses it, or dies of it; `ConfigError` when
    llama.cpp is not installed.
    """
    done = subprocess.run(
        [sys.executable, "-P", "-m", "quantize.gguf_child", str(memory_bytes)],
        input=json.dumps(request).encode(),
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        raise _refused(subject, f"ends llama.cpp's process ({_how(done)})")
    answer = json.loads(done.stdout)
    if "config_error" in answer:
        raise ConfigError(**answer["config_error"])
    if "refused" in answer:
        raise _refused(subject, f"is refused by llama.cpp ({answer['refused']})")
    return answer["result"]


class _RefusedError(Exception):
    """llama.cpp said no."""


def quantize(*, source: str, target: str, file_type: int, threads: int, imatrix: str | None) -> None:
    """llama.cpp's own quantizer (`llama_model_quantize`), with the importances in the file `imatrix`."""
    from edgeops.engines.llama_library import forget_words, last_words, llama_library

    llama = llama_library()
    params = llama.llama_model_quantize_default_params()
    params.nthread = threads
    params.ftype = file_type
    params.max_buf_size = _QUANTIZE_BUFFER_BYTES
    if imatrix is not None:
        from quantize.gguf_imatrix import read_importances

        importances = read_importances(Path(imatrix))
        table = (llama.llama_model_imatrix_data * (len(importances) + 1))()  # its end is an entry of zeros
        for entry, (name, values) in zip(table, importances.items(), strict=False):
            entry.name, entry.size = name.encode(), values.size
            entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        params.imatrix = table
    forget_words()
    code = llama.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(params))
    if code != 0:
        raise _RefusedError(last_words() or f"status {code}")


def tokenize(*, source: str, texts: list[str]) -> dict[str, Any]:
    """`tokens` of each text, special ones parsed and none added; which tokens are `ends` of an answer; and
    whether one is put before a text and after it (`add_bos`, `add_eos`)."""
    from edgeops.engines.llama_library import (
        end_tokens,
        forget_words,
        last_words,
        llama_library,
        text_tokens,
    )

    llama = llama_library()
    params = llama.llama_model_default_params()
    params.vocab_only = True
    forget_words()
    model = llama.llama_model_load_from_file(source.encode(), params)
    if model is None:
        raise _RefusedError(last_words() or "it does not say why")
    vocab = llama.llama_model_get_vocab(model)
    tokens = [text_tokens(llama, vocab, text.encode()) for text in texts]
    if None in tokens:
        raise _RefusedError(f"the text {texts[tokens.index(None)][:40]!r} cannot be tokenized")
    return {
        "tokens": tokens,
        "ends": end_tokens(llama, vocab),
        "add_bos": bool(llama.llama_vocab_get_add_bos(vocab)),
        "add_eos": bool(llama.llama_vocab_get_add_eos(vocab)),
    }


def _refused(subject: str, why: str) -> ArtifactError:
    return ArtifactError(
        f"{subject} {why}.", remedy="Build it again, or choose another precision.", subject=subject
    )


def _how(done: subprocess.CompletedProcess[bytes]) -> str:
    said = " ".join(done.stderr.decode(errors="replace").split())[-200:].rstrip(".")
    code = done.returncode
    how = f"status {code}" if code > 0 else signal.strsignal(-code) or f"signal {-code}"
    return f"{how}: {said}" if said else how


def main(memory_bytes: int) -> None:
    """Answers one request. What native code prints goes to standard error, not into the answer."""
    die_with_parent()
    limit_memory(memory_bytes)
    answer_fd = os.dup(1)
    os.dup2(2, 1)
    request = json.load(sys.stdin)
    work: Callable[..., Any] = quantize if request.pop("do") == "quantize" else tokenize
    answer: dict[str, Any]
    try:
        answer = {"result": work(**request)}
    except _RefusedError as error:
        answer = {"refused": str(error)}
    except ConfigError as error:
        answer = {
            "config_error": {"message": error.message, "remedy": error.remedy, "subject": error.subject}
        }
    except EdgeopsError as error:
        answer = {"refused": error.message.rstrip(".")}
    with os.fdopen(answer_fd, "w") as file:
        json.dump(answer, file)


if __name__ == "__main__":
    main(int(sys.argv[1]))
