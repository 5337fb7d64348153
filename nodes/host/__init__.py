"""All that touches ComfyUI's models and samplers."""
