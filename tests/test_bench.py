"""`pyconv bench`: its table of shapes, its own check of results, its peers, and a run of it all."""

import itertools
import json
import os
import sys
from dataclasses import replace

import numpy as np
import oracle
import pytest

from pyconv import functional
from pyconv.bench import cli, layers, machine, measure, reference, shapes, threads
from pyconv.bench.problem import LARGEST, Problem, sample

TABLE = shapes.load()
SHAPES = {shape.name: shape for section in TABLE.values() for shape in section}
PROBLEMS = [Problem(shape, direction) for shape in SHAPES.values()
            for direction in shape.directions]
QUICK_FLOPS = 2e9


def last_line(err):
    """The error; a note that the machine is busy may stand before it."""
    return err.splitlines()[-1]


# ------------------------------------------------------------------------------------- the table


def test_table_has_its_sections_and_no_name_twice():
    assert set(TABLE) == {"layers", "small", "extra"}
    assert len(SHAPES) == sum(map(len, TABLE.values()))
    assert {shape.kind for shape in TABLE["layers"]} == {"conv", "pool"}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=lambda shape: shape.name)
def test_sizes_and_pads_are_the_oracle_s(shape):
    height, width = oracle.geometry(
        shape.x, shape.window, shape.stride, shape.padding, shape.dilation)
    assert shape.out == (height[0], width[0])
    assert shape.pads == (height[1:], width[1:])


@pytest.mark.parametrize("shape", [s for s in SHAPES.values() if s.kind == "conv"],
                         ids=lambda shape: shape.name)
def test_every_sum_of_the_table_is_exact_in_float32(shape):
    terms = max(np.prod(shape.y[:3]), np.prod(shape.window) * max(shape.w[2:]))
    assert terms * LARGEST**2 < 2**24


def test_work_is_counted():
    assert SHAPES["cifar2"].flops == 2 * 64 * 32 * 32 * 32 * (3 * 3 * 32)
    assert SHAPES["depth3"].flops == 2 * 64 * 28 * 28 * 32 * (3 * 3)
    pool = SHAPES["cifar_pool2"]
    assert pool.bytes_moved("avg_forward") == 4 * (64 * 32 * 32 * 32 + 64 * 16 * 16 * 32)
    assert pool.bytes_moved("max_backward") == 4 * (64 * 32 * 32 * 32 + 2 * 64 * 16 * 16 * 32)


@pytest.mark.parametrize(("entry", "reason"), [
    ("x = [1, 8, 8, 3], w = [3, 3, 4, 8]", "do not fit"),
    ("x = [1, 2, 2, 3], w = [3, 3, 3, 8]", "empty"),
    ("x = [1, 8, 8, 3]", "w"),
    ("x = [1, 8, 8, 3], w = [3, 3, 3, 8], strides = 2", "strides"),
    ("x = [1, 8", "TOML"),
])
def test_a_wrong_table_is_an_error_that_says_where(tmp_path, entry, reason):
    path = tmp_path / "mine.toml"
    path.write_text(f"[layers.conv]\nmine = {{ {entry} }}\n")
    with pytest.raises(ValueError, match=rf"mine\.toml.*{reason}"):
        shapes.load(path)


# ------------------------------------------------------------------------------------- the check


SMALL_CONV = [
    SHAPES["small_conv"],
    shapes.ConvShape("strided", (2, 6, 7, 4), (2, 2), "same", (1, 1), (3, 3, 2, 6), 2),
    shapes.ConvShape("dilated", (1, 7, 6, 2), (1, 1), 1, (2, 2), (2, 3, 2, 3), 1),
]
SMALL_POOL = [
    SHAPES["small_pool"],
    shapes.PoolShape("overlapping", (2, 5, 6, 3), (2, 1), 1, (1, 1), (3, 3)),
]


@pytest.mark.parametrize("shape", SMALL_CONV, ids=lambda shape: shape.name)
def test_reference_convolves_as_the_oracle(shape):
    p = Problem(shape, "forward")
    options = {"stride": shape.stride, "padding": shape.padding, "dilation": shape.dilation,
               "groups": shape.groups}
    np.testing.assert_array_equal(
        reference.conv_forward(shape, p.x, p.w, p.b), oracle.conv2d(p.x, p.w, p.b, **options))
    dx, dw, db = oracle.conv2d_backward(p.dy, p.x, p.w, **options)
    np.testing.assert_array_equal(reference.conv_dx(shape, p.dy, p.w), dx)
    gradients = reference.conv_dw(shape, p.x, p.dy)
    taps, values = gradients["dw"]
    np.testing.assert_array_equal(values, dw[taps])
    np.testing.assert_array_equal(gradients["db"][1], db)


@pytest.mark.parametrize("shape", SMALL_POOL, ids=lambda shape: shape.name)
def test_reference_pools_as_the_oracle(shape):
    p = Problem(shape, "max_forward")
    options = {"stride": shape.stride, "padding": shape.padding}
    y, indices = oracle.max_pool2d(p.x, shape.window, **options)
    np.testing.assert_array_equal(reference.max_forward(shape, p.x), (y, indices))
    np.testing.assert_array_equal(
        reference.max_backward(shape, p.x, p.dy),
        oracle.max_pool2d_backward(p.dy, indices, shape.x))
    np.testing.assert_allclose(
        reference.avg_forward(shape, p.x), oracle.avg_pool2d(p.x, shape.window, **options),
        rtol=1e-6)
    np.testing.assert_allclose(
        reference.avg_backward(shape, p.dy),
        oracle.avg_pool2d_backward(p.dy, shape.x, shape.window, **options), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("problem", [
    p for p in PROBLEMS if p.shape.kind == "pool" or p.shape.flops <= QUICK_FLOPS], ids=str)
def test_every_shape_is_right_and_the_same_on_any_threads(problem):
    errors = measure.check(problem, {count: problem.call(count) for count in (1, 2, 3)})
    assert max(errors.values()) <= reference.WINOGRAD_ERROR


@pytest.mark.parametrize("problem", [
    Problem(SHAPES[f"small_{kind}"], direction)
    for kind, cls in (("conv", shapes.ConvShape), ("pool", shapes.PoolShape))
    for direction in cls.directions], ids=str)
@pytest.mark.parametrize("bad", [1.0, float("nan")])
def test_check_finds_one_wrong_value(problem, bad):
    want, allowed = reference.expected(problem), reference.tolerance(problem)
    result = {name: array.copy() for name, array in
              problem.named(problem.call(1)()).items()}
    reference.check(result, want, allowed, "as it is")
    for name in [name for name in result if name != "indices"]:
        wrong = result[name].copy()
        wrong.reshape(-1)[-1] += bad
        with pytest.raises(reference.WrongResultError, match=f"{name} is wrong: at "):
            reference.check(result | {name: wrong}, want, allowed, "spoilt")


def test_check_finds_wrong_indices_shapes_and_missing_arrays():
    problem = Problem(SHAPES["small_pool"], "max_forward")
    want = reference.expected(problem)
    y, indices = problem.call(1)()
    with pytest.raises(reference.WrongResultError, match="indices is wrong"):
        reference.check({"y": y, "indices": indices + 1}, want, 0.0, "spoilt")
    with pytest.raises(reference.WrongResultError, match="has shape"):
        reference.check({"y": y[:, 1:], "indices": indices}, want, 0.0, "spoilt")
    with pytest.raises(reference.WrongResultError, match="expected"):
        reference.check({"y": y}, want, 0.0, "spoilt")


def test_check_finds_bits_that_depend_on_threads():
    problem = Problem(SHAPES["small_conv"], "forward")
    y = problem.call(1)()
    nearly = np.nextafter(y, np.float32(np.inf))
    with pytest.raises(reference.WrongResultError, match="other bits"):
        measure.check(problem, {1: lambda: y, 2: lambda: nearly})


def test_a_wrong_kernel_stops_the_benchmark(monkeypatch, capsys):
    right = functional.conv2d
    monkeypatch.setattr(functional, "conv2d", lambda *args, **named: 2 * right(*args, **named))
    assert cli.main(["layers", "--small", "--direction", "forward"]) == 1
    out, err = capsys.readouterr()
    assert last_line(err).startswith("pyconv bench: small_conv forward, threads=")
    assert "y is wrong" in err
    assert "small_conv" not in out


# ---------------------------------------------------------------------------------------- a run


def test_smallest_case_runs_from_end_to_end(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    report, picture = tmp_path / "small.json", tmp_path / "small.png"
    assert cli.main(["layers", "--small", "--threads", "1,2", "--rounds", "2",
                     "--json", str(report), "--plot", str(picture)]) == 0
    out = capsys.readouterr().out
    written = json.loads(report.read_text())
    assert [(row["name"], row["direction"], row["threads"]) for row in written["rows"]] == [
        (shape.name, direction, count) for shape in TABLE["small"]
        for direction in shape.directions for count in (1, 2)]
    for row in written["rows"]:
        assert row["seconds"] == min(row["rounds"]) > 0
        assert len(row["rounds"]) == 2
        assert row["ratio"] is None
    assert written["machine"]["cpu"]
    assert written["fma_peak_gflops"].keys() == {"1", "2"}
    assert all(name in out for name in ("small_conv", "small_pool", "max_backward"))
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_threads_prints_what_more_threads_bring(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "threads.png"
    assert cli.main(["threads", "--only", "cifar2", "--direction", "forward", "--threads", "2,1",
                     "--rounds", "1", "--plot", str(picture)]) == 0
    out = capsys.readouterr().out
    assert "ms on 1" in out
    assert "convolutions above 20 MFLOP, 2 threads" in out
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_chosen_is_one_line(capsys):
    assert cli.main(["layers", "--only", "cifar2,lenet9"]) == 1
    assert last_line(capsys.readouterr().err).startswith(
        "pyconv bench: --only: the table has no lenet9; it has signs1, ")
    assert cli.main(["layers", "--small", "--json", "/nowhere/at/all.json"]) == 1
    assert "no folder" in capsys.readouterr().err
    assert cli.main(["layers", "--small", "--only", "small_pool", "--direction", "dx"]) == 1
    assert "no layer chosen has" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [
    ["--direction", "sideways"], ["--threads", "0"], ["--threads", "two"], ["--rounds", "-1"],
    ["--peer", "abacus"]])
def test_wrong_usage_is_status_2(wrong):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["layers", *wrong])
    assert stopped.value.code == 2


def test_machine_describes_itself():
    facts = machine.describe()
    assert facts["cpu"] and facts["compiler"] and facts["isa"] in ("baseline", "v3", "v4")
    assert machine.fma_peak(1) > 0.1
    assert machine.region_seconds(1) == 0.0


# -------------------------------------------------------------------------------------- the peer


def test_a_missing_peer_is_a_message_and_no_error(monkeypatch, tmp_path, capsys):
    small = ["layers", "--small", "--rounds", "1", "--direction", "forward", "--peer", "torch"]
    assert cli.main([*small, "--peer-python", str(tmp_path / "python")]) == 0
    assert "without torch: cannot start" in capsys.readouterr().err
    (tmp_path / "torch.py").write_text("raise ImportError('no torch here')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert cli.main([*small, "--peer-python", sys.executable]) == 0
    out, err = capsys.readouterr()
    assert "no torch here; choose a Python that has it" in err
    assert "small_conv" in out


@pytest.fixture
def fake_peer(tmp_path, monkeypatch):
    """`fake_peer(answers)`: make `--peer torch` a process that gives them, whatever it is asked."""

    def install(answers):
        script = tmp_path / "peer.py"
        lines = [json.dumps({"name": "Fake", "version": "1"}), *map(json.dumps, answers)]
        script.write_text(
            f"import sys\nfor line in {lines!r}:\n"
            "    print(line, flush=True)\n    sys.stdin.readline()\n"
            "sys.exit('nothing more to say')\n")
        monkeypatch.setitem(cli.SCRIPTS, "torch", script)
        return ["layers", "--small", "--only", "small_conv", "--direction", "forward",
                "--threads", "1", "--peer", "torch", "--peer-python", sys.executable]

    return install


def small_sample():
    y = Problem(SHAPES["small_conv"], "forward").call(1)()
    return sample(y, 20).tolist()


def test_the_peer_is_timed_in_turns_and_its_best_layout_counts(fake_peer, tmp_path, capsys):
    times = [{"seconds": seconds} for seconds in (4.0, 2.0, 3.0, 5.0)]
    command = fake_peer([{"layouts": ["a", "b"], "sample": small_sample()}, *times])
    report = tmp_path / "report.json"
    assert cli.main([*command, "--rounds", "2", "--json", str(report)]) == 0
    [row] = json.loads(report.read_text())["rows"]
    assert row["peer_rounds"] == {"a": [4.0, 3.0], "b": [2.0, 5.0]}
    assert (row["peer_layout"], row["peer_seconds"]) == ("b", 2.0)
    assert row["ratio"] == 2.0 / row["seconds"]
    assert f"lowest: {row['name']} forward" in capsys.readouterr().out


def test_a_peer_that_computes_something_else_is_found(fake_peer, capsys):
    wrong = [value + 1 for value in small_sample()]
    assert cli.main(fake_peer([{"layouts": ["a"], "sample": wrong}])) == 1
    assert "small_conv forward, beside Fake's: result is wrong" in capsys.readouterr().err


def test_what_the_peer_cannot_do_is_left_out(fake_peer, capsys):
    assert cli.main(fake_peer([{"error": "ValueError: not mine"}])) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if "small_conv" in line)
    assert row.split()[-2:] == ["-", "-"]


def test_a_peer_that_stops_is_one_line(fake_peer, capsys):
    assert cli.main(fake_peer([{"layouts": ["a"], "sample": small_sample()}])) == 1
    assert last_line(capsys.readouterr().err) == (
        "pyconv bench: the peer stopped: nothing more to say")


@pytest.mark.skipif(cli.PEER_PYTHON not in os.environ,
                    reason=f"{cli.PEER_PYTHON} names no Python that has PyTorch")
def test_pytorch_computes_the_same(tmp_path):
    report = tmp_path / "report.json"
    assert cli.main(["layers", "--only", "small_conv,small_pool,k3_s2,group4", "--peer", "torch",
                     "--rounds", "1", "--json", str(report)]) == 0
    written = json.loads(report.read_text())
    assert written["peer"]["name"] == "PyTorch"
    assert all(row["ratio"] > 0 for row in written["rows"])


# ------------------------------------------------------------------------------------- the sums


def measurement(name, direction, count, seconds, peer=None):
    return measure.Measurement(SHAPES[name], direction, count, 0.0, [2 * seconds, seconds],
                               {"a": [peer]} if peer else {})


def test_summary_groups_the_ratios():
    measured = [
        measurement("cifar2", "forward", 2, 1.0, 3.0),
        measurement("lenet1", "forward", 2, 1.0, 2.0),
        measurement("cifar2", "forward", 1, 1.0, 9.0),
        measurement("lenet1", "dx", 2, 1.0),
        measurement("signs_pool8", "max_forward", 2, 4.0, 2.0),
        measurement("signs_pool8", "avg_forward", 2, 1.0, 1.0),
    ]
    assert layers.summary(measured, 2) == {
        "forward": [3.0, 2.0], "forward, 3x3 stride 1, C >= 32": [3.0], "max_forward": [0.5],
        "avg_forward": [1.0], "pooling": [0.5, 1.0]}


def test_speed_ups_are_over_the_fewest_threads_and_of_layers_worth_it():
    measured = [
        measurement(name, direction, count, seconds / count**0.5)
        for (name, direction), (count, seconds) in itertools.product(
            [("cifar2", "forward"), ("cifar2", "dw"), ("signs2", "forward"),
             ("cifar_pool2", "max_forward")], [(1, 1.0), (4, 1.0)])]
    assert threads.speed_ups(measured, 4) == {("cifar2", "forward"): 2.0, ("cifar2", "dw"): 2.0}


def test_rates_count_work_per_second():
    m = measurement("cifar2", "forward", 1, 0.5)
    assert m.rate == SHAPES["cifar2"].flops / 0.5 / 1e9
    assert replace(m, shape=SHAPES["cifar_pool2"], direction="avg_forward").rate == (
        SHAPES["cifar_pool2"].bytes_moved("avg_forward") / 0.5 / 1e9)
