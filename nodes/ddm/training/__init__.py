"""One finetuning run, from its inputs to the LoRA's file."""
