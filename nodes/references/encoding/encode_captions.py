"""Encodes the captions of references to prompt features. Each distinct caption is encoded once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import comfy.model_management
import comfy.utils
import torch
from torch import Tensor

from ...host.fingerprint import clip_key, is_plain
from ...host.prompts import entry_feature
from .latent_cache import LatentCache, entry_key

if TYPE_CHECKING:
    from comfy.sd import CLIP


def encode_captions(clip: CLIP, captions: list[str], cache: LatentCache) -> Tensor:
    """The prompt feature of every caption, with shape `(N, E)`."""
    features, network = dict.fromkeys(captions), clip_key(clip)
    progress = comfy.utils.ProgressBar(len(features))
    for caption in features:
        comfy.model_management.throw_exception_if_processing_interrupted()
        tokens = clip.tokenize(caption)
        # The key uses the tokens, because a text may name an embedding file, which can change.
        known = network and is_plain(tokens)
        key = entry_key("caption", network, tokens) if known else ""
        entry = cache.read(key)
        if entry is None:
            (encoded, options), *_ = clip.encode_from_tokens_scheduled(tokens)
            entry = {"feature": entry_feature({"cross_attn": encoded, **options})[:1]}
            cache.write(key, entry)
        features[caption] = entry["feature"]
        progress.update(1)
    return torch.cat([features[caption] for caption in captions])
