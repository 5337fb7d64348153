"""How much memory references may take beside what ComfyUI draws with, and what happens where there is none."""

from types import SimpleNamespace

import comfy.model_management as management
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from mmd_pack.mmd_core import KernelConfig
from mmd_pack.mmd_core.comparison import by_features as comparison
from mmd_pack.mmd_core.comparison import rows
from mmd_pack.nodes.guidance.run import guided_run
from mmd_pack.nodes.host.device_memory import COPIES
from mmd_pack.nodes.host.micro_batch import AT_ONCE, micro_batched
from mmd_tests.support.guided_runs import guided_draw, make_references
from mmd_tests.support.tiny_models import empty_latent, tiny_model

pytestmark = pytest.mark.comfy

GB = 2**30


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture
def gpu(monkeypatch):
    """ComfyUI's management as it speaks of a GPU: (free bytes), with a tenth of a GB always needed."""

    def tell(free):
        monkeypatch.setattr(management, "get_free_memory", lambda device=None: free)
        monkeypatch.setattr(management, "minimum_inference_memory", lambda: GB // 10)

    return tell


class Drawn:
    """Noise on a GPU that is not there."""

    def __init__(self, *shape, device="cuda"):
        self.shape, self.device = torch.Size(shape), torch.device(device)

    def __len__(self):
        return self.shape[0]


def asks(per_image=GB // 4):
    asked = []

    def memory_required(shape):
        asked.append(list(shape))
        return shape[0] * per_image

    return SimpleNamespace(memory_required=memory_required, asked=asked)


def room(*args):
    from mmd_pack.nodes.host.device_memory import room

    return room(*args)


def test_on_a_cpu_half_of_what_is_free(gpu):
    gpu(10 * GB)
    model = asks()
    assert room(model, Drawn(4, 4, 8, 8, device="cpu"), {}) == 5 * GB and model.asked == []


def test_on_a_gpu_what_drawing_leaves(gpu):
    """With and without prompt at once, as core may draw."""
    gpu(10 * GB)
    model = asks()
    own = COPIES * 4 * 4 * 4 * 8 * 8  # bytes that guidance needs for itself
    assert room(model, Drawn(4, 4, 8, 8), {}) == 10 * GB - 8 * GB // 4 - own
    assert model.asked == [[8, 4, 8, 8]]
    least = GB // 10  # that core keeps
    assert room(asks(1), Drawn(4, 4, 8, 8), {}) == 10 * GB - least - own


@pytest.mark.parametrize("batch, at_once", [(64, 4), (3, 4), (64, 64)])
def test_a_micro_batch_needs_less(batch, at_once, gpu):
    gpu(40 * GB)
    model = asks()
    free = room(model, Drawn(batch, 16, 1, 8, 8), {AT_ONCE: at_once})
    assert model.asked == [[2 * min(batch, at_once), 16, 1, 8, 8]]
    drawn = COPIES * 4 * batch * 16 * 8 * 8
    assert free == 40 * GB - 2 * min(batch, at_once) * GB // 4 - drawn
    twice = micro_batched(micro_batched(tiny_model(), 8), 4)
    assert twice.model_options["transformer_options"][AT_ONCE] == 4


def test_never_less_than_nothing(gpu):
    gpu(1 * GB)
    assert room(asks(), Drawn(64, 4, 8, 8), {}) == 0
    gpu(0)
    assert room(asks(), Drawn(1, 4, 8, 8), {}) == 0
    assert room(asks(), Drawn(1, 4, 8, 8, device="cpu"), {}) == 0


class Dynamic:
    """A model whose weights come to the GPU when they are used."""

    load_device = torch.device("cuda")

    def __init__(self, size, loaded, of=None):
        self.size, self.loaded, self.model = size, loaded, of or object()

    def is_dynamic(self):
        return True

    def model_size(self):
        return self.size

    def loaded_size(self):
        return self.loaded


@pytest.mark.parametrize("loaded", [0, GB, 3 * GB])
def test_under_dynamic_vram_it_is_the_same_whatever_weights_are_there(loaded, gpu, monkeypatch):
    """In a first run they come later; in a second they are there, and those of a VAE too."""
    vae, far = Dynamic(GB, loaded // 3), Dynamic(GB, GB)
    far.load_device = torch.device("cuda", 1)
    mine = Dynamic(3 * GB, loaded)
    both = [mine, vae, far, Dynamic(3 * GB, loaded, mine.model), SimpleNamespace()]
    monkeypatch.setattr(management, "loaded_models", lambda: both)
    gpu(10 * GB - loaded - loaded // 3)
    model = asks(1)
    model.current_patcher = mine
    own = COPIES * 4 * 4 * 4 * 8 * 8
    assert room(model, Drawn(4, 4, 8, 8), {}) == 10 * GB - 3 * GB - GB // 10 - own


def test_the_memory_estimate_of_a_real_model_is_used(gpu, model):
    gpu(10 * GB)
    assert 0 < room(model.model, Drawn(4, 4, 8, 8), {}) < 10 * GB


@pytest.fixture
def no_room(monkeypatch):
    """References are streamed one by one, and not even their inner products are kept."""
    budgets = []

    def none(*args):
        budgets.append(0)
        return 0.0

    def apply():
        monkeypatch.setattr(guided_run, "room", none)
        for name, value in {"STREAMED": 1, "HIGH": 1, "PART": 1, "HIGH_PART": 1}.items():
            monkeypatch.setattr(rows, name, value)
        monkeypatch.setattr(comparison, "ALWAYS", 0)
        return budgets

    return apply


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
@pytest.mark.parametrize("kernel", ["rbf", "energy", "polynomial"])
def test_without_room_the_same_images_are_drawn(kernel, sampler, model, no_room):
    references = make_references(n=20)
    options = {"kernel": KernelConfig(kernel), "sampler": sampler}
    expected, trace, _ = guided_draw(model, references, **options)
    budgets = no_room()
    found, other, _ = guided_draw(model, references, **options)
    assert budgets and ((found - expected).norm() / expected.norm()).item() < 1e-4
    assert other.runs[0].nearest == trace.runs[0].nearest
    assert other.runs[0].mmd2 == pytest.approx(trace.runs[0].mmd2, rel=1e-2, abs=1e-5)


def test_a_coupled_batch_of_64_is_drawn_by_a_network_of_4(model, no_room):
    """All 64 are compared together, whatever the network works on at once."""
    seen, guided = [], model.clone()

    def watch(executor, x, *args, **kwargs):
        seen.append(len(x))
        return executor(x, *args, **kwargs)

    guided.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "watch", watch)
    references, latent = make_references(n=20), empty_latent(64)
    whole, trace, _ = guided_draw(model, references, latent)
    no_room()
    parts, other, _ = guided_draw(guided, references, latent, micro_batch=4)
    assert other.runs[0].batch == 64 and max(seen) <= 8  # 4, with and without prompt
    assert ((parts - whole).norm() / whole.norm()).item() < 1e-3
