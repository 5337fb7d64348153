"""Checks the inputs of EncodeReferenceLatents and converts them to one form."""

from typing import Any

import torch
from torch import Tensor

from ...base.counted import counted
from ...host.prompts import entry_feature
from ..folder.image_folder import ReferenceSet
from ..folder.lazy_image import TensorImage

NODE = "EncodeReferenceLatents"


def check_sources(**sources: list[Any] | None) -> None:
    """Checks that exactly one of the sources (lists or None) is connected.

    Raises:
        ValueError: None or more than one of them is connected.
    """
    given = [name for name, source in sources.items() if source]
    if len(given) > 1:
        raise ValueError(f"{NODE}: connect only one of {_list(given, 'and')}")
    if not given:
        raise ValueError(f"{NODE}: connect {_list(list(sources), 'or')}")


def _list(names: list[str], word: str) -> str:
    return f"{', '.join(names[:-1])} {word} {names[-1]}"


def gather_images(
    reference_set: list[ReferenceSet] | None, images: list[Tensor] | None
) -> ReferenceSet:
    """All connected images as one ReferenceSet.

    Arguments:
        reference_set: The reference sets, or None.
        images: IMAGE tensors. Only used if there is no `reference_set`.

    Raises:
        ValueError: There are no images, or `images` holds a tensor that is no IMAGE.
    """
    if not reference_set:
        for batch in images:
            if batch.ndim < 3 or batch.shape[-1] == 2:
                shape = tuple(batch.shape)
                raise ValueError(
                    f"{NODE}: images holds a tensor of shape {shape}, which is no image: connect "
                    "an IMAGE"
                )
        batches = [batch.reshape(-1, *batch.shape[-3:]) for batch in images]
        found = [TensorImage(image[None]) for batch in batches for image in batch]
        n = len(found)
        names = [f"image {j + 1}" for j in range(n)]
        reference_set = [ReferenceSet(found, [""] * n, names, [1.0] * n, [])]
    fields = ("images", "captions", "names", "weights", "skipped")
    joined = {f: [item for part in reference_set for item in getattr(part, f)] for f in fields}
    if not joined["images"]:
        raise ValueError(f"{NODE}: there are no images: connect at least one")
    return ReferenceSet(**joined)


def gather_latents(encoded: list[dict[str, Any]]) -> list[Tensor]:
    """The connected latents as a list, each with shape `(1, C, *, h, w)`; sizes may differ.

    Raises:
        ValueError: There are no latents, they are not latents of images, or they come from
            different models.
    """
    latents = []
    for latent in encoded:
        samples = latent.get("samples") if isinstance(latent, dict) else None
        if not isinstance(samples, Tensor) or samples.is_nested or samples.ndim < 4:
            raise ValueError(
                f"{NODE}: encoded holds no latents of images: connect latents from VAEEncode, "
                "MakeTrainingDataset or LoadTrainingDataset"
            )
        latents += [sample[None] for sample in samples]
    if not latents:
        raise ValueError(f"{NODE}: encoded is empty: connect at least one latent")
    kinds = sorted({tuple(latent.shape[1:-2]) for latent in latents})
    if len(kinds) > 1:
        raise ValueError(
            f"{NODE}: encoded holds latents of different models (channels and frames {kinds[0]} "
            f"and {kinds[1]}): connect latents from one VAE"
        )
    return latents


def one_each(captions: list[str], n: int, thing: str) -> list[str]:
    """The captions, one for each of `n` references; a single caption is repeated.

    Arguments:
        captions: The captions.
        n: The number of references.
        thing: What the references are, for errors: "image" or "latent".

    Raises:
        ValueError: The number of captions is neither 1 nor `n`.
    """
    if len(captions) not in (1, n):
        raise ValueError(
            f"{NODE}: {counted(len(captions), 'caption')} for {counted(n, thing)}: connect one "
            f"caption per {thing} to captions, or one for all"
        )
    return captions if len(captions) == n else captions * n


def conditioning_features(conditioning: list[list[Any]], batches: list[int]) -> Tensor:
    """The prompt feature of each reference, with shape `(N, E)`.

    Arguments:
        conditioning: CONDITIONING values: one for each connected LATENT or image, or one for each
            reference, or one for all. The CONDITIONING of several references has one prompt, or one
            per reference.
        batches: The number of references in each LATENT or image; their sum is N.

    Raises:
        ValueError: The number of conditionings or prompts does not fit, a conditioning is empty, or
            the features have different sizes (from different text encoders).
    """
    n = sum(batches)
    if len(conditioning) == len(batches):
        wanted = batches
    else:
        wanted = [n] if len(conditioning) == 1 else [1] * n
    if len(conditioning) != len(wanted):
        raise ValueError(
            f"{NODE}: {counted(len(conditioning), 'conditioning')} for "
            f"{counted(n, 'reference')}: connect one per reference to conditioning, or one for all"
        )
    features = [
        [entry_feature({**options, "cross_attn": tokens}) for tokens, options in entries]
        for entries in conditioning
    ]
    if len({f.shape[1] for entries in features for f in entries}) != 1:
        raise ValueError(
            f"{NODE}: conditioning is empty or comes from different text encoders: encode all "
            "captions with the clip of the checkpoint that draws"
        )
    strengths = [[float(o.get("strength", 1.0)) for _, o in entries] for entries in conditioning]
    return torch.cat(list(map(_per_reference, features, strengths, wanted)))


def _per_reference(features: list[Tensor], strengths: list[float], batch: int) -> Tensor:
    """One feature per reference from the entries of one CONDITIONING, with shape `(batch, E)`."""
    # Combined prompts for one reference: the mean weighted by strength, as in sampling.
    if batch == 1 and len(features) > 1:
        pairs = zip(features, strengths, strict=True)
        return sum(f.mean(0, keepdim=True) * s for f, s in pairs) / (sum(strengths) or 1.0)
    rows = sum(map(len, features))
    if rows not in (1, batch):
        raise ValueError(
            f"{NODE}: a conditioning with {counted(rows, 'prompt')} for "
            f"{counted(batch, 'reference')}: connect one prompt per reference, or one for all"
        )
    return torch.cat(features).expand(batch, -1)
