"""Small encoders: two with plain formulas, and two with random weights that ComfyUI takes for real ones."""

import torch

MIX = torch.tensor([[1.0, 2, 0], [0, 1, -1], [-2, 0, 1], [0.5, 0.5, 3]])


class TinyVAE:
    """Averages blocks of 8×8 pixels and mixes their colors into 4 channels."""

    def __init__(self, unit=8, video=False, fail=None):
        self.unit, self.video, self.fail = unit, video, fail
        self.seen = []

    def spacial_compression_encode(self):
        return self.unit

    def encode(self, pixels):
        assert pixels.shape[0] == 1 and pixels.shape[3] == 3
        self.seen.append(pixels.clone())
        if self.fail is not None and len(self.seen) == 2:
            if isinstance(self.fail, Exception):
                raise self.fail
            pixels = pixels * float("nan")
        small = torch.nn.functional.avg_pool2d(pixels.movedim(-1, 1) * 2 - 1, self.unit)
        latent = torch.einsum("nkhw,ck->nchw", small, MIX.to(small))
        return latent.unsqueeze(2) if self.video else latent


class TinyCLIP:
    """The feature of a text is the number of its letters and of its words."""

    def __init__(self):
        self.calls = []

    def tokenize(self, text):
        return text

    def encode_from_tokens_scheduled(self, tokens):
        self.calls.append(tokens)
        pooled = torch.tensor([[float(len(tokens)), float(len(tokens.split()))]])
        return [[torch.zeros(1, 3, 5), {"pooled_output": pooled}]]


def tiny_vae(seed: int = 0):
    """A VAE object of ComfyUI around an autoencoder that was never trained."""
    import comfy.sd
    import comfy.taesd.taesd as taesd

    torch.manual_seed(seed)
    model = taesd.TAESD(latent_channels=4)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.05) if weight.ndim > 1 else weight.data.fill_(0.01)
    return comfy.sd.VAE(sd=dict(model.state_dict()))


def tiny_clip(seed: int = 0, width: int = 16):
    """A CLIP object of ComfyUI with the tokenizer of SD 1.5 and one layer."""
    import comfy.sd
    import comfy.sd1_clip

    class Target:
        params = {}
        clip = comfy.sd1_clip.SD1ClipModel
        tokenizer = comfy.sd1_clip.SD1Tokenizer

    config = {
        "num_hidden_layers": 1, "hidden_size": width, "num_attention_heads": 1,
        "intermediate_size": width,
    }  # fmt: skip
    clip = comfy.sd.CLIP(Target, model_options={"clip_l_model_config": config})
    torch.manual_seed(seed)
    for weight in clip.cond_stage_model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return clip
