"""Prompts as rows of one CONDITIONING, so that images of one batch have different prompts."""

from typing import Any

import torch
from torch import Tensor


def as_rows(prompts: list[list]) -> list:
    """One CONDITIONING whose rows are the prompts.

    Arguments:
        prompts: One CONDITIONING for each prompt. Their tokens have the same length, and what else
            belongs to them has the same shapes. A single one may be of any kind.
    """
    if len(prompts) == 1:
        return prompts[0]
    entries = [prompt[0] for prompt in prompts]
    options = {
        name: torch.cat([each[name] for _, each in entries]) if isinstance(value, Tensor) else value
        for name, value in entries[0][1].items()
    }
    return [[torch.cat([tokens for tokens, _ in entries]), options]]


def alike(a: list, b: list) -> bool:
    """Whether two prompts, as rows of one CONDITIONING, act as each of them does alone.

    Arguments:
        a: A CONDITIONING of one prompt.
        b: Another one.
    """
    if len(a) != 1 or len(b) != 1:  # scheduled prompts have one entry for each range of steps
        return False
    (x, of_a), (y, of_b) = a[0], b[0]
    return (
        x.shape == y.shape
        and of_a.keys() == of_b.keys()
        and "attention_mask" not in of_a  # some models count the tokens of all its rows as one
        and all(_alike(of_a[name], of_b[name]) for name in of_a)
    )


def _alike(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.ndim > 1 and len(a) == 1 and a.shape == b.shape
    return a is b or (isinstance(a, int | float | str) and a == b)
