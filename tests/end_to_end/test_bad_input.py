"""Each kind of bad input through the command line: one clear line, exit code 2, nothing lost."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import yaml
from command_line import TINY, call
from filelock import FileLock

import smoothgen


@pytest.fixture
def smoothgen_cli(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments):
        return call(capsys, monkeypatch, *arguments)

    return invoke


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    config = copy.deepcopy(TINY)
    config["trainer"]["max_steps"] = 3
    folder = tmp_path_factory.mktemp("finished") / "run"
    smoothgen.fit(config, folder)
    return folder


def write(tmp_path, **changes):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(copy.deepcopy(TINY) | changes))
    return "config.yaml"


def assert_one_line(answer, *parts):
    assert answer.code == 2, answer.err
    lines = [line for line in answer.err.splitlines() if not line.startswith("run directory: ")]
    assert len(lines) == 1, answer.err
    assert lines[0].startswith("error: ")
    for part in parts:
        assert part in lines[0]


def table(tmp_path, rows, name="data.csv"):
    (tmp_path / name).write_text("\n".join(rows) + "\n")
    return {"type": "array", "path": name}


GOOD_ROWS = [f"{i},{i * i % 7}" for i in range(40)]


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["inverter.density.hiden=3"], ["config.yaml: inverter.density.hiden: unknown key", 'did you mean "hidden"']),
        (["density.type=madee"], ["config.yaml: density", 'unknown type "madee"', 'did you mean "made"', "installed:"]),
        (["kernel.sigma=0"], ["config.yaml: kernel.sigma: must be a number above 0", "got 0"]),
        (["kernel.sigma=-1"], ["kernel.sigma", "got -1"]),
        (["device.device=cuda"], ['"cuda" was asked for']),
        (["trainer.batch_size=33", "trainer.accumulate=2"], ["batch_size 33", "not a multiple"]),
        (["data.train_size=none"], ["data.train_size"]),
        (["inverter.type=gradient", "kernel.type=uniform", "kernel.sigma=.3"], ["kernel uniform"]),
        (["evaluate.metrics=[elbo]", "inverter.type=gradient"], ["ELBO is undefined"]),
    ],
)
def test_configurations(smoothgen_cli, tmp_path, overrides, parts):
    if "device.device=cuda" in overrides and torch.cuda.is_available():
        pytest.skip("this machine has a GPU, so asking for it is no mistake")
    assert_one_line(smoothgen_cli("train", write(tmp_path), *overrides, "--run-dir", "run"), *parts)
    assert not (tmp_path / "run/checkpoint.safetensors").exists()


def test_missing_configuration(smoothgen_cli):
    assert_one_line(smoothgen_cli("train", "nothing.yaml"), '"nothing.yaml" is neither a recipe', "nor a file")


@pytest.mark.parametrize(
    ("rows", "parts"),
    [
        ([*GOOD_ROWS, "nan,1"], ["not finite", "fill or remove"]),
        ([*GOOD_ROWS, "inf,1"], ["not finite"]),
        (["a,b", *GOOD_ROWS, "1,x"], ["row 42", "'x' is not a number"]),
        ([*GOOD_ROWS, "1,2,3"], ["row 41 has 3 cells"]),
        ([""], ["is empty"]),
        (["1,2", "1,3", "1,5"] * 10, ["constant"]),
        (["1,2"], ["at least"]),
    ],
)
def test_tables(smoothgen_cli, tmp_path, rows, parts):
    config = write(tmp_path, data=table(tmp_path, rows))
    assert_one_line(smoothgen_cli("train", config, "--run-dir", "run"), "data.csv", *parts)


def test_missing_file_and_unknown_format(smoothgen_cli, tmp_path):
    answer = smoothgen_cli("train", write(tmp_path, data={"type": "array", "path": "gone.npy"}))
    assert_one_line(answer, str(tmp_path / "gone.npy"))
    (tmp_path / "data.xlsx").write_bytes(b"PK")
    assert_one_line(smoothgen_cli("train", write(tmp_path, data={"type": "array", "path": "data.xlsx"})), ".xlsx")


def test_values_out_of_their_range_or_levels(smoothgen_cli, tmp_path):
    np.save(tmp_path / "data.npy", np.arange(40.0).reshape(20, 2))
    data = {"type": "array", "path": "data.npy"}
    assert_one_line(smoothgen_cli("train", write(tmp_path, data=data | {"levels": 17})), "data.npy", "0")
    bounded = data | {"low": 0.0, "high": 10.0, "standardize": False}
    assert_one_line(smoothgen_cli("train", write(tmp_path, data=bounded)), "data.npy", "outside [0.0, 10.0]")


def test_pickles_are_refused(smoothgen_cli, tmp_path):
    np.save(tmp_path / "data.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    answer = smoothgen_cli("train", write(tmp_path, data={"type": "array", "path": "data.npy"}))
    assert_one_line(answer, "data.npy", "pickle")


def test_runs_that_are_not_there_or_not_whole(smoothgen_cli, tmp_path, finished):
    assert_one_line(smoothgen_cli("sample", "nowhere"), "nowhere", "no model is saved there")
    copied = tmp_path / "copied"
    copied.mkdir()
    for path in finished.iterdir():
        if path.is_file():
            (copied / path.name).write_bytes(path.read_bytes())
    weights = copied / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert_one_line(smoothgen_cli("sample", copied), "model.safetensors is damaged")
    weights.write_bytes((finished / "checkpoint.safetensors").read_bytes())
    assert_one_line(smoothgen_cli("sample", copied), "was not written by smoothgen as a model")


def test_a_second_writer_and_a_second_run(smoothgen_cli, tmp_path, finished):
    before = (finished / "model.safetensors").read_bytes()
    assert_one_line(smoothgen_cli("train", write(tmp_path), "--run-dir", finished), "already holds a run", "--resume")
    (tmp_path / "busy").mkdir()
    with FileLock(tmp_path / "busy/.lock"):
        answer = smoothgen_cli("train", write(tmp_path), "--run-dir", "busy")
    assert_one_line(answer, "another process")
    (tmp_path / "file").touch()
    assert_one_line(smoothgen_cli("train", write(tmp_path), "--run-dir", "file"), "cannot use file as run directory")
    assert (finished / "model.safetensors").read_bytes() == before


def test_resume_needs_to_know_what(smoothgen_cli, tmp_path, finished):
    assert_one_line(smoothgen_cli("train", write(tmp_path), "--resume"), "--resume needs --run-dir")
    answer = smoothgen_cli("train", write(tmp_path), "seed=5", "--run-dir", finished, "--resume")
    assert_one_line(answer, "started with another")


def test_denoising_input_of_the_wrong_kind(smoothgen_cli, tmp_path, finished):
    np.save(tmp_path / "wide.npy", np.zeros((4, 3)))
    assert_one_line(smoothgen_cli("denoise", finished, "wide.npy"), "wide.npy", "(3,)", "(2,)")
    np.save(tmp_path / "nan.npy", np.full((4, 2), np.nan))
    assert_one_line(smoothgen_cli("denoise", finished, "nan.npy"), "not finite")
    assert_one_line(smoothgen_cli("denoise", finished, "nan.npy", "--method", "magic"), "magic", "single-step")
    assert_one_line(smoothgen_cli("sample", finished, "--out", "x.doc"), ".doc")
    assert_one_line(smoothgen_cli("sample", finished, "--device", "tpu"), "--device")


def test_inpainting_input_of_the_wrong_kind(smoothgen_cli, tmp_path, finished):
    np.save(tmp_path / "x.npy", np.zeros((4, 2)))
    np.save(tmp_path / "nan.npy", np.array([[np.nan, 0.0]] * 4))
    masks = {"odd": [1, 2], "wide": [1, 0, 1], "one": [0, 1], "many": [[0, 1]] * 3, "all": [[0, 1]] * 4}
    for name, values in masks.items():
        np.save(tmp_path / f"{name}.npy", np.array(values))

    def refused(*arguments, parts, file="x.npy"):
        assert_one_line(smoothgen_cli("inpaint", finished, file, *arguments), *parts)

    refused(parts=["--unknown", "--mask"])
    refused("--unknown", "nan", "--mask", "one.npy", parts=["give one of"])
    refused("--unknown", "botom", parts=['"botom"', 'did you mean "bottom"'])
    refused("--unknown", "bottom", parts=["is for images", "(2,)"])
    refused("--unknown", "nan", parts=["holds no nan"])
    refused("--mask", "odd.npy", parts=["odd.npy", "1 where values are kept", "not 2"])
    refused("--mask", "wide.npy", parts=["wide.npy", "(3,)", "(2)", "(4, 2)"])
    refused("--mask", "many.npy", parts=["many.npy", "(3, 2)"])
    refused("--mask", "gone.npy", parts=["gone.npy does not exist"])
    np.save(tmp_path / "bad.npy", np.array([[0.0, np.nan]] * 4))
    refused("--mask", "one.npy", file="bad.npy", parts=["4 of 4 known values", "not finite", "mark them as unknown"])
    refused("--mask", "one.npy", "--key", "a", parts=["holds a single array"])
    refused("--mask", "one.npy", file="gone.npy", parts=["gone.npy"])
    assert smoothgen_cli("inpaint", finished, "x.npy", "--mask", "one.npy", "--particles", "0").code == 2

    for arguments in (["--mask", "one.npy"], ["--mask", "all.npy"], ["--unknown", "nan", "--noise-draws", "3"]):
        results = []
        for out in ("a.npy", "b.npy"):
            answer = smoothgen_cli("inpaint", finished, "nan.npy", *arguments, "--out", out)
            assert answer.code == 0, answer.err
            assert "4 of 8 values drawn anew" in answer.out
            results.append(np.load(tmp_path / out))
        assert np.array_equal(*results)
        assert (results[0][:, 1] == 0.0).all() and np.isfinite(results[0]).all()
    smoothgen_cli("inpaint", finished, "nan.npy", "--unknown", "nan")
    assert np.load(tmp_path / "nan-inpainted.npz")["inpainted"].shape == (4, 2)


def test_a_part_of_a_picture_is_drawn_anew(smoothgen_cli, tmp_path):
    generator = np.random.default_rng(0)
    pictures = generator.integers(0, 256, (60, 4, 4), dtype=np.uint8)
    np.save(tmp_path / "pictures.npy", pictures)
    config = write(tmp_path, data={"type": "array", "path": "pictures.npy"})
    assert smoothgen_cli("train", config, "--run-dir", "run", "trainer.max_steps=3").code == 0
    x = pictures[:5, None].astype(np.float64)
    np.save(tmp_path / "x.npy", pictures[:5])
    unknown = {
        "top": np.s_[:2, :],
        "bottom": np.s_[2:, :],
        "left": np.s_[:, :2],
        "right": np.s_[:, 2:],
        "centre": np.s_[1:3, 1:3],
    }
    for name, part in unknown.items():
        answer = smoothgen_cli("inpaint", "run", "x.npy", "--unknown", name, "--out", "out.npy", "--particles", "4")
        assert answer.code == 0, answer.err
        drawn = np.zeros((4, 4), dtype=bool)
        drawn[part] = True
        found = np.load(tmp_path / "out.npy")
        assert np.array_equal(found, found.round()) and found.min() >= 0 and found.max() <= 255
        moved = (found != x)[:, 0]
        assert not moved[:, ~drawn].any(), name
        assert moved[:, drawn].mean() > 0.9, name
    x[0, 0, 0, 0] = 0.1
    np.save(tmp_path / "x.npy", x)
    answer = smoothgen_cli("inpaint", "run", "x.npy", "--unknown", "bottom")
    assert_one_line(answer, "0.1 at (0, 0, 0, 0) is none of the 256 levels from 0 to 255")


def test_channels_may_come_last_or_flat_but_are_never_mixed_up(smoothgen_cli, tmp_path):
    pictures = np.random.default_rng(0).integers(0, 256, (60, 5, 4, 3), dtype=np.uint8)
    np.save(tmp_path / "pictures.npy", pictures)
    config = write(tmp_path, data={"type": "array", "path": "pictures.npy"})
    assert smoothgen_cli("train", config, "--run-dir", "run", "trainer.max_steps=3").code == 0
    first = np.moveaxis(pictures[:5], 3, 1)
    for name, x in (("last", pictures[:5]), ("first", first), ("flat", first.reshape(5, -1))):
        np.save(tmp_path / f"{name}.npy", x)
        answer = smoothgen_cli("inpaint", "run", f"{name}.npy", "--unknown", "bottom", "--out", f"{name}-out.npy")
        assert answer.code == 0, answer.err
        assert np.array_equal(np.load(tmp_path / f"{name}-out.npy")[:, :, :2], first[:, :, :2]), name
    np.save(tmp_path / "other.npy", np.moveaxis(pictures[:5], 3, 2))
    assert_one_line(smoothgen_cli("denoise", "run", "other.npy"), "(5, 3, 4), the model's (3, 5, 4)")


def test_counts_come_back_as_counts_from_columns_that_stand_anywhere(smoothgen_cli, tmp_path):
    generator = np.random.default_rng(0)
    counts = generator.integers(0, 5, (300, 2)) * [1, 10]
    rows = [f"id{i},{a},{b}" for i, (a, b) in enumerate(counts)]
    data = table(tmp_path, ["name,few,many", *rows]) | {"columns": ["few", "many"]}
    apart = write(tmp_path, data=data | {"columns": ["many"], "levels": 5, "high": 40.0})
    assert smoothgen_cli("train", apart, "--run-dir", "tens", "trainer.max_steps=3").code == 0
    smoothgen_cli("sample", "tens", "-n", "50", "--out", "tens.csv")
    lines = (tmp_path / "tens.csv").read_text().splitlines()
    assert lines[0] == "many" and set(lines[1:]) <= {"0", "10", "20", "30", "40"}
    together = write(tmp_path, data=data | {"levels": 41})
    assert smoothgen_cli("train", together, "--run-dir", "run", "trainer.max_steps=3").code == 0
    (tmp_path / "holes.csv").write_text("many,note,few\n30,x,\n,y,2\n10,z,4\n")
    answer = smoothgen_cli("inpaint", "run", "holes.csv", "--unknown", "nan", "--out", "filled.csv")
    assert answer.code == 0 and "2 of 6 values drawn anew" in answer.out, answer.err
    filled = [line.split(",") for line in (tmp_path / "filled.csv").read_text().splitlines()]
    assert filled[0] == ["few", "many"] and filled[1][1] == "30" and filled[2][0] == "2" and filled[3] == ["4", "10"]
    assert all(cell.isdigit() for row in filled[1:] for cell in row)
    assert_one_line(smoothgen_cli("denoise", "run", "holes.csv"), "2 values are not finite")
    assert_one_line(smoothgen_cli("inpaint", "run", "holes.csv", "--unknown", "few"), "nan at (1, 1) is not finite")
    (tmp_path / "other.csv").write_text("a,many\n1,2\n")
    assert_one_line(smoothgen_cli("denoise", "run", "other.csv"), 'no column "few"', "its columns: a, many")
    (tmp_path / "bare.csv").write_text("1,20\n,30\n")
    answer = smoothgen_cli("inpaint", "run", "bare.csv", "--unknown", "nan", "--out", "bare-out.csv")
    assert answer.code == 0, answer.err
    assert (tmp_path / "bare-out.csv").read_text().splitlines()[1] == "1,20"
    (tmp_path / "text.csv").write_text("few,many\n1,ten\n")
    assert_one_line(smoothgen_cli("denoise", "run", "text.csv"), "row 2, column \"many\": 'ten' is not a number")


def test_the_commands_do_what_they_say(smoothgen_cli, tmp_path, finished):
    for name in ("s.npy", "s.npz", "s.csv", "s.safetensors", "s.png"):
        answer = smoothgen_cli("sample", finished, "-n", "12", "--out", name)
        assert answer.code == 0, answer.err
        assert (tmp_path / name).stat().st_size > 0
    assert np.load(tmp_path / "s.npy").shape == (12, 2)
    first = np.load(tmp_path / "s.npy")
    smoothgen_cli("sample", finished, "-n", "12", "--out", "again.npy")
    assert np.array_equal(first, np.load(tmp_path / "again.npy"))
    for method in ("inverter", "single-step"):
        answer = smoothgen_cli("denoise", finished, "s.npy", "--out", "d.npy", "--method", method)
        assert answer.code == 0, answer.err
        assert np.load(tmp_path / "d.npy").shape == (12, 2)
    answer = smoothgen_cli("evaluate", finished, "-k", "3", "--max-examples", "20", "--out", "numbers.json")
    assert answer.code == 0, answer.err
    assert "iw-3" in answer.out
    assert "exact entropy" in answer.out
    assert smoothgen_cli("recipes").code == 0
    assert "made" in smoothgen_cli("plugins").out
    assert '"$defs"' in smoothgen_cli("schema").out


def test_a_table_of_ones_own_keeps_its_units_and_names(smoothgen_cli, tmp_path):
    generator = np.random.default_rng(0)
    rows = [f"{1000 + 50 * a:.3f},{0.01 * b:.6f}" for a, b in generator.normal(size=(300, 2))]
    config = write(tmp_path, data=table(tmp_path, ["height,weight", *rows]))
    answer = smoothgen_cli("train", config, "--run-dir", "run", "trainer.max_steps=300")
    assert answer.code == 0, answer.err
    smoothgen_cli("sample", "run", "-n", "400", "--out", "s.csv")
    lines = (tmp_path / "s.csv").read_text().splitlines()
    assert lines[0] == "height,weight"
    samples = np.array([[float(cell) for cell in line.split(",")] for line in lines[1:]])
    assert abs(samples[:, 0].mean() - 1000) < 20
    assert 0.005 < samples[:, 1].std() < 0.02
    assert "units of the data" in answer.out
    answer = smoothgen_cli("inpaint", "run", "data.csv", "--unknown", "weight", "--out", "filled.csv")
    assert answer.code == 0, answer.err
    filled = (tmp_path / "filled.csv").read_text().splitlines()
    assert filled[0] == "height,weight"
    assert [float(line.split(",")[0]) for line in filled[1:]] == [float(row.split(",")[0]) for row in rows]
    assert_one_line(smoothgen_cli("inpaint", "run", "data.csv", "--unknown", "wieght"), 'did you mean "weight"')


def test_a_place_that_cannot_be_written_is_refused_before_the_work(smoothgen_cli, tmp_path, finished, monkeypatch):
    def never(*arguments, **options):
        raise AssertionError("the work was begun")

    monkeypatch.setattr("smoothgen.experiment.load", never)
    np.save(tmp_path / "x.npy", np.zeros((3, 2)))
    (tmp_path / "folder.npz").mkdir()
    for command in (["sample"], ["denoise", "x.npy"], ["inpaint", "x.npy", "--unknown", "nan"], ["evaluate"]):
        name, *more = command
        for out, parts in (
            ("no/such/x.npz", ["cannot write no/such/x.npz", "there is no folder"]),
            ("folder.npz", ["it is a folder"]),
        ):
            assert_one_line(smoothgen_cli(name, finished, *more, "--out", out), *parts)
        if name != "evaluate":
            assert_one_line(smoothgen_cli(name, finished, *more, "--out", "x.tif"), 'unknown ending ".tif"')
    assert smoothgen_cli("evaluate", finished, "-k", "0").code == 2


@pytest.mark.parametrize(
    ("header", "shift", "scale"),
    [
        ("US$_per_$,b", 0.0, 1.0),  # which matplotlib would read as mathematics
        ("time,$\\frac{", 1.7e9, 1.0),  # whose spread float32 cannot hold
        ("a,b", 0.0, 1e39),  # beyond float32
    ],
)
def test_awkward_tables_are_trained_and_drawn(smoothgen_cli, tmp_path, header, shift, scale):
    generator = np.random.default_rng(0)
    rows = [f"{shift + scale * a!r},{b!r}" for a, b in generator.normal(size=(300, 2)).tolist()]
    config = write(tmp_path, data=table(tmp_path, [header, *rows]), evaluate={"metrics": ["samples"]})
    answer = smoothgen_cli("train", config, "--run-dir", "run", "trainer.max_steps=3")
    assert answer.code == 0 and "Traceback" not in answer.err, answer.err
    assert (tmp_path / "run/samples.png").stat().st_size > 5000
    assert (tmp_path / "run/README.md").exists()


def test_a_bound_that_is_not_finite_ends_no_run(smoothgen_cli, tmp_path):
    data = table(tmp_path, GOOD_ROWS) | {"test_path": "test.csv", "standardize": False}
    table(tmp_path, [*GOOD_ROWS[:5], "1,3.3e38"], "test.csv")
    made = {"type": "made", "hidden": [8], "family": "gaussian"}
    evaluate = {"metrics": ["elbo"], "importance_samples": []}
    config = write(tmp_path, data=data, density=made, evaluate=evaluate)
    answer = smoothgen_cli("train", config, "--run-dir", "run", "trainer.max_steps=3")
    assert answer.code == 0 and "Traceback" not in answer.err, answer.err
    assert "not finite" in (tmp_path / "run/README.md").read_text()
