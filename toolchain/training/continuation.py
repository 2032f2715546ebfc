"""Sequence-level distillation (Kim and Rush, arXiv:1606.07947, section 3.2): what the teacher itself
writes, as more text to learn from. They take its beam search's best; here it is its greedy text, or a
sample."""

from __future__ import annotations

from typing import Any

import torch

BATCH = 16


def continued(
    teacher: Any, windows: torch.Tensor, *, samples: int, prompt_tokens: int, temperature: float, seed: int
) -> torch.Tensor:
    """Windows of the shape of `windows` (rows, tokens) that begin with the first `prompt_tokens` tokens of as
    many of them, drawn from `seed` (all, if `samples` is more), and go on with what the `teacher` writes:
    greedily at `temperature` 0, else sampled. It writes on past the ends of documents, as its text did."""
    chosen = torch.randperm(len(windows), generator=torch.Generator().manual_seed(seed))[:samples]
    prompts = windows[chosen.to(windows.device), :prompt_tokens]
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {}
    teacher.eval()
    torch.manual_seed(seed)
    written = []
    with torch.no_grad():
        for batch in torch.split(prompts, BATCH):
            text = teacher.generate(
                input_ids=batch,
                attention_mask=torch.ones_like(batch),
                max_new_tokens=windows.shape[1] - prompt_tokens,
                **({"do_sample": False} | sampling),
                eos_token_id=None,
                pad_token_id=0,
            )
            written.append(text)
    return torch.cat(written)
