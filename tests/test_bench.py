"""`pyconv bench`: its shapes, its check of results, its peers, its predictions, and runs of it."""

import itertools
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import oracle
import pytest

from pyconv import _dispatch, functional
from pyconv.bench import (
    cli,
    layers,
    machine,
    measure,
    predict,
    random_shapes,
    reference,
    shapes,
    threads,
)
from pyconv.bench.peer_protocol import LARGEST
from pyconv.bench.problem import Problem, sample
from pyconv.cli import main

TABLE = shapes.load()
SHAPES = {shape.name: shape for section in TABLE.values() for shape in section}
PROBLEMS = [Problem(shape, direction) for shape in SHAPES.values()
            for direction in shape.directions]
QUICK_FLOPS = 2e9


def bench(*arguments):
    """`pyconv bench` with these arguments; returns its exit status."""
    return main(["bench", *arguments])


def last_line(err):
    """The error; a note that the machine is busy may stand before it."""
    return err.splitlines()[-1]


# ------------------------------------------------------------------------------------- the table


def test_table_has_its_sections_and_no_name_twice():
    assert set(TABLE) == {"layers", "small", "one_image", "extra"}
    assert len(SHAPES) == sum(map(len, TABLE.values()))
    assert {shape.kind for shape in TABLE["layers"]} == {"conv", "pool"}


def test_random_shapes_are_drawn_by_their_seed_and_named_by_all_that_they_are():
    drawn = random_shapes.draw(60, seed=3)
    assert drawn == random_shapes.draw(60, seed=3) != random_shapes.draw(60, seed=4)
    assert len({shape.name for shape in drawn}) == len({replace(shape, name="") for shape in drawn})
    assert {shape.groups == shape.x[3] for shape in drawn} == {True, False}
    for shape in drawn:
        assert 1e6 <= shape.flops <= 3e9
        assert max(np.prod(shape.y[:3]), np.prod(shape.w[:3])) * LARGEST**2 < 2**24  # exact


def test_random_layers(capsys):
    assert bench("layers", "--random", "1", "--seed", "2", "--rounds", "1") == 0
    [shape] = random_shapes.draw(1, seed=2)
    assert capsys.readouterr().out.count(shape.name) == 3


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


def test_only_winograd_may_be_inexact():
    tolerances = {(p.algorithm, reference.tolerance(p)) for p in PROBLEMS if p.algorithm}
    assert tolerances == {
        ("direct", 0.0), ("depthwise", 0.0), ("winograd", reference.WINOGRAD_ERROR)}


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
    problem = Problem(SHAPES["small_pool"], "avg_forward")  # may be inexact, but never differ
    y = problem.call(1)()
    nearly = np.nextafter(y, np.float32(np.inf))
    with pytest.raises(reference.WrongResultError, match="other bits"):
        measure.check(problem, {1: lambda: y, 2: lambda: nearly})


def test_a_wrong_kernel_stops_the_benchmark(monkeypatch, capsys):
    right = functional.conv2d
    monkeypatch.setattr(functional, "conv2d", lambda *args, **named: 2 * right(*args, **named))
    assert bench("layers", "--small", "--direction", "forward") == 1
    out, err = capsys.readouterr()
    assert last_line(err).startswith("pyconv: error: small_conv forward, threads=")
    assert "y is wrong" in err
    assert "small_conv" not in out


# ---------------------------------------------------------------------------------------- a run


def test_smallest_case_runs_from_end_to_end(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    report, picture = tmp_path / "small.json", tmp_path / "small.png"
    assert bench("layers", "--small", "--threads", "1,2", "--rounds", "2",
                 "--json", str(report), "--plot", str(picture)) == 0
    out = capsys.readouterr().out
    written = json.loads(report.read_text())
    assert [(row["name"], row["direction"], row["threads"]) for row in written["rows"]] == [
        (shape.name, direction, count) for shape in TABLE["small"]
        for direction in shape.directions for count in (1, 2)]
    for row in written["rows"]:
        assert row["seconds"] == min(row["rounds"]) > 0
        assert len(row["rounds"]) == 2
        assert row["peers"] == {}
        direction = {"forward": "y"}.get(row["direction"], row["direction"])
        assert row["algorithm"] == (functional.conv2d_algorithm(
            (2, 13, 11, 5), (3, 3, 5, 12), padding="same", direction=direction)
            if row["kind"] == "conv" else None)
    assert written["machine"]["cpu"]
    assert written["fma_peak_gflops"].keys() == {"1", "2"}
    assert all(name in out for name in ("small_conv", "small_pool", "max_backward"))
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_threads_prints_what_more_threads_bring(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    picture, report = tmp_path / "threads.png", tmp_path / "threads.json"
    assert bench("threads", "--only", "cifar2,cifar_pool2", "--direction", "forward,max_forward",
                 "--threads", "2,1", "--rounds", "1", "--plot", str(picture),
                 "--json", str(report)) == 0
    measured, predicted = capsys.readouterr().out.split("Predicted, not measured")
    assert "ms on 1" in measured and "cifar_pool2" in measured
    assert "convolutions above 20 MFLOP, 2 threads" in measured
    assert "x on 2 " in predicted and "x on 128" in predicted and "cifar_pool2" not in predicted
    [prediction] = json.loads(report.read_text())["predictions"]
    assert prediction["name"] == "cifar2"
    assert list(prediction["predicted_seconds"]) == ["2", "4", "8", "16", "32", "64", "128"]
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("wrong", "message"), [
    (["--only", "cifar2,lenet9"], "--only: the table has no lenet9; it has signs1, "),
    (["--random", "3", "--only", "cifar2"], "--only: names are of the table's layers, and --random"),
    (["--small", "--only", "small_pool", "--direction", "dx"],
     "--direction: no layer chosen has dx"),
    (["--json", "/nowhere/at/all.json"], "argument --json: no folder /nowhere/at"),
    (["--plot", "/nowhere/at/all.png"], "argument --plot: no folder /nowhere/at"),
    (["--direction", "sideways"], "argument --direction: unknown sideways; expected some of "),
    (["--threads", "0"], "argument --threads: '0' is not an integer >= 1"),
    (["--threads", "two"], "argument --threads: 'two' is"), (["--rounds", "-1"], "argument --rounds"),
    (["--peer", "torch,abacus"], "argument --peer: unknown abacus; expected some of torch, keras, "
                                 "onnxruntime, openvino, ncnn"),
])
def test_wrong_usage_is_one_line_and_status_2(capsys, wrong, message):
    with pytest.raises(SystemExit) as stopped:
        bench("layers", *wrong)
    assert stopped.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"pyconv: error: {message}")


def test_a_table_without_the_section_is_wrong_usage(tmp_path, capsys):
    path = tmp_path / "mine.toml"
    path.write_text("[mine.pool]\np = { x = [1, 4, 4, 1], window = 2 }\n")
    with pytest.raises(SystemExit) as stopped:
        bench("layers", "--shapes", str(path), "--one-image")
    assert stopped.value.code == 2
    assert "has no section 'one_image', only mine" in capsys.readouterr().err


def test_a_plot_without_matplotlib_says_what_to_install(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("pyconv.bench.plot.available", lambda: False)
    assert bench("layers", "--small", "--plot", str(tmp_path / "a.png")) == 1
    assert last_line(capsys.readouterr().err) == (
        "pyconv: error: --plot needs matplotlib: pip install 'pyconv-cnn[plot]'")


def test_machine_describes_itself():
    facts = machine.describe()
    assert facts["cpu"] and facts["compiler"] and facts["isa"] in ("baseline", "v3", "v4")
    assert machine.fma_peak(1) > 0.1
    assert machine.region_seconds(1) == 0.0
    most = max(2, facts["cpus"])
    assert machine.region_seconds(4 * most - 3) == pytest.approx(4 * machine.region_seconds(most))


# -------------------------------------------------------------------------------------- the peer


def test_a_missing_peer_is_a_message_and_no_error(monkeypatch, tmp_path, capsys):
    small = ["layers", "--small", "--rounds", "1", "--direction", "forward", "--peer", "torch"]
    assert bench(*small, "--peer-python", str(tmp_path / "python")) == 0
    assert "without torch: cannot start" in capsys.readouterr().err
    (tmp_path / "torch.py").write_text("raise ImportError('no torch here')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert bench(*small, "--peer-python", sys.executable) == 0
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
    assert bench(*command, "--rounds", "2", "--json", str(report)) == 0
    [row] = json.loads(report.read_text())["rows"]
    assert row["peers"] == {"Fake": {
        "layout": "b", "seconds": 2.0, "ratio": 2.0 / row["seconds"],
        "rounds": {"a": [4.0, 3.0], "b": [2.0, 5.0]}}}
    assert f"lowest: {row['name']} forward" in capsys.readouterr().out


def test_several_peers_stand_side_by_side(fake_peer, capsys, monkeypatch):
    command = fake_peer([{"layouts": ["a"], "sample": small_sample()}, {"seconds": 0.000125}])
    other = cli.SCRIPTS["torch"].with_name("other.py")
    script = cli.SCRIPTS["torch"].read_text()
    other.write_text(script.replace("Fake", "Other").replace("0.000125", "0.00025"))
    monkeypatch.setitem(cli.SCRIPTS, "ncnn", other)
    assert bench(*command, "--peer", "torch,ncnn", "--rounds", "1") == 0
    out = capsys.readouterr().out
    assert "beside Fake 1, Other 1" in out
    line = next(line for line in out.splitlines() if line.startswith("small_conv"))
    row = line.removesuffix(" *").split()
    assert (row[-4], row[-2]) == ("0.125", "0.250")
    assert "Fake's time / pyconv's" in out and "Other's time / pyconv's" in out


def test_a_peer_that_computes_something_else_is_found(fake_peer, capsys):
    wrong = [value + 1 for value in small_sample()]
    assert bench(*fake_peer([{"layouts": ["a"], "sample": wrong}])) == 1
    assert "small_conv forward, beside Fake's: result is wrong" in capsys.readouterr().err


def test_what_the_peer_cannot_do_is_left_out(fake_peer, capsys):
    assert bench(*fake_peer([{"error": "ValueError: not mine"}])) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if "small_conv" in line)
    assert row.removesuffix(" *").split()[-2:] == ["-", "-"]


@pytest.mark.parametrize("answers", [0, 1, 3])  # it stops when asked to prepare, or in some round
def test_a_peer_that_stops_is_one_line(fake_peer, answers, capsys):
    given = [{"layouts": ["a"], "sample": small_sample()}, *[{"seconds": 1e-3}] * 2][:answers]
    assert bench(*fake_peer(given), "--rounds", "3") == 0
    written = capsys.readouterr()
    row = next(line for line in written.out.splitlines() if "small_conv" in line)
    assert row.removesuffix(" *").split()[-2:] == ["-", "-"]
    assert last_line(written.err) == (
        "pyconv: Fake, at small_conv forward: the peer stopped: nothing more to say; it is started "
        "again for the next")


needs_peers = pytest.mark.skipif(
    cli.PEER_PYTHON not in os.environ,
    reason=f"{cli.PEER_PYTHON} names no Python that has PyTorch and ncnn")


@needs_peers
def test_pytorch_computes_the_same(tmp_path):
    report = tmp_path / "report.json"
    assert bench("layers", "--only", "small_conv,small_pool,k3_s2,group4", "--peer", "torch",
                 "--rounds", "1", "--json", str(report)) == 0
    written = json.loads(report.read_text())
    assert [peer["name"] for peer in written["peers"]] == ["PyTorch"]
    assert all(row["peers"]["PyTorch"]["ratio"] > 0 for row in written["rows"])


@needs_peers
def test_ncnn_computes_the_same_for_one_image(tmp_path):
    report = tmp_path / "report.json"
    assert bench("layers", "--only", "one_128,one_rgb_s2,small_conv", "--peer", "ncnn",
                 "--rounds", "1", "--json", str(report)) == 0
    written = json.loads(report.read_text())
    assert [peer["name"] for peer in written["peers"]] == ["ncnn"]
    done = {(row["name"], row["direction"]) for row in written["rows"] if "ncnn" in row["peers"]}
    assert done == {("one_128", "forward"), ("one_rgb_s2", "forward")}


# ------------------------------------------------------------------------------ the predictions


def test_list_scheduling_gives_the_next_item_to_the_first_free_thread():
    items = [3.0, 1.0, 1.0, 1.0, 2.0]
    assert predict.makespan(items, 1) == 8.0
    assert predict.makespan(items, 2) == 5.0  # 3 + 2, and 1 + 1 + 1 beside it
    assert predict.makespan([1.0, 1.0, 1.0, 3.0], 2) == 4.0  # in this order, though 3 were enough
    assert predict.makespan(items, 128) == 3.0
    assert predict.makespan([], 4) == 0.0


def test_a_prediction_adds_what_is_not_shared_and_the_cost_of_regions(monkeypatch):
    monkeypatch.setattr(predict, "region_seconds", lambda threads: 0.25 * (threads - 1))
    p = predict.Prediction(SHAPES["cifar2"], "dx", 1.0, [np.ones(4), np.full(2, 3.0)])
    assert p.seconds(1) == 1 + 4 + 6
    assert p.seconds(2) == 1 + (2 + 0.25) + (3 + 0.25)
    assert p.seconds(4) == 1 + (1 + 0.75) + (3 + 0.75)
    assert p.speed_up(2) == 11 / 6.5
    assert p.as_row([2])["predicted_seconds"] == {2: 6.5}


@pytest.mark.parametrize(("name", "direction", "regions"), [
    ("signs1", "forward", 1),   # packing so small a filter stays on one thread
    ("res4_s2", "forward", 2),  # packing the filter; the convolution
    ("cifar2", "forward", 2),   # transforming the filters; the tiles
    ("cifar2", "dw", 2),        # the parts; their sum
    ("signs1", "dw", 1),
    ("lenet2", "dw", 2),
])
def test_every_item_of_every_region_is_timed(name, direction, regions):
    call = Problem(SHAPES[name], direction).call(1)
    call()
    whole, found = predict.take_apart(call)
    assert len(found) == regions
    for items in found:
        assert len(items) > 0 and (items >= 0).all()
    inside = sum(items.sum() for items in found)
    assert 0.2 * whole < inside <= whole
    again = predict.predict(Problem(SHAPES[name], direction), 2)
    assert [len(items) for items in again.regions] == [len(items) for items in found]


def test_what_stays_on_one_thread_has_no_prediction():
    small = [SHAPES["small_conv"], SHAPES["cifar_pool2"]]
    assert list(predict.predict_all(small, cli.DIRECTIONS, 1)) == []


def test_more_items_than_are_noted_are_an_error(monkeypatch):
    monkeypatch.setattr(predict, "MOST_TIMES", 3)
    with pytest.raises(ValueError, match="at most 3 are noted"):
        predict.take_apart(Problem(SHAPES["signs1"], "forward").call(1))


def test_nothing_is_noted_unless_asked():
    record_items = _dispatch.active.modules["f"].record_items
    times = np.zeros(100)
    record_items(times)
    record_items(None)
    Problem(SHAPES["signs1"], "forward").call(1)()
    assert record_items(None) == 0 and not times.any()


# --------------------------------------------------------------------------------- the documents


def test_reports_become_the_tables_of_a_document(tmp_path):
    script = Path(__file__).parents[1] / "benchmarks" / "tables.py"
    document = tmp_path / "performance.md"
    document.write_text("above\n<!-- begin of benchmarks/tables.py -->\nold\n"
                        "<!-- end of benchmarks/tables.py -->\nbelow\n")
    reports = [tmp_path / "layers.json", tmp_path / "threads.json"]
    assert bench("layers", "--only", "one_128,small_pool", "--rounds", "1", "--threads", "1",
                 "--json", str(reports[0])) == 0
    assert bench("threads", "--only", "one_128", "--direction", "dx", "--rounds", "1",
                 "--threads", "1", "--json", str(reports[1])) == 0
    subprocess.run([sys.executable, script, *reports, "--into", document], check=True)
    text = document.read_text()
    assert text.startswith("above\n") and text.endswith("below\n") and "old" not in text
    tables = [block for block in text.split("\n\n") if block.startswith("| ")]
    assert len(tables) == 3 + 1 + 4 + 1  # directions, errors, pooling, predictions
    for lines in map(str.splitlines, tables):
        assert len({line.count("|") for line in lines}) == 1 and len(lines) >= 3
    [errors] = [lines for lines in tables if lines.startswith("| layer | forward | dx | dw |")]
    rows = json.loads(reports[0].read_text())["rows"]
    assert all(f"{row['error_of_rms']:.1e}" in errors for row in rows if row["kind"] == "conv")
    unmarked = tmp_path / "unmarked.md"
    unmarked.write_text("nothing\n")
    failed = subprocess.run([sys.executable, script, *reports, "--into", unmarked],
                            capture_output=True, text=True, check=False)
    assert failed.returncode == 1 and "lacks the line" in failed.stderr
    assert unmarked.read_text() == "nothing\n"


# ------------------------------------------------------------------------------------- the sums


def measurement(name, direction, count, seconds, peer=None):
    return measure.Measurement(SHAPES[name], direction, "direct", count, 0.0, [2 * seconds, seconds],
                               {"Fake": {"a": [peer]}} if peer else {})


def test_rows_that_other_work_disturbed_are_marked(capsys):
    steady = measurement("cifar2", "forward", 1, 1.0, 3.0)
    steady.rounds, steady.peer_rounds = [1.0, 1.1, 9.0], {"Fake": {"a": [3.0, 3.1, 9.0]}}
    ours = replace(steady, rounds=[1.0, 1.6, 1.6])
    theirs = replace(steady, peer_rounds={"Fake": {"a": [3.0, 3.1, 3.2], "b": [1.0, 2.0, 2.0]}})
    assert [m.is_unsteady for m in (steady, ours, theirs)] == [False, True, True]
    layers.print_rows([[steady], [theirs]], ["Fake"])
    *_, first, second, _, note = capsys.readouterr().out.splitlines()
    assert second.endswith(" *") and not first.endswith("*") and note.startswith("* unsteady")


def test_summary_groups_the_ratios():
    measured = [
        measurement("cifar2", "forward", 2, 1.0, 3.0),
        measurement("lenet1", "forward", 2, 1.0, 2.0),
        measurement("cifar2", "forward", 1, 1.0, 9.0),
        measurement("lenet1", "dx", 2, 1.0),
        measurement("signs_pool8", "max_forward", 2, 4.0, 2.0),
        measurement("signs_pool8", "avg_forward", 2, 1.0, 1.0),
    ]
    assert layers.summary(measured, 2, "Fake") == {
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
