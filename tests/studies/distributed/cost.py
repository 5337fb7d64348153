"""The cost model of `mmd_core/comparison/workers.py`, as numbers."""

from typing import NamedTuple

__all__ = ["Call", "table"]

RATE = 10e12  # multiply-adds per second
BANDWIDTH = 25e9  # bytes per second


class Call(NamedTuple):
    """One model call of W workers.

    Arguments:
        workers: W.
        batch: Samples of each, b.
        rows: References and finished samples, M.
        dim: Numbers of a latent, D.
        substeps: Of the flow.
    """

    workers: int
    batch: int
    rows: int
    dim: int
    substeps: int = 12

    @property
    def total(self) -> int:
        """B."""
        return self.workers * self.batch

    def products(self) -> int:
        """Multiply-adds over D; each worker computes all."""
        return 2 * self.total * (self.rows + self.total) * self.dim

    def flow(self) -> int:
        """Multiply-adds of all sub-steps, at most; each worker computes all."""
        b, m = self.total, self.rows
        return self.substeps * (b * (m + b) * (m + 6 * b) + 11 * b**3)

    def received(self) -> int:
        """Bytes that each worker receives: x̂0 and x of all samples."""
        return 8 * self.total * self.dim


LATENTS = {"SD1.5": 4 * 64 * 64, "SDXL": 4 * 128 * 128, "Flux, SD3": 16 * 128 * 128}


def table(workers: int = 64, batch: int = 4) -> str:
    """What a call costs each worker, in Markdown."""
    lines = [
        f"{workers} workers with {batch} images each, {Call(1, 1, 1, 1).substeps} sub-steps; "
        f"{RATE / 1e12:g} T multiply-adds and {BANDWIDTH / 1e9:g} GB a second",
        "",
        "| | M | products | sub-steps | all-gather | a call |",
        "|---|---|---|---|---|---|",
    ]
    for name, dim in LATENTS.items():
        for rows in (500, 5000):
            call = Call(workers, batch, rows, dim)
            work = call.products() + call.flow()
            ms = 1e3 * (work / RATE + call.received() / BANDWIDTH)
            lines.append(
                f"| {name} | {rows} | {call.products() / 1e9:.1f} G | {call.flow() / 1e9:.1f} G "
                f"| {call.received() / 1e6:.1f} MB | {ms:.2f} ms |"
            )
    return "\n".join(lines)
