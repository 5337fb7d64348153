"""An interrupt ends a guided run: counted by the work that is still done after it."""

import comfy.model_management as management
import pytest
import torch
from mmd_pack.mmd_core import Latents
from mmd_pack.nodes.guidance.run import make_guidance
from mmd_tests.support.guided_runs import guided_draw, make_references
from mmd_tests.support.products import Products
from mmd_tests.support.tiny_models import empty_latent, tiny_model

pytestmark = pytest.mark.comfy


@pytest.fixture
def interrupt():
    yield management.interrupt_current_processing
    management.interrupt_current_processing(False)


@pytest.mark.parametrize("nth", [3, 30])
def test_a_large_batch_stops_within_two_products(interrupt, nth):
    batch, n, products = 32, 6, None

    def after(count):
        if count == nth:
            products.work = 0
            interrupt()

    products = Products(after)
    with pytest.raises(management.InterruptProcessingException), products:
        guided_draw(tiny_model(), make_references(n), empty_latent(batch), steps=2)
    assert products.work <= 2.1 * batch * (batch + n) * 4 * 8 * 8 / 2
    assert products.count <= nth + 4


def test_references_stop_being_prepared(interrupt, monkeypatch):
    read = []

    class Counted(Latents):
        def pieces(self, *args):
            for which, piece in super().pieces(*args):
                read.append(which)
                if len(read) == 2:
                    interrupt()
                yield which, piece

    monkeypatch.setattr(make_guidance, "Latents", Counted)
    references = make_references(64, (4, 64, 64))
    with pytest.raises(management.InterruptProcessingException):
        guided_draw(tiny_model(), references, empty_latent(1, side=64), steps=1)
    assert len(read) == 2


def test_without_an_interrupt_the_run_ends(interrupt):
    samples, _, _ = guided_draw(tiny_model(), make_references(), empty_latent(8), steps=1)
    assert torch.isfinite(samples).all()
