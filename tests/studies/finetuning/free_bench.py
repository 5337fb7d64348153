"""The study of samplers that need no training, inside ComfyUI's Python; started by free.py, which knows the options."""

from __future__ import annotations

import json
import logging
import platform
import sys
import time
from pathlib import Path

if not __package__:  # a script: name the packages as tests/conftest.py does
    sys.path.insert(0, str(Path(__file__).absolute().parents[2]))
    import support.packages  # noqa: F401

from mmd_tests.studies.finetuning.free import make_parser
from mmd_tests.studies.quality import comfyui

PAGE = Path(__file__).with_name("FREE.md")


def main() -> int:
    options = make_parser().parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    began, version = time.process_time(), comfyui.start()
    logging.disable(logging.INFO)
    import torch
    from mmd_tests.studies.finetuning import free_samplers as study
    from mmd_tests.studies.finetuning.digits_nodes import DigitsGraph
    from mmd_tests.studies.finetuning.digits_truths import real_digits
    from mmd_tests.studies.finetuning.free_report import page

    best, results = {}, {}
    with torch.inference_mode():  # as ComfyUI runs nodes
        graph = DigitsGraph(options.out)
        case = real_digits(study.SCREENING).case
        steps = {pair: study.steps_within(graph, case, *pair) for pair in study.all_pairs()}
        for prompts in study.PROMPTS:
            screened = list(study.screened(graph, prompts, steps))
            finals = list(study.finals(graph, prompts, screened))
            best[prompts] = study.chosen(finals)
            held_out = list(study.held_out(graph, prompts, best[prompts]))
            results[prompts] = {"screened": screened, "finals": finals, "held out": held_out}
            sys.stderr.write(f"prompts {prompts}: {time.process_time() - began:.0f} s\n")
            (options.out / "free.json").write_text(json.dumps(results), "utf-8")
    about = {
        "ComfyUI": version,
        "PyTorch": f"{torch.__version__}, {platform.machine()}, one thread",
        "tried": f"{len(steps)} pairs of a sampler and a schedule",
        "minutes of one core": f"{(time.process_time() - began) / 60:.0f}",
    }
    study.BEST.write_text(json.dumps(best, indent=1) + "\n", "utf-8")
    PAGE.write_text(page(about, results), "utf-8")
    sys.stdout.write(f"Written: {PAGE}, {study.BEST}, and all figures in {options.out}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
