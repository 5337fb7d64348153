"""The socket types of this pack, and the menu that its nodes share."""

from comfy_api.latest import io

CATEGORY = "MMD Guidance"

ReferenceSetSocket = io.Custom("MMD_REFERENCE_SET")  # carries image_folder.ReferenceSet
ReferencesSocket = io.Custom("MMD_REFERENCES")  # carries mmd_core.References
KernelSocket = io.Custom("MMD_KERNEL")  # carries mmd_core.KernelConfig
MemorySocket = io.Custom("MMD_MEMORY")  # carries memory_files.SharedMemory
TraceSocket = io.Custom("MMD_TRACE")  # carries trace.Trace
RewardSocket = io.Custom("TSMC_REWARD")  # carries a tsmc.reward.Reward
StateSocket = io.Custom("TSMC_STATE")  # carries tsmc.state.TSMCState
LoRASocket = io.Custom("LORA_MODEL")  # core's; from here a ddm.trained_lora.TrainedLoRA
LossSocket = io.Custom("LOSS_MAP")  # core's: {"loss": [...]}
