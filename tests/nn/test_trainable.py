import copy

import numpy as np
import pytest
import torch
from ranks import on_two_ranks
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, AdamW
from torch.utils.flop_counter import FlopCounterMode

from assay.models.cnn import SmallCNN
from assay.models.mlp import MLP
from assay.models.resnet import ResNet, cifar_resnet
from assay.models.transformer import Transformer
from assay.nn.random_weights import add_random_weights
from assay.nn.trainable import freeze, trainable_only
from assay.optim.step_schedule import warmup_milestones


def trained(model):
    return {name for name, p in model.named_parameters() if p.requires_grad}


def small(width=4):
    torch.manual_seed(0)
    return cifar_resnet(8, width=width)


def data(size=16, dtype=torch.float32):
    draw = torch.Generator().manual_seed(1)
    return torch.randn(size, 3, 8, 8, generator=draw, dtype=dtype), torch.randint(10, (size,), generator=draw)


def steps(model, make, number=3):
    optimizer = make([p for p in model.parameters() if p.requires_grad])
    x, y = data()
    for _ in range(number):
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()


def test_reference_trajectory(vectors):
    data = np.load(vectors / "bn-only.npz", allow_pickle=False)
    depth, width = map(int, data["model_cfg"])
    lr, momentum, decay, milestone, factor, number = data["opt_cfg"]
    model = ResNet(depth, 10, width=width, shortcut="B").double()
    own = dict(model.named_parameters())
    names = [str(name).replace("fc.", "readout.") for name in data["param_names"]]
    assert sorted(names) == sorted(own)
    cuts = np.cumsum(data["param_sizes"])[:-1]

    def by_name(flat):
        return dict(zip(names, map(torch.from_numpy, np.split(data[flat], cuts)), strict=True))

    with torch.no_grad():
        for name, values in by_name("params0").items():
            own[name].copy_(values.view(own[name].shape))
    trainable_only(model)
    assert [own[name].requires_grad for name in names] == data["trainable"].tolist()
    optimizer = SGD([p for p in own.values() if p.requires_grad], lr, momentum, weight_decay=decay)
    schedule = warmup_milestones(optimizer, [int(milestone)], factor, warmup_steps=3)
    x, y = torch.from_numpy(data["x"]), torch.from_numpy(data["y"])
    for step in range(int(number)):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(data["lrs"][step], abs=1e-12)
        optimizer.zero_grad()
        loss = cross_entropy(model(x), y)
        assert loss.item() == pytest.approx(data["losses"][step], abs=1e-9)
        loss.backward()
        optimizer.step()
        schedule.step()
    for name, values in by_name("params1").items():
        exact = {} if own[name].requires_grad else {"rtol": 0, "atol": 0}
        tolerance = exact or {"rtol": 0, "atol": 1e-9}
        torch.testing.assert_close(own[name].detach().flatten(), values, **tolerance)
    for name, value in (("running_mean", model.bn.running_mean), ("running_var", model.bn.running_var)):
        torch.testing.assert_close(value, torch.from_numpy(data[f"{name}_stem"]), rtol=0, atol=1e-9)
    logits = model.eval()(x).detach()
    torch.testing.assert_close(logits, torch.from_numpy(data["eval_logits"]), rtol=0, atol=1e-9)


def test_counts_are_those_of_the_vectors(vectors):
    for depth, width, total, batchnorm, output, shortcuts in np.load(vectors / "bn-only.npz")["counts"].tolist():
        model = ResNet(depth, 10, width=width, shortcut="B")
        counts = {"all": total, "batchnorm": batchnorm, "output": output, "shortcuts": shortcuts}
        for part, wanted in counts.items():
            trainable_only(model, part)
            assert sum(p.numel() for p in model.parameters() if p.requires_grad) == wanted, (depth, width, part)


@pytest.mark.parametrize("depth", [14, 20])
def test_random_weights_are_as_many_as_batch_norm_has_parameters(depth):
    model = cifar_resnet(depth)
    add_random_weights(model)
    sizes = []
    for part in ("batchnorm", "random"):
        trainable_only(model, part)
        sizes.append(sum(p.numel() for p in model.parameters() if p.requires_grad))
    assert sizes[0] == sizes[1] == {14: 1120, 20: 1568}[depth]


@pytest.mark.parametrize(
    "make",
    [
        lambda p: SGD(p, 0.1, momentum=0.9, weight_decay=0.1),
        lambda p: AdamW(p, 0.1, weight_decay=0.5),
    ],
)
@pytest.mark.parametrize("held", ["trained", "all"])
def test_after_steps_only_batch_norm_has_changed(make, held):
    model = small()
    x, y = data()
    cross_entropy(model(x), y).backward()  # gradients left from before
    before = copy.deepcopy(model.state_dict())
    trainable_only(model)
    optimizer = make([p for p in model.parameters() if p.requires_grad or held == "all"])
    for _ in range(3):
        cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    statistics = {name for name in before if name.endswith(("running_mean", "running_var", "num_batches_tracked"))}
    assert changed == trained(model) | statistics
    assert all(name.split(".")[-2].startswith("bn") or ".shortcut.1." in name for name in trained(model))
    assert all((p.grad is None) for p in model.parameters() if not p.requires_grad)


def test_statistics_follow_the_mode_and_not_the_flags():
    model = small()
    x, _ = data()
    trainable_only(model, "output")
    before = copy.deepcopy(model.bn.state_dict())
    model.eval()(x)
    assert torch.equal(model.bn.running_mean, before["running_mean"])
    model.train()(x)
    assert not torch.equal(model.bn.running_mean, before["running_mean"])


def test_parts_of_a_resnet():
    model = small()
    names = {name for name, _ in model.named_parameters()}
    projections = {"blocks.1.shortcut.0.weight", "blocks.2.shortcut.0.weight"}
    readout = {"readout.weight", "readout.bias"}
    normal = {n for n in names if "bn" in n or "shortcut.1" in n}
    for select, wanted in {
        "batchnorm": normal, "norm": normal, "output": readout, "shortcuts": projections, "all": names,
        "others": names - normal - readout, "batchnorm/output/shortcuts": normal | readout | projections,
    }.items():  # fmt: skip
        assert trained(trainable_only(model, select).model) == wanted, select
    assert trainable_only(model, ["readout.*", "conv.weight"]).trained == [
        "conv.weight",
        "readout.weight",
        "readout.bias",
    ]
    assert trained(trainable_only(model, lambda name, p: p.ndim == 4).model) == {
        name for name, p in model.named_parameters() if p.ndim == 4
    }


def test_the_output_is_the_last_linear_layer_whatever_it_is_called():
    assert trainable_only(SmallCNN(), "output").trained == ["readout.weight", "readout.bias"]
    assert trainable_only(MLP((4, 3, 2)), "output").trained == ["layers.2.weight", "layers.2.bias"]
    tied = Transformer(width=8, depth=1, heads=2, context=4, tied=True)
    assert trainable_only(tied, "output").trained == ["embedding.weight"]


def test_layer_norm_counts_as_normalisation_where_asked():
    model = Transformer(width=8, depth=1, heads=2, context=4)
    names = trainable_only(model, "norm").trained
    assert names == [
        f"{layer}.{end}" for layer in ("blocks.0.norm1", "blocks.0.norm2", "norm") for end in ("weight", "bias")
    ]
    with pytest.raises(ValueError, match="must have parameters of part 'batchnorm' to train; it has norm, output"):
        trainable_only(model)


def test_flags_come_back_also_when_nested_and_after_an_error():
    model = small()
    model.conv.weight.requires_grad_(False)
    start = trained(model)
    with trainable_only(model, "batchnorm") as same:
        assert same is model
        inside = trained(model)
        with trainable_only(model, "all"):
            x, y = data()
            cross_entropy(model(x), y).backward()
            assert model.conv.weight.grad is not None
        assert trained(model) == inside
        assert model.conv.weight.grad is None
    assert trained(model) == start
    with pytest.raises(RuntimeError), trainable_only(model):
        raise RuntimeError
    assert trained(model) == start


def test_undoing_twice_leaves_what_came_between():
    model = small()
    frozen = trainable_only(model)
    frozen.undo()
    model.requires_grad_(False)
    assert frozen.undo() is model
    assert trained(model) == set()


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        ({}, "batchnorm"),
        ({"output": False}, "batchnorm/output"),
        ({"batchnorm": True, "output": False}, "output"),
        ({"batchnorm": True, "others": False}, "others"),
        ({"output": False, "others": False}, "all"),
    ],
)
def test_freezing_by_group_is_training_the_other_groups(flags, parts):
    assert freeze(small(), **flags).trained == trainable_only(small(), parts).trained


def test_exceptions_stay_trained():
    model = small()
    freeze(model, batchnorm=True, exceptions=["conv.weight"])
    assert trained(model) == {"conv.weight"}
    assert freeze(model, exceptions=["*.shortcut.0.*"]).trained == trainable_only(
        model, "batchnorm/shortcuts"
    ).trained  # fmt: skip


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: trainable_only(nn.Linear(2, 2)), "part 'batchnorm' to train; it has output, all"),
        (lambda: trainable_only(nn.BatchNorm1d(2, affine=False)), "it has none at all"),
        (lambda: trainable_only(small(), "random"), "part 'random'"),
        (lambda: trainable_only(small(), "batchnrom"), "select must be made of batchnorm, .*, got 'batchnrom'"),
        (lambda: trainable_only(small(), ["fc.*"]), r"'fc\.\*' fits no parameter; the first is \['conv.weight'\]"),
        (lambda: trainable_only(small(), []), "at least one parameter of ResNet, got none"),
        (lambda: freeze(small(), batchnorm=True), "at least one parameter of ResNet, got none"),
    ],
)
def test_what_leaves_nothing_to_train_is_refused(act, message):
    with pytest.raises(ValueError, match=message):
        act()


def test_a_third_of_a_steps_flops_is_saved():
    def flops(select):
        model = cifar_resnet(14)
        trainable_only(model, select)
        x, y = data(4)
        with FlopCounterMode(display=False) as counter:
            cross_entropy(model(x), y).backward()
        return counter.get_total_flops()

    # all layers cost forward = backward to inputs = backward to weights, but the stem has no backward to inputs
    assert flops("batchnorm") / flops("all") == pytest.approx(2 / 3, abs=0.01)


def test_autocast_in_bfloat16_gives_the_gradients_of_the_whole_network_in_float32():
    model, (x, y) = small(), data()
    whole = copy.deepcopy(model)
    trainable_only(model)
    for each in (model, whole):
        with torch.autocast("cpu", torch.bfloat16):
            logits = each(x)
            loss = cross_entropy(logits, y)
        assert logits.dtype == torch.bfloat16
        loss.backward()
    for ours, wanted in zip(model.parameters(), whole.parameters(), strict=True):
        if ours.requires_grad:
            assert ours.grad.dtype == torch.float32
            assert torch.equal(ours.grad, wanted.grad)  # what is frozen elsewhere is no matter to it
        else:
            assert ours.grad is None


@pytest.mark.skipif(hasattr(trainable_only, "__wrapped__"), reason="the checks of shapes break the graph")
def test_a_compiled_network_has_the_same_gradients():
    model = small()
    trainable_only(model)
    compiled = torch.compile(copy.deepcopy(model), backend="aot_eager", fullgraph=True)
    x, y = data()
    cross_entropy(model(x), y).backward()
    cross_entropy(compiled(x), y).backward()
    for ours, eager in zip(compiled.parameters(), model.parameters(), strict=True):
        assert (ours.grad is None) == (eager.grad is None)
        if eager.grad is not None:
            torch.testing.assert_close(ours.grad, eager.grad)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("select", ["batchnorm", "random"])
def test_cuda_equals_the_cpu(select):
    model = small().double()
    if select == "random":
        add_random_weights(model, generator=torch.Generator().manual_seed(0))
    trainable_only(model, select)
    other = copy.deepcopy(model).cuda()
    x, y = data(dtype=torch.float64)
    cross_entropy(model(x), y).backward()
    cross_entropy(other(x.cuda()), y.cuda()).backward()
    for ours, theirs in zip(other.parameters(), model.parameters(), strict=True):
        assert ours.requires_grad == theirs.requires_grad
        if theirs.grad is not None:
            torch.testing.assert_close(ours.grad.cpu(), theirs.grad)


def prepared(select):
    model = small()
    if select == "random":
        add_random_weights(model, generator=torch.Generator().manual_seed(0))
    trainable_only(model, select)
    trained_ = [p for p in model.parameters() if p.requires_grad]
    return model, SGD(trained_, 0.1, momentum=0.9, weight_decay=1e-2)


def _share(rank, selects):
    found = {}
    for select in selects:
        model, optimizer = prepared(select)
        parallel = nn.parallel.DistributedDataParallel(model)
        x, y = data()
        for _ in range(3):
            optimizer.zero_grad()
            cross_entropy(parallel(x[8 * rank : 8 * rank + 8]), y[8 * rank : 8 * rank + 8]).backward()
            optimizer.step()
        found[select] = {name: p.detach() for name, p in model.named_parameters()}
        try:
            trainable_only(parallel)
        except TypeError as error:
            found[f"{select}: wrapped"] = str(error)
    return found


def test_two_processes_train_the_same_part_as_one_with_the_joint_gradient(tmp_path):
    selects = ("batchnorm", "random")
    found = on_two_ranks(_share, tmp_path, selects)
    x, y = data()
    for select in selects:
        model, optimizer = prepared(select)
        start = {name: p.detach().clone() for name, p in model.named_parameters()}
        for _ in range(3):
            optimizer.zero_grad()
            for part in (slice(0, 8), slice(8, 16)):
                (cross_entropy(model(x[part]), y[part]) / 2).backward()
            optimizer.step()
        for name, parameter in model.named_parameters():
            for rank in found:
                if parameter.requires_grad:
                    torch.testing.assert_close(rank[select][name], parameter.detach())
                    assert not torch.equal(rank[select][name], start[name])
                else:
                    assert torch.equal(rank[select][name], start[name])
        assert "before it is wrapped" in found[0][f"{select}: wrapped"]
