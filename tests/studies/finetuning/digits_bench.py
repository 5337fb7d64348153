"""The study of finetuning on digits inside ComfyUI's Python; started by digits.py, which knows the options."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import platform
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

if not __package__:  # a script: name the packages as tests/conftest.py does
    sys.path.insert(0, str(Path(__file__).absolute().parents[2]))
    import support.packages  # noqa: F401


from mmd_tests.studies.finetuning.digits_options import make_parser
from mmd_tests.studies.finetuning.digits_report import page
from mmd_tests.studies.finetuning.digits_studies import STUDIES, TUNING_SEED
from mmd_tests.studies.quality import comfyui

QUICK = 0.2  # of the updates
PAGE = Path(__file__).with_name("DIGITS.md")


def rows_of(name: str, seed: int, out: Path, share: float) -> list[dict]:
    """The rows of one study and seed, in a process of its own."""
    comfyui.start()
    logging.getLogger("mmd_guidance").setLevel(logging.ERROR)
    import torch
    from mmd_tests.studies.finetuning.digits_nodes import DigitsGraph

    with torch.inference_mode():  # as ComfyUI runs nodes
        found = list(STUDIES[name](DigitsGraph(out, share), seed))
    for row in found:
        if "given" in row:
            row["given"] = row["given"].tolist()
    return [{"study": name, "seed": seed, **row} for row in found]


def all_rows(options) -> list[dict]:
    """Of all studies and seeds; those of one study in the order of seeds."""
    first = TUNING_SEED if options.quick else options.first_seed
    seeds = range(first, first + (1 if options.quick else options.seeds))
    tasks = [(name, seed) for name in STUDIES for seed in seeds]
    share, rows = QUICK if options.quick else 1.0, {}
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as pool:
        futures = {pool.submit(rows_of, *task, options.out, share): task for task in tasks}
        for done, future in enumerate(as_completed(futures), 1):
            rows[futures[future]] = future.result()
            name, seed = futures[future]
            sys.stderr.write(f"[{done}/{len(tasks)}] {name} {seed}\n")
    return [row for task in tasks for row in rows[task]]


def main() -> int:
    options = make_parser().parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    options.out.mkdir(parents=True, exist_ok=True)
    began, version = time.monotonic(), comfyui.start()
    import torch

    rows = all_rows(options)
    about = {
        "ComfyUI": version,
        "PyTorch": f"{torch.__version__}, {platform.machine()}, {options.jobs} processes with one thread each",
        "seeds": ", ".join(str(seed) for seed in dict.fromkeys(row["seed"] for row in rows)),
        "minutes": f"{(time.monotonic() - began) / 60:.0f}, {of_cpu():.0f} of one core, while others used the machine",
    }
    (options.out / "digits.json").write_text(json.dumps({"about": about, "rows": rows}), "utf-8")
    from mmd_tests.studies.finetuning.digits_sheet import draw

    target = options.out / "DIGITS.md" if options.quick else PAGE
    target.write_text(page(about, rows, by_hand(PAGE)), "utf-8")
    draw(rows, target.with_name("digits.png"))
    sys.stdout.write(
        f"Written: {target}, digits.png beside it, and figures and LoRAs in {options.out}\n"
    )
    return 0


def of_cpu() -> float:
    """The minutes that the processes worked, without waiting for other programs; 0 on Windows."""
    spent = os.times()
    return sum(spent[:4]) / 60


def by_hand(file: Path) -> str:
    """What of the page was written by a human, from its heading "Reading" on."""
    text = file.read_text("utf-8") if file.exists() else ""
    return text[text.index("## Reading") :] if "## Reading" in text else "## Reading\n"


if __name__ == "__main__":
    sys.exit(main())
