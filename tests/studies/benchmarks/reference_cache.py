"""What the cache of EncodeReferenceLatents saves: python tests/studies/benchmarks/reference_cache.py

JPEG files are encoded by a VAE of SD 1.5's size with random weights, again, and once more with some
added. Times are those of the whole node, reading and hashing the files included, as ratios to the first run.
Bars: a second run takes less than 2 % of the first, and as many images are encoded as were added.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

if not __package__:  # a script: name the packages as tests/conftest.py does
    sys.path.insert(0, str(Path(__file__).absolute().parents[2]))
    import support.packages  # noqa: F401

import numpy as np
import torch
from mmd_tests.studies.benchmarks.comfyui import start_comfyui
from PIL import Image

BAR = 0.02


def random_vae():
    """A VAE that counts the images it encodes."""
    import comfy.sd
    from mmd_tests.support import random_checkpoint

    class CountingVAE(comfy.sd.VAE):
        encoded = 0

        def encode(self, pixels):
            CountingVAE.encoded += len(pixels)
            return super().encode(pixels)

    generator, prefix = torch.Generator().manual_seed(0), "first_stage_model."
    return CountingVAE({
        name.removeprefix(prefix): random_checkpoint.draw(name, shape, generator).float()
        for name, shape in random_checkpoint.shapes().items()
        if name.startswith(prefix)
    })  # fmt: skip


def write_picture(path: Path, number: int, size: int) -> None:
    """Clouds of color with some grain, as large a file as a photograph of that size."""
    generator = np.random.default_rng(number)
    small = Image.fromarray(generator.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    clouds = np.asarray(small.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32)
    pixels = clouds + generator.normal(0, 12, clouds.shape)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=92)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500, help="images of the first run")
    parser.add_argument("--added", type=int, default=10, help="images that the third run adds")
    parser.add_argument("--size", type=int, default=128, help="of the pictures, in pixels")
    options = parser.parse_args()
    start_comfyui()
    import folder_paths
    from mmd_pack.nodes.host import fingerprint
    from mmd_pack.nodes.references.encode_reference_latents import EncodeReferenceLatents
    from mmd_pack.nodes.references.folder.image_folder import ReferenceSet
    from mmd_pack.nodes.references.folder.lazy_image import FileImage

    vae, out = random_vae(), sys.stdout
    count, size = options.count, options.size

    def encode(paths):
        """The seconds that it takes, how many were encoded, and what comes of them."""
        n, before = len(paths), vae.encoded
        pictures = [FileImage(path, (size, size)) for path in paths]
        names = [path.name for path in paths]
        found = ReferenceSet(pictures, [""] * n, names, [1.0] * n, [])
        start = time.perf_counter()
        with torch.inference_mode():
            references, *_ = EncodeReferenceLatents.execute(
                [size], [size], ["crop"], vae=[vae], reference_set=[found]
            ).args
        return time.perf_counter() - start, vae.encoded - before, references.latents

    with tempfile.TemporaryDirectory() as folder:
        folder_paths.set_user_directory(folder)
        paths = [Path(folder) / f"{j}.jpg" for j in range(count + options.added)]
        for number, path in enumerate(paths):
            write_picture(path, number, size)
        encode(paths[-1:])  # warms up; another size is not needed, since it is removed again
        for entry in Path(folder).rglob("*.safetensors"):
            entry.unlink()
        runs = [encode(paths[:count]), encode(paths[:count]), encode(paths)]
        stored = [entry.stat().st_size for entry in Path(folder).rglob("*.safetensors")]
    out.write(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {size}² pixels\n\n")
    out.write("| run | images | encoded | time | × first |\n|---|---|---|---|---|\n")
    for name, n, (seconds, encoded, _) in zip(
        ("first", "second", "more"), (count, count, len(paths)), runs, strict=True
    ):
        out.write(f"| {name} | {n} | {encoded} | {seconds:.2f} s | {seconds / runs[0][0]:.4f} |\n")
    out.write(f"\nCache: {np.mean(stored) / 1e3:.1f} kB per image.\n")
    for judge in (fingerprint.vae_fingerprint, fingerprint.vae_key):
        start = time.perf_counter()
        judge(vae)
        out.write(f"{judge.__name__}: {1e3 * (time.perf_counter() - start):.1f} ms.\n")
    bars = {
        f"a second run takes less than {BAR:.0%} of the first": runs[1][0] < BAR * runs[0][0],
        "as many images are encoded as were added": [r[1] for r in runs]
        == [count, 0, options.added],
        "what comes from the cache is equal to the last bit": torch.equal(runs[0][2], runs[1][2]),
    }
    for bar, met in bars.items():
        out.write(f"{'Met' if met else 'MISSED'}: {bar}.\n")
    return not all(bars.values())


if __name__ == "__main__":
    sys.exit(main())
