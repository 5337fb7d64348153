"""MMD-DDM: finetuning for few steps with an MMD loss, as nodes."""
