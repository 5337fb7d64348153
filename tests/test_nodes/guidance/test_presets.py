"""Presets: a name in place of strength and mode; `custom`, the default, leaves all as it was."""

import pytest
import torch
from mmd_pack.nodes.guidance.apply_mmd_guidance import ApplyMMDGuidance
from mmd_pack.nodes.guidance.mmd_guided_ksampler import MMDGuidedKSampler
from mmd_pack.nodes.guidance.run.presets import CUSTOM, PRESETS, chosen
from mmd_tests.support.guided_runs import apply, guided_draw, make_references
from mmd_tests.support.tiny_models import gaussian_family

pytestmark = pytest.mark.comfy
NODES = (ApplyMMDGuidance, MMDGuidedKSampler)


@pytest.fixture(scope="module")
def model():
    return gaussian_family("SD15")


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_draws_what_its_strength_and_mode_draw(model, preset):
    references = make_references()
    strength, mode = PRESETS[preset]
    named, trace, report = guided_draw(model, references, strength=1.0, mode="paper", preset=preset)
    plain, _, _ = guided_draw(model, references, strength=strength, mode=mode)
    assert torch.equal(named, plain)
    assert (trace.config.strength, trace.config.mode) == (strength, mode)
    assert f"strength {strength:g}" in report and mode in report
    _, other = apply(model, references, strength=1.0, mode="paper", preset=preset)
    assert (other.config.strength, other.config.mode) == (strength, mode)


@pytest.mark.parametrize("node", NODES)
def test_old_workflows_keep_their_meaning(node):
    """The input is the last, optional, and does nothing by default."""
    given = node.GET_SCHEMA().inputs[-1]
    assert (given.id, given.optional, given.default) == ("preset", True, CUSTOM)
    assert list(given.options) == [CUSTOM, *PRESETS]
    assert chosen("N", CUSTOM, 12.5, "official") == (12.5, "official")
    for name, (strength, mode) in PRESETS.items():  # shown with what they set
        assert f"{name}: {strength:g}, {mode}" in given.tooltip


def test_an_unknown_preset_is_refused_in_words():
    with pytest.raises(ValueError, match="MMDGuidedKSampler: preset has no 'strong': choose one"):
        chosen("MMDGuidedKSampler", "strong", 1.0, "flow")
