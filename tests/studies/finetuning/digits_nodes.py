"""The graph that is studied: the pack's nodes and ComfyUI's own, with the learned model of digits."""

import time
from pathlib import Path

import torch
from mmd_demo.catalog import NUMBERS
from mmd_tests.studies.quality.methods import Drawn, counted
from mmd_tests.studies.quality.worlds import Case
from torch import Tensor

STEPS, MANY = 5, 50
BATCH, BATCHES = 130, 4  # images of one KSampler, a multiple of the ten prompts; so many seeds
REFERENCES = 1200
PART = 120  # of these at once
SCHEDULER = "karras"  # what the model was learned for
TRAINING = {"batch_size": 128, "learning_rate": 3e-3, "rank": 8, "targets": "all"}
PROPORTIONS = (3, 8, 3, 1, 3, 8, 3, 1, 3, 8)  # of the target 3/8/1


class DigitsGraph:
    """Each method is one or a few nodes.

    Arguments:
        output: ComfyUI's output folder, for the LoRAs.
        share: Of the updates that are asked for.
    """

    def __init__(self, output: Path, share: float = 1.0):
        import folder_paths
        from mmd_demo.worlds import load_world

        folder_paths.set_output_directory(str(output.absolute()))
        folder_paths.add_model_folder_path("loras", str(output.absolute() / "loras"))
        self.model, self.clip, _ = load_world("digits")
        self.share = share
        self.empty = self.prompt("")
        self.latent = {"samples": torch.zeros(1, 1, 8, 8)}

    def prompt(self, text: str):
        """CLIPTextEncode."""
        import nodes

        return nodes.CLIPTextEncode().encode(self.clip, text)[0]

    def prompts(self, digits=range(10)):
        """MMDPrompts: image i of a batch shows digit i mod 10."""
        from mmd_pack.nodes.ddm.mmd_prompts import MMDPrompts

        return MMDPrompts.execute(self.clip, "\n".join(NUMBERS[digit] for digit in digits))[0]

    def references(
        self, seed: int, positive=None, sampler: str = "euler", count: int = REFERENCES
    ):  # fmt: skip
        """MMDMakeReferences, 50 steps, cfg 1."""
        from mmd_pack.nodes.ddm.mmd_make_references import MMDMakeReferences

        return MMDMakeReferences.execute(
            self.model, positive or self.empty, self.empty, self.latent, count, MANY, 1.0, sampler, SCHEDULER, seed, PART
        )[0]  # fmt: skip

    def trained(
        self, name: str, references, seed: int, updates: int, positive=None, sampler: str = "euler",
        features: str = "latent", scheduler: str = SCHEDULER, steps: int = STEPS, **settings,
    ):  # fmt: skip
        """MMDTrainLoRA for few steps at cfg 1, MMDSaveLoRA, LoraLoaderModelOnly; and the seconds of the first."""
        from mmd_pack.nodes.ddm.mmd_save_lora import MMDSaveLoRA
        from mmd_pack.nodes.ddm.mmd_train_lora import MMDTrainLoRA

        import nodes

        started = time.process_time()
        lora, _, _, report, _ = MMDTrainLoRA.execute(
            model=self.model, positive=positive or self.empty, references=references, steps_per_sample=steps,
            sampler_name=sampler, scheduler=scheduler, cfg=1.0, micro_batch=TRAINING["batch_size"], features=features,
            iterations=max(2, round(self.share * updates)), seed=seed, gradient_checkpointing=False, autosave="",
            **{**TRAINING, **settings},
        ).result  # fmt: skip
        seconds = time.process_time() - started
        file = MMDSaveLoRA.execute(lora, f"loras/{name}", "float32", report)[0]
        return nodes.LoraLoaderModelOnly().load_lora_model_only(self.model, file, 1.0)[0], seconds

    def guided(self, model, references):
        """ApplyMMDGuidance with its defaults: flow, strength 100."""
        from mmd_pack.mmd_core import GuidanceConfig
        from mmd_pack.nodes.guidance.apply_mmd_guidance import ApplyMMDGuidance

        names = ("strength", "start_percent", "end_percent", "mode")
        usual = {name: getattr(GuidanceConfig(), name) for name in names}
        return ApplyMMDGuidance.execute(model=model, references=references, **usual)[0]

    def drawn(
        self, case: Case, model, seed: int, steps: int, positive=None, cfg: float = 1.0, sampler: str = "euler",
        scheduler: str = SCHEDULER, batch: int = BATCH, batches: int = BATCHES,
    ) -> Drawn:  # fmt: skip
        """KSampler, some batches; the seconds of one image on one core, without waiting for others."""
        import nodes

        model, calls = counted(model)
        empty = {"samples": torch.zeros(batch, *case.shape)}
        parts, seconds = [], []
        for noise in noise_seeds(seed)[:batches]:
            started = time.process_time()
            latent = nodes.KSampler().sample(
                model, noise, steps, cfg, sampler, scheduler, positive or self.empty, self.empty, empty
            )[0]  # fmt: skip
            seconds.append(time.process_time() - started)
            parts.append(latent["samples"])
        taken = sorted(seconds)[len(seconds) // 2] / batch
        return Drawn(case.samples(torch.cat(parts)), taken, sum(calls) / (batch * batches))


def noise_seeds(seed: int) -> list[int]:
    """Of the batches that are drawn to judge the training `seed`; no training up to seed + 9 has one of them."""
    return [seed + 10 * (1 + i) for i in range(BATCHES)]


def shown(drawn: Drawn, count: int = 20) -> Tensor:
    """The first images of a set, for the picture."""
    return drawn.samples[:count].clone()
