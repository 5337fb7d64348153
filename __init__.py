"""MMD Guidance: draw images distributed like a set of reference images.

@title: MMD Guidance
@nickname: MMD Guidance
@description: Any checkpoint draws images distributed like your pictures; nothing is trained.
"""

if __package__:  # empty when pytest imports the repository's root as a plain module
    from comfy_api.latest import ComfyExtension, io  # noqa: TID251

    from .nodes import NODES

    WEB_DIRECTORY = "./nodes/web"  # the help pages

    class MMDGuidanceExtension(ComfyExtension):
        async def get_node_list(self) -> list[type[io.ComfyNode]]:
            return NODES

    async def comfy_entrypoint() -> ComfyExtension:
        return MMDGuidanceExtension()
