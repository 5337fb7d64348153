"""The socket types of this pack, and the menu categories of its nodes.

Each comment names the class of the value.
"""

from comfy_api.latest import io

REFERENCES = "MMD Guidance/references"
SAMPLING = "MMD Guidance/sampling"
LOOK = "MMD Guidance/look"
STEERING = "MMD Guidance/steering"
TRAINING = "MMD Guidance/training"

ReferenceSetSocket = io.Custom("MMD_REFERENCE_SET")  # references.folder.image_folder.ReferenceSet
ReferencesSocket = io.Custom("MMD_REFERENCES")  # mmd_core.References
KernelSocket = io.Custom("MMD_KERNEL")  # mmd_core.KernelConfig
MemorySocket = io.Custom("MMD_MEMORY")  # guidance.run.shared_memory.SharedMemory
TraceSocket = io.Custom("MMD_TRACE")  # guidance.run.trace.Trace
RewardSocket = io.Custom("TSMC_REWARD")  # tsmc.rewards.reward.Reward
StateSocket = io.Custom("TSMC_STATE")  # tsmc.run.state.TSMCState
LoRASocket = io.Custom("LORA_MODEL")  # core's type; ours: ddm.training.trained_lora.TrainedLoRA
LossSocket = io.Custom("LOSS_MAP")  # core's type: {"loss": [...]}
