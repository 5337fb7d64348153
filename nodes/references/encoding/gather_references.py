"""Checks the inputs of EncodeReferenceLatents and converts them to one form."""

import torch
from torch import Tensor

from ...host.prompts import entry_feature
from ..folder.image_folder import ReferenceSet
from ..folder.picture import TensorPicture

NODE = "EncodeReferenceLatents"


def check_sources(**sources) -> None:
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


def gather_pictures(reference_set, images) -> ReferenceSet:
    """All connected pictures as one ReferenceSet. `images` is used only if there is no `reference_set`.

    Arguments:
        reference_set: A list of ReferenceSet, or None.
        images: A list of IMAGE tensors, or None.

    Raises:
        ValueError: There are no pictures, or `images` holds a tensor that is no IMAGE.
    """
    if not reference_set:
        for batch in images:
            if batch.ndim < 3 or batch.shape[-1] == 2:
                shape = tuple(batch.shape)
                raise ValueError(f"{NODE}: images holds no images but {shape}: connect an IMAGE")
        batches = [batch.reshape(-1, *batch.shape[-3:]) for batch in images]
        pictures = [TensorPicture(image[None]) for batch in batches for image in batch]
        n = len(pictures)
        names = [f"image {j + 1}" for j in range(n)]
        reference_set = [ReferenceSet(pictures, [""] * n, names, [1.0] * n, [])]
    fields = ("pictures", "captions", "names", "weights", "skipped")
    joined = {f: [item for part in reference_set for item in getattr(part, f)] for f in fields}
    if not joined["pictures"]:
        raise ValueError(f"{NODE}: there are no images: connect at least one")
    return ReferenceSet(**joined)


def gather_latents(encoded: list[dict]) -> list[Tensor]:
    """The connected latents as a list, each with shape `(1, C, *, h, w)`; sizes may differ.

    Raises:
        ValueError: There are no latents, they are not latents of images, or they come from different models.
    """
    latents = []
    for latent in encoded:
        samples = latent.get("samples") if isinstance(latent, dict) else None
        if not isinstance(samples, Tensor) or samples.is_nested or samples.ndim < 4:
            raise ValueError(
                f"{NODE}: encoded holds no latents of images: connect those that VAEEncode, "
                "MakeTrainingDataset or LoadTrainingDataset made of images"
            )
        latents += [sample[None] for sample in samples]
    if not latents:
        raise ValueError(f"{NODE}: encoded is empty: connect at least one latent")
    kinds = sorted({tuple(latent.shape[1:-2]) for latent in latents})
    if len(kinds) > 1:
        raise ValueError(
            f"{NODE}: encoded holds latents of different models ({kinds[0]} and {kinds[1]} channels "
            "or frames): connect latents that one VAE made"
        )
    return latents


def one_each(captions: list[str], n: int, things: str) -> list[str]:
    """The captions, one for each of `n` references; a single caption is repeated.

    Raises:
        ValueError: The number of captions is neither 1 nor `n`.
    """
    if len(captions) not in (1, n):
        trouble = f"{len(captions)} captions for {n} {things}"
        raise ValueError(f"{NODE}: {trouble}: connect one per image to captions, or one for all")
    return captions if len(captions) == n else captions * n


def conditioning_features(conditioning: list[list], batches: list[int]) -> Tensor:
    """The prompt feature of each reference, with shape `(N, E)`.

    Arguments:
        conditioning: A list of CONDITIONING values: one for each connected LATENT or image, or one for each
            reference, or one for all. The CONDITIONING of several references has one prompt, or one per reference.
        batches: The number of references in each LATENT or image; their sum is N.

    Raises:
        ValueError: The number of conditionings or prompts does not fit, a conditioning is empty, or the
            features have different sizes (from different text encoders).
    """
    n = sum(batches)
    if len(conditioning) == len(batches):
        wanted = batches
    else:
        wanted = [n] if len(conditioning) == 1 else [1] * n
    if len(conditioning) != len(wanted):
        raise ValueError(
            f"{NODE}: {len(conditioning)} conditionings for {n} references: connect one per reference "
            "to conditioning, or one for all"
        )
    features = [
        [entry_feature({**options, "cross_attn": tokens}) for tokens, options in entries]
        for entries in conditioning
    ]
    if len({f.shape[1] for entries in features for f in entries}) != 1:
        raise ValueError(
            f"{NODE}: conditioning is empty or comes from different text encoders: connect that of the "
            "checkpoint that draws"
        )
    strengths = [[float(o.get("strength", 1.0)) for _, o in entries] for entries in conditioning]
    return torch.cat(list(map(_per_reference, features, strengths, wanted)))


def _per_reference(features: list[Tensor], strengths: list[float], batch: int) -> Tensor:
    """The features of the entries of one CONDITIONING, as one per reference, with shape `(batch, E)`."""
    if (
        batch == 1 and len(features) > 1
    ):  # combined prompts: mean weighted by strength, as in sampling
        pairs = zip(features, strengths, strict=True)
        return sum(f.mean(0, keepdim=True) * s for f, s in pairs) / (sum(strengths) or 1.0)
    rows = sum(map(len, features))
    if rows not in (1, batch):
        raise ValueError(
            f"{NODE}: a conditioning with {rows} prompts for {batch} references: connect one prompt per "
            "reference to conditioning, or one for all"
        )
    return torch.cat(features).expand(batch, -1)
