"""Pictures for EncodeReferenceLatents, and the node as ComfyUI calls it."""

import torch
from mmd_tests.support.tiny_encoders import TinyVAE


def pictures(*sizes, seed=0):
    """One picture with 8-bit values per `(width, height)`, each with shape `(1, height, width, 3)`."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randint(0, 256, (1, height, width, 3), generator=generator) / 255
        for width, height in sizes
    ]


def run(vae=None, width=32, height=24, fit="crop", **inputs):
    from mmd_pack.nodes.references.encode_reference_latents import EncodeReferenceLatents

    lists = {
        name: value if isinstance(value, list) else [value]
        for name, value in inputs.items()
        if value is not None
    }
    vae = TinyVAE() if vae is None else vae
    return EncodeReferenceLatents.execute([width], [height], [fit], vae=[vae], **lists).args


def reference_set(images, **options):
    from mmd_pack.nodes.references.folder.image_folder import ReferenceSet
    from mmd_pack.nodes.references.folder.lazy_image import TensorImage

    n = len(images)
    options = {
        "captions": [""] * n,
        "names": [f"{j}.png" for j in range(n)],
        "weights": [1.0] * n,
        "skipped": [],
        **options,
    }
    return ReferenceSet(list(map(TensorImage, images)), **options)
