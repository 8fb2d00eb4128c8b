"""Traced costs against real steps: saved tensors, peak memory of a process, and operations counted by hand."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from network_plans import kinds, network_plan
from torch import Tensor, nn

from autoseg3d.cost import measure_speed, trace_cost, training_dtype
from autoseg3d.cost.speed import explained, undisturbed
from autoseg3d.cost.trace import Autocast, LiveBytes, trace
from autoseg3d.errors import UsageError
from autoseg3d.losses import DeepSupervisionLoss
from autoseg3d.networks import build
from planners.budget import NetworkCost
from planners.contract import Triple
from planners.labels import label_table
from planners.plan import NetworkPlan
from planners.speed import Speed, Work

ARCHITECTURES = ["unet", "resenc", "vnet"]
DTYPES = [torch.float32, torch.bfloat16]


def cost(plan: NetworkPlan, patch: Triple, *, batch: int = 2, dtype: torch.dtype = torch.float32, device: str = "cpu") -> NetworkCost:
    return trace_cost(plan, patch_size=patch, batch_size=batch, in_channels=1, num_classes=3, device=device, dtype=dtype)


def really_saved(network: nn.Module, x: Tensor, dtype: torch.dtype) -> int:
    """Bytes that autograd holds after a real forward pass, each storage once, parameters left out."""
    own = {p.untyped_storage().data_ptr() for p in network.parameters()}
    saved: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t), torch.autocast("cpu", torch.bfloat16, enabled=dtype != torch.float32):
        outputs = network(x)
    assert outputs
    return sum(t.untyped_storage().nbytes() for key, t in saved.items() if key not in own)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["isotropic", "anisotropic", "2d", "two stages", "single output"])
def test_kept_bytes_are_those_of_a_real_forward_pass(architecture: str, dtype: torch.dtype, kind: str) -> None:
    patch, plan = kinds(architecture)[kind]
    patch = (patch[0] if kind == "2d" else 4 * patch[0], 2 * patch[1], 2 * patch[2])
    real = really_saved(build(plan, 1, 3), torch.randn(2, 1, *patch), dtype)
    assert cost(plan, patch, dtype=dtype).kept_bytes == pytest.approx(real, rel=0.02)


def test_operations_counted_by_hand() -> None:
    plan = network_plan("unet", [4, 8], strides=[(1, 1, 1), (2, 2, 2)], blocks=[1, 1], decoder_blocks=[1])
    fine, coarse = 8 * 8 * 8, 4 * 4 * 4
    products = fine * 27 * 1 * 4 + coarse * 27 * 4 * 8 + coarse * 8 * 8 * 4 + fine * 27 * 8 * 4 + fine * 4 * 3
    assert cost(plan, (8, 8, 8), batch=1).forward_flops == 2 * products
    assert cost(plan, (8, 8, 8), batch=3).forward_flops == 6 * products
    assert cost(plan, (8, 8, 8), dtype=torch.bfloat16).forward_flops == 4 * products


def test_activations_by_hand() -> None:
    # Per unit autograd keeps what enters the norm and what leaves the activation, and the head's and the first layer's input.
    plan = network_plan("unet", [4, 8], blocks=[1, 1], decoder_blocks=[1])
    fine, coarse = 8 * 8 * 8, 4 * 4 * 4
    values = fine * 1 + 2 * fine * 4 + 2 * coarse * 8 + fine * 8 + 2 * fine * 4
    statistics = 2 * (4 + 8 + 4)
    assert cost(plan, (8, 8, 8), batch=1).kept_bytes == 4 * (values + statistics)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_parameters_and_what_is_held_per_parameter(architecture: str) -> None:
    patch, plan = kinds(architecture)["isotropic"]
    arguments = {"patch_size": patch, "batch_size": 2, "in_channels": 1, "num_classes": 3, "device": "cuda", "dtype": torch.float32}
    plain = trace_cost(plan, **arguments)  # type: ignore[arg-type]
    assert plain.parameters == sum(p.numel() for p in build(plan, 1, 3).parameters())
    adam = trace_cost(plan, **arguments, optimizer="adamw")  # type: ignore[arg-type]
    averaged = trace_cost(plan, **arguments, averaged=True)  # type: ignore[arg-type]
    assert adam.training_bytes - plain.training_bytes == 4 * plain.parameters
    assert averaged.training_bytes - plain.training_bytes == 4 * plain.parameters
    assert plain.training_bytes > plain.kept_bytes + 8 * plain.parameters
    assert plain.inference_bytes < plain.training_bytes


def test_more_work_costs_more() -> None:
    plan = network_plan("unet", [8, 16, 32])
    base = cost(plan, (16, 16, 16))
    for other in (cost(plan, (16, 16, 16), batch=3), cost(plan, (16, 16, 20)), cost(network_plan("unet", [12, 16, 32]), (16, 16, 16))):
        assert other.forward_flops > base.forward_flops
        assert other.kept_bytes > base.kept_bytes
        assert other.training_bytes > base.training_bytes
        assert other.inference_bytes > base.inference_bytes
    assert cost(plan, (16, 16, 16), dtype=torch.bfloat16).training_bytes < base.training_bytes


def test_equal_questions_are_answered_from_memory() -> None:
    plan = network_plan("unet", [4, 8, 8])
    first = cost(plan, (16, 16, 24))
    start = time.process_time()
    again = cost(NetworkPlan.model_validate_json(plan.to_json()), (16, 16, 24))
    assert again == first
    assert time.process_time() - start < 0.02


def test_a_trace_of_six_stages_is_quick() -> None:
    plan = network_plan("unet", [32, 64, 128, 256, 320, 320])
    cost(plan, (64, 64, 64))  # imports what torch loads lazily
    start = time.process_time()
    traced = cost(plan, (128, 128, 128), dtype=torch.bfloat16)
    assert time.process_time() - start < 1  # 0.1 s where nothing else runs
    assert traced.kept_bytes == pytest.approx(3.64e9, rel=0.01)
    assert traced.parameters == pytest.approx(31.2e6, rel=0.01)


def test_neither_traces_nor_the_probe_import_torchs_compiler(repository_root: Path) -> None:
    """It takes a second, a fifth of planning."""
    program = (
        "import sys, torch\nfrom network_plans import kinds\nfrom autoseg3d.cost import measure_speed, trace_cost\n"
        "measure_speed('cpu', seconds=0)\n"
        "for patch, plan in (kind for architecture in ('unet', 'resenc') for kind in kinds(architecture).values()):\n"
        "    trace_cost(plan, patch_size=patch, batch_size=2, in_channels=2, num_classes=3, device='cpu', dtype=torch.bfloat16)\n"
        "print('torch._dynamo' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", program], cwd=repository_root / "tests", capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_operations_without_numbers_have_the_types_and_shapes_of_real_ones() -> None:
    """The short ways of a trace, each against the same operation on real tensors."""
    ways = (
        lambda x, y: torch.cat((x, y), 1),
        lambda x, y: torch.cat((x.bfloat16(), y), -1),
        lambda x, y: torch.stack((x, y), 1),
        lambda x, y: torch.stack((x, y), -1),
        lambda x, y: x + y.long(),
        lambda x, y: x[:, :1] * y,
        lambda x, y: (x > 0) & (y > 0),
        lambda x, y: x.bfloat16().clamp_(min=0),
        lambda x, y: torch.where(x > 0, x, 0.0),
        lambda x, y: x.bfloat16().log_softmax(1, dtype=torch.float32),
        lambda x, y: x.bfloat16().log_softmax(1),
        lambda x, y: x.mean(),
        lambda x, y: x.bfloat16().mean(dtype=torch.float32),
        lambda x, y: x.clone().add_(y[:, :1]),
    )
    x, y = torch.randn(2, 3, 4, 5, 6), torch.randn(2, 3, 4, 5, 6)
    for way in ways:
        with LiveBytes([], reorder=0):
            played = way(x.to("meta"), y.to("meta"))
        assert (played.shape, played.dtype) == (way(x, y).shape, way(x, y).dtype)


def test_many_classes_are_traced_as_well() -> None:
    plan = network_plan("unet", [4, 8, 8])
    few, many = (trace_cost(plan, patch_size=(16, 16, 16), batch_size=2, in_channels=1, num_classes=n, device="cpu") for n in (2, 60))
    voxels = 2 * 16**3
    assert many.training_bytes - few.training_bytes > 58 * voxels * 4  # the probabilities, in float32
    assert trace_cost(plan, patch_size=(16, 16, 16), batch_size=2, in_channels=1, num_classes=1, device="cpu").parameters < few.parameters


def test_what_cannot_be_built_is_refused() -> None:
    plan = network_plan("unet", [4, 8, 8])
    with pytest.raises(UsageError, match="divisible by"):
        cost(plan, (16, 16, 18))
    with pytest.raises(UsageError, match="unknown name"):
        cost(network_plan("missing", [4, 8]), (16, 16, 16))


def test_the_global_random_state_stays() -> None:
    torch.manual_seed(5)
    wanted = torch.rand(2)
    torch.manual_seed(5)
    cost(network_plan("unet", [5, 7]), (8, 8, 8))
    assert torch.equal(torch.rand(2), wanted)


@contextmanager
def following() -> Iterator[LiveBytes]:
    with torch.device("meta"), LiveBytes([], reorder=0.5) as live:
        yield live


def test_live_bytes_count_births_and_deaths() -> None:
    with following() as live:
        a = torch.empty(1000)
        b = a.view(10, 100)  # no storage of its own
        assert live.now == live.peak == 4000
        c = a + b.flatten()
        c += 1
        assert live.now == 8000
        del a, b
        assert (live.now, live.peak) == (4000, 8000)
        del c
        assert (live.now, live.peak) == (0, 8000)


def test_convolutions_are_given_working_memory() -> None:
    with following() as live:
        x, w = torch.empty(1, 2, 4, 4, 4), torch.empty(3, 2, 1, 1, 1)
        y = torch.nn.functional.conv3d(x, w)
        tensors = 4 * (2 * 64 + 6 + 3 * 64)
        assert (live.now, live.peak) == (tensors, tensors + tensors // 2)
        assert live.flops == 2 * 64 * 6
    assert y.shape == (1, 3, 4, 4, 4)


def test_autocast_is_played_on_the_meta_device() -> None:
    with torch.device("meta"):
        layer, x = nn.Conv3d(1, 2, 1), torch.empty(1, 1, 2, 2, 2)
        with LiveBytes([*layer.parameters()], reorder=0) as live, Autocast(torch.bfloat16):
            outputs = [layer(x), layer(x)]
            weights, inputs, results = 2 * (2 + 2), 2 * 2 * 8, 2 * 2 * 16
            assert live.now == weights + inputs + results  # the weights are copied once, the input for each layer that takes it
        with Autocast(torch.float32):
            assert layer(x).dtype == torch.float32
    assert [y.dtype for y in outputs] == [torch.bfloat16] * 2


def test_norms_without_scale_can_be_traced() -> None:
    with torch.device("meta"):
        norm, x = nn.GroupNorm(2, 4, affine=False), torch.empty(1, 4, 2, 2, 2, requires_grad=True)
        with LiveBytes([], reorder=0):
            norm(x).sum().backward()
    assert x.grad is not None
    assert x.grad.shape == x.shape


STEP = """
import ctypes, json, sys, torch
sys.path[:0] = json.loads(sys.argv[1])
from network_plans import network_plan
from autoseg3d.losses import DeepSupervisionLoss
from autoseg3d.losses import DeepSupervisionLoss
from autoseg3d.networks import build
from planners.labels import label_table

def status(name):
    return next(int(row.split()[1]) * 1024 for row in open("/proc/self/status") if row.startswith(name))

def run(architecture, features, patch, batch, reduced):
    plan = network_plan(architecture, features)
    network, table = build(plan, 1, 3), label_table({"background": 0, "a": 1, "b": 2})
    loss = DeepSupervisionLoss(table, batch_dice=True, num_outputs=len(features) - 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.99, nesterov=True, fused=True)
    image = torch.randn(batch, 1, *patch)
    target = (image[:, 0] > 0).to(torch.int16)
    for _ in range(2):
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=reduced):
            outputs = network(image)
        loss(outputs, target).backward()
        optimizer.step()
    best = [p.detach().clone() for p in network.parameters()]

torch.set_num_threads(1)
for reduced in (False, True):
    run("unet", [4, 4], [8, 8, 8], 2, reduced)  # loads code that is not the step's memory
for subject in json.loads(sys.argv[2]):
    ctypes.CDLL(None).malloc_trim(0)
    open("/proc/self/clear_refs", "w").write("5")
    before = status("VmRSS")
    run(*subject)
    print(status("VmHWM") - before)
"""
PEAKS: list[tuple[str, list[int], Triple, int, bool]] = [
    ("unet", [16, 32, 64], (32, 48, 64), 2, True),
    ("resenc", [16, 32, 64], (24, 48, 48), 2, False),
    ("vnet", [8, 16, 32], (32, 48, 48), 2, True),
]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory can be reset on Linux only")
def test_peak_memory_of_real_steps(repository_root: Path) -> None:
    paths = json.dumps([str(repository_root), str(repository_root / "tests")])
    done = subprocess.run([sys.executable, "-c", STEP, paths, json.dumps(3 * PEAKS)], capture_output=True, text=True, check=True)
    peaks = [int(line) for line in done.stdout.splitlines()]
    # The same step's peak varies by a tenth and more, as its heap happens to be cut up: the median of three is compared.
    for i, subject in enumerate(PEAKS):
        architecture, features, patch, batch, reduced = subject
        dtype = torch.bfloat16 if reduced else torch.float32
        forecast = cost(network_plan(architecture, features), patch, batch=batch, dtype=dtype).training_bytes / 2**20
        real = statistics.median(peaks[i :: len(PEAKS)]) / 2**20
        assert forecast == pytest.approx(real, rel=0.35), f"{subject}: forecast {forecast:.0f} MiB, real {real:.0f} MiB"


GPU_PLANS: list[tuple[str, list[int], Triple, int]] = [
    ("unet", [32, 64, 128, 256, 320], (96, 96, 96), 2),
    ("unet", [32, 64, 128, 256, 320, 320], (64, 192, 160), 2),
    ("unet", [32, 64, 128, 256], (48, 56, 40), 9),
    ("unet", [16, 32, 64, 128], (128, 128, 128), 4),
    ("resenc", [32, 64, 128, 256, 320], (96, 96, 96), 2),
    ("resenc", [32, 64, 128, 256, 320, 320], (64, 128, 128), 3),
    ("vnet", [16, 32, 64, 128, 256], (96, 96, 96), 2),
    ("vnet", [16, 32, 64, 128], (64, 128, 128), 2),
]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("subject", GPU_PLANS, ids=lambda subject: f"{subject[0]}-{'x'.join(map(str, subject[2]))}")
def test_peak_memory_on_a_gpu(subject: tuple[str, list[int], Triple, int]) -> None:
    architecture, features, patch, batch = subject
    plan, table = network_plan(architecture, features), label_table({"background": 0, "a": 1, "b": 2})
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    network = build(plan, 1, 3).to("cuda")
    loss = DeepSupervisionLoss(table, batch_dice=True, num_outputs=len(features) - 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.99, nesterov=True, fused=True)
    image = torch.randn(batch, 1, *patch, device="cuda")
    target = (image[:, 0] > 0).to(torch.int16)
    for _ in range(3):
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16):
            outputs = network(image)
        loss(outputs, target).backward()
        optimizer.step()
    real = torch.cuda.max_memory_allocated() - before
    assert cost(plan, patch, batch=batch, dtype=torch.bfloat16, device="cuda").training_bytes == pytest.approx(real, rel=0.15)


def test_the_peak_is_never_below_what_is_kept_and_its_gradients() -> None:
    for architecture in ARCHITECTURES:
        for patch, plan in kinds(architecture).values():
            seen = trace(plan, patch_size=patch, batch_size=2, in_channels=1, num_classes=3, dtype=torch.bfloat16, reorder=0)
            assert seen.step_bytes >= seen.kept_bytes
            assert seen.step_bytes >= 4 * seen.parameters  # all gradients live at the end
            assert seen.inference_bytes < seen.step_bytes


def test_precision_by_device() -> None:
    assert training_dtype("mps") == torch.float32
    assert training_dtype("cpu") in DTYPES
    if not torch.cuda.is_available():
        assert training_dtype("cuda") == torch.bfloat16


def test_the_probe_gives_a_speed_a_computer_may_have() -> None:
    speed = measure_speed("cpu", seconds=0)
    assert speed.flops_per_second > 1e8
    assert speed.overhead_seconds < 1
    traced = trace_cost(network_plan("unet", [16, 32]), patch_size=(64, 64, 64), batch_size=2, in_channels=1, num_classes=2, device="cpu")
    assert 1e-3 < speed.step_seconds(traced.work) < 1e3
    assert measure_speed("cpu", seconds=0) is speed


def test_a_speed_is_found_from_steps_that_obey_it() -> None:
    works = [Work(1e6, 1e6), Work(1e9, 1e9), Work(5e10, 1e9)]
    true = Speed(flops_per_second=3e11, bytes_per_second=8e9, overhead_seconds=0.02)
    found = explained(works, [true.step_seconds(work) for work in works])
    for name in ("flops_per_second", "bytes_per_second", "overhead_seconds"):
        assert getattr(found, name) == pytest.approx(getattr(true, name), rel=1e-6)


def test_noise_never_makes_a_rate_negative() -> None:
    works = [Work(1e6, 1e6), Work(1e9, 1e9), Work(5e10, 1e9)]
    for seconds in ([0.01, 0.2, 0.1], [0.5, 0.1, 0.1], [0.001, 0.0005, 1.0]):
        found = explained(works, seconds)
        assert min(found.flops_per_second, found.bytes_per_second) > 0
        assert found.overhead_seconds >= 0


def test_other_programs_do_not_slow_the_forecast() -> None:
    # Two processors, four fifths of whose time a step uses: alone 0.5 s; beside others it waits.
    assert undisturbed([(0.5, 0.8), (1.1, 0.82), (0.9, 0.85)]) == pytest.approx(0.5)
    assert undisturbed([(1.0, 1.0), (3.0, 0.99)]) == pytest.approx(0.99)


def test_moved_bytes_by_hand() -> None:
    with following() as live:
        a = torch.empty(1000)  # written
        b = a * 2  # read and written
        b.view(10, 100)  # neither
        b += a  # two read, one written
    assert live.moved == 4000 * (1 + 2 + 3)
    plan = network_plan("unet", [4, 8, 8])
    one, two = cost(plan, (16, 16, 16), batch=1), cost(plan, (16, 16, 16), batch=2)
    assert one.moved_bytes < two.moved_bytes < 2 * one.moved_bytes  # the weights are moved once
