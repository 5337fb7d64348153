"""The settings of a training."""

import math

import pytest
from mmd_pack.mmd_core.ddm import DDMConfig


def test_decay_of_the_learning_rate():
    rates = {
        decay: [DDMConfig(iterations=4, lr_decay=decay).rate(i) for i in range(4)]
        for decay in ("linear", "cosine", "constant")
    }
    assert rates["linear"] == pytest.approx([1, 0.75, 0.5, 0.25])
    assert rates["cosine"] == pytest.approx([1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2])
    assert rates["constant"] == [1, 1, 1, 1]


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"batch_size": 1}, "batch_size must be at least 2, not 1"),
        ({"micro_batch": 0}, "micro_batch must be at least 1, not 0"),
        ({"iterations": 0}, "iterations must be at least 1"),
        ({"rank": 0}, "rank must be at least 1"),
        ({"validate_every": 0}, "validate_every must be at least 1"),
        ({"grad_last_k": -1}, "grad_last_k must be at least 0"),
        ({"patience": -1}, "patience must be at least 0"),
        ({"drift_penalty": -0.1}, "drift_penalty must be at least 0"),
        ({"drift_penalty": math.nan}, "drift_penalty must be at least 0, not nan"),
        ({"grad_clip": math.inf}, "grad_clip must be at least 0, not inf"),
        ({"alpha": -1.0}, "alpha must be at least 0"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"learning_rate": math.nan}, "learning_rate must be above 0"),
        ({"learning_rate": math.inf}, "learning_rate must be above 0"),
        ({"ema": 1.0}, "ema must be at least 0 and below 1, not 1.0"),
        ({"ema": -0.1}, "ema must be at least 0"),
        ({"ema": math.nan}, "ema must be at least 0"),
        ({"lr_decay": "exponential"}, "unknown lr_decay 'exponential': choose one of linear, "),
        ({"targets": "some"}, "unknown targets 'some': choose one of all, "),
        ({"features": "clip"}, "unknown features 'clip': choose one of latent, "),
        ({"keep": "worst"}, "unknown keep 'worst': choose one of best, "),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        DDMConfig(**settings)
