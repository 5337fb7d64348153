"""The study of steering on digits inside ComfyUI's Python; started by digits.py, which knows the options."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from pathlib import Path

if not __package__:  # a script: name the packages as tests/conftest.py does
    sys.path.insert(0, str(Path(__file__).absolute().parents[2]))
    import support.packages  # noqa: F401


from mmd_tests.studies.quality import comfyui
from mmd_tests.studies.steering.digits_chain import TRUTH, DigitsChain, long_run
from mmd_tests.studies.steering.digits_figures import (
    WANTED_BY,
    ideal,
    of_method,
    of_samples,
    truth_of,
)
from mmd_tests.studies.steering.digits_methods import (
    OUT,
    best_of_n,
    fk_steering,
    plain_smc,
    tri_tsmc,
    tri_with_smc,
)
from mmd_tests.studies.steering.digits_options import make_parser
from mmd_tests.studies.steering.digits_report import report
from mmd_tests.studies.steering.digits_rewards import ClassReward, reference_reward, second_judge

QUICK_TRUTH = 4000


def make_reward(name: str, seed: int):
    return ClassReward() if name == "class" else reference_reward(seed)


def rows_of(chain: DigitsChain, name: str, seed: int, samples, known, settings: dict) -> list[dict]:
    """Figures of all methods on one seed; with the sets to be shown under `given`.

    Arguments:
        name: Of the reward.
        samples: Unsteered ones, that tell the truth.
        known: Their rewards, if these do not depend on the seed.
        settings: Of TRITSMCSampler, other than its defaults.
    """
    reward, wanted = make_reward(name, seed), WANTED_BY[name]
    tri, state = tri_tsmc(chain, seed, reward, **settings)
    truth = truth_of(state, samples, known)
    best = best_of_n(chain, seed, state)
    spent = {
        "best of 64": best,
        "FK steering": fk_steering(chain, state),
        "SMC, κ": plain_smc(chain, state),
        "TRI-TSMC": tri,
        "TRI-TSMC, smc": tri_with_smc(chain, seed, reward, **settings),
    }
    first = chain.unsteered(seed, OUT)
    rows = [
        {
            "method": "unsteered",
            **of_samples(chain, first, best.rewards[:OUT], truth, wanted),
            "given": first,
        }
    ]
    exact, drawn = ideal(chain, truth, samples, seed, wanted)
    rows.append({"method": "tilted model", **exact, "given": drawn})
    for method, found in spent.items():
        for way, figures in of_method(chain, found, state, truth, wanted).items():
            rows.append({"method": f"{method}: {way}", **figures, "given": found.given[way]})
    about = {"world": name, "seed": seed, "true log Z": truth.log_z, "its error": truth.error}
    about |= {"KL": truth.kl, "true mean": truth.mean}
    about["theta"] = [list(done.theta) for done in state.learning.summaries]
    about["spent"] = max(done.kl_spent for done in state.learning.summaries)
    return [{**about, **row} for row in rows]


def study(chain: DigitsChain, names, seeds, samples, settings: dict):
    """The rows of all rewards and seeds, as they come."""
    known = ClassReward()
    known = known.value(known.vae.decode(samples))
    for seed in seeds:
        for name in names:
            yield from rows_of(
                chain, name, seed, samples, known if name == "class" else None, settings
            )


def main() -> int:
    options = make_parser().parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    began, version = time.monotonic(), comfyui.start()
    logging.getLogger("mmd_guidance").setLevel(logging.ERROR)
    chain = DigitsChain(options.steps)
    samples = long_run(chain, options.out, QUICK_TRUTH if options.quick else TRUTH)
    seeds = range(options.first_seed, options.first_seed + (2 if options.quick else options.seeds))
    rows, shown = [], []
    for row in study(chain, ("class", "witness"), seeds, samples, json.loads(options.settings)):
        given = row.pop("given")
        if row["seed"] == seeds[0]:
            shown.append((row["world"], row["method"], given))
        rows.append(row)
        if row["method"] == "TRI-TSMC: best":
            sys.stderr.write(f"{row['seed']} {row['world']}: reward {row['reward']:.2f}\n")
    about = {
        "ComfyUI": version,
        "seeds": f"{seeds[0]} to {seeds[-1]}",
        "steps": chain.steps,
        "settings": options.settings,
        "unsteered paths for the truth": len(samples),
        "second judge": f"right on {second_judge().accuracy:.1%} of digits that it did not learn from",
        "minutes": round((time.monotonic() - began) / 60, 1),
    }
    (options.out / "digits.json").write_text(json.dumps({"about": about, "rows": rows}), "utf-8")
    text = report(about, rows)
    (options.out / "digits.md").write_text(text, "utf-8")
    sys.stdout.write(text)
    if options.sheet:
        from mmd_tests.studies.steering.digits_sheet import draw

        draw(shown, chain.case, options.sheet)
    return 0


if __name__ == "__main__":
    sys.exit(main())
