"""Three small worlds with learned diffusion models, for the demo and the tests only."""

if __package__:  # a test runner may open this file on its own

    async def comfy_entrypoint():
        """Called by ComfyUI; imported late so that training and judging run without ComfyUI."""
        from .nodes import DemoExtension

        return DemoExtension()
