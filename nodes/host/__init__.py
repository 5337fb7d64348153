"""Adapters to ComfyUI's models, samplers, VAEs and memory management.

Open `micro_batch.py` first.
"""
