"""The CLIP of a demo world: what core text nodes ask of one, and no more."""

from .catalog import World
from .vocabulary import word_indices, word_vector


class WordEncoder:
    """Turns prompts into multi-hot conditioning (1, 1, E) with the same vector pooled (1, E)."""

    def __init__(self, world: World):
        self.world = world

    def clone(self, **_ignored) -> "WordEncoder":
        return WordEncoder(self.world)

    def clip_layer(self, _layer: int) -> None:
        """There is only one layer."""

    def tokenize(self, text: str, return_word_ids: bool = False, **_ignored) -> dict:
        """Tokens in the shape of ComfyUI's: batches of (token, weight)."""
        return {"words": [[(index, 1.0) for index in word_indices(self.world, text)]]}

    def encode_from_tokens(self, tokens, return_pooled=False, return_dict=False):
        indices = [token[0] for batch in tokens["words"] for token in batch]
        pooled = word_vector(self.world, indices)[None]
        cond = pooled[None]
        if return_dict:
            return {"cond": cond, "pooled_output": pooled}
        return (cond, pooled) if return_pooled else cond

    def encode_from_tokens_scheduled(
        self, tokens, unprojected=False, add_dict=None, show_pbar=True
    ) -> list:
        cond, pooled = self.encode_from_tokens(tokens, return_pooled=True)
        return [[cond, {"pooled_output": pooled, **(add_dict or {})}]]

    def encode(self, text: str):
        return self.encode_from_tokens(self.tokenize(text))
