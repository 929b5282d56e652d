"""Configurations: every shipped recipe, overrides, round trips, and one clear line for each mistake."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

import smoothgen
from smoothgen.config import SCHEMA_FILE, ExperimentConfig, StageConfig, StageOverrides, load_config, recipes
from smoothgen.errors import ConfigError, DataError
from smoothgen.registry import json_schema


@pytest.mark.parametrize("name", recipes())
def test_every_recipe_builds_and_names_its_schema(name):
    config = load_config(name)
    assert config.name == name
    assert config.description
    assert recipes()[name].read_text().startswith(f"# yaml-language-server: $schema={SCHEMA_FILE}\n")
    if "path" in type(config.data).model_fields:  # data that the user brings
        with pytest.raises(DataError, match=re.escape(str(config.data.path))):
            config.data.build()
        folder = Path(__file__).parents[3] / "shared" / "data" / config.data.type
        if not folder.is_dir():
            pytest.skip(f"no data in {folder} to build the recipe with")
        config = load_config(name, [f"data.path={folder}", "data.most=8"])
    model = smoothgen.build(config)
    assert model.event == config.data.build().event


def test_the_shipped_schema_is_that_of_the_installed_parts():
    path = recipes()["digits"].with_name(SCHEMA_FILE)
    assert json.loads(path.read_text()) == json_schema(ExperimentConfig), "run: smoothgen schema --out " + str(path)


@pytest.mark.parametrize("name", recipes())
def test_a_configuration_survives_yaml_and_json(name):
    config = load_config(name)
    assert ExperimentConfig.model_validate_json(config.model_dump_json()) == config
    text = OmegaConf.to_yaml(OmegaConf.create(config.model_dump(mode="json")))
    assert ExperimentConfig.model_validate(OmegaConf.to_container(OmegaConf.create(text))) == config


@given(
    sigma=st.floats(1e-6, 1e3, allow_nan=False),
    steps=st.integers(1, 10**9),
    rate=st.floats(1e-8, 1.0),
    hidden=st.lists(st.integers(1, 512), min_size=1, max_size=3),
)
def test_values_survive_yaml(sigma, steps, rate, hidden):
    overrides = [
        f"kernel.sigma={sigma!r}",
        f"trainer.max_steps={steps}",
        f"trainer.inverter.learning_rate={rate!r}",
        f"density.hidden={hidden}",
    ]
    config = load_config("digits", overrides)
    assert config.kernel.sigma == sigma
    assert config.trainer.stage("density").max_steps == steps
    assert config.trainer.stage("inverter").learning_rate == rate
    assert config.density.hidden == tuple(hidden)


def test_stages_may_differ_from_the_common_settings_in_every_key():
    assert StageOverrides.model_fields.keys() == StageConfig.model_fields.keys()


def test_an_override_of_type_replaces_the_whole_part():
    config = load_config("digits", ["density.type=realnvp"])
    assert config.density.type == "realnvp"


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["inverter.density.hiden=[3]"], 'inverter.density.hiden: unknown key; did you mean "hidden"?'),
        (["density.type=mad"], 'density: unknown type "mad"; did you mean "made"?; installed: '),
        (["kernel.sigma=0"], "kernel.sigma: must be a number above 0"),
        (["kernel.sigma=-0.1"], "kernel.sigma: must be a number above 0"),
        (["kernel.sigma=.nan"], "kernel.sigma: must be a number above 0"),
        (["trainer.max_step=4"], 'trainer.max_step: unknown key; did you mean "max_steps"'),
        (["trainer.density.batch_size=0"], "trainer.density.batch_size: Input should be greater than 0, got 0"),
        (["device.device=tpu"], "device.device: Input should be 'auto', 'cpu', 'cuda' or 'mps', got 'tpu'"),
        (["max_steps"], 'override "max_steps" must read key.path=value'),
        (["trainer.max_steps.x=1"], "nothing below 2000 can be set"),
        (["density=3"], "density: expected a density with a type"),
        (["density.components=2.5"], "density.components: Input should be a valid integer"),
    ],
)
def test_a_mistake_is_one_line_with_path_value_and_fix(overrides, expected):
    with pytest.raises(ConfigError) as caught:
        load_config("digits", overrides)
    assert expected in str(caught.value)
    assert str(caught.value).startswith("digits.yaml: ")
    assert "\n" not in str(caught.value)


def test_missing_files_and_foreign_files(tmp_path):
    with pytest.raises(ConfigError, match=r'"digit" is neither a recipe; did you mean "digits".*\? nor a file'):
        load_config("digit")
    (tmp_path / "a.yaml").write_text("data: [1, 2")
    with pytest.raises(ConfigError, match=r"a\.yaml: not readable as YAML"):
        load_config(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_text("- 1\n- 2\n")
    with pytest.raises(ConfigError, match="expected keys and values"):
        load_config(tmp_path / "b.yaml")
    (tmp_path / "c.yaml").write_text("data: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(ConfigError, match="not readable as YAML"):
        load_config(tmp_path / "c.yaml")


def test_the_environment_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "42")
    (tmp_path / "a.yaml").write_text("seed: ${oc.env:SECRET}\n")
    with pytest.raises(ConfigError, match=r"oc\.env"):
        load_config(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["kernel.type=uniform", "kernel.sigma=0.3", "inverter.type=gradient"], "kernel uniform"),
        (["kernel.type=laplace", "kernel.sigma=0.3", "inverter.type=gradient"], "up to 10 coordinates, not 64"),
        (["inverter.type=gradient", "inverter.score=causal", "density.type=realnvp"], "not autoregressive"),
        (["inverter.type=gradient", "evaluate.metrics=[elbo]"], "ELBO is undefined"),
        (["kernel.sigma=[0.1, 0.2]"], "2 numbers for 64 coordinates"),
        (["density.order=[0, 1]"], "order must hold each of 0 .. 63 once"),
        (["density.head=discretized"], "needs discrete data"),
    ],
)
def test_what_cannot_work_together_is_refused_at_build_time(overrides, expected):
    with pytest.raises(smoothgen.SmoothgenError, match="digits: ") as caught:
        smoothgen.build("digits", overrides)
    assert expected in str(caught.value)


def test_learnable_sigma_needs_a_bound():
    from smoothgen.stages import plan

    overrides = ["kernel.learnable=true", "inverter.type=gradient", "baseline=null"]
    config = load_config("digits", overrides)
    with pytest.raises(ConfigError, match=r"kernel\.learnable needs a bound"):
        plan(config, smoothgen.build(config), None)


def test_build_depends_on_the_seed_alone_and_leaves_the_callers_randomness_alone():
    import torch

    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = smoothgen.build("digits").state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second = smoothgen.build("digits").state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("source", [None, [1], 3])
def test_what_describes_no_experiment_is_refused_in_one_line(source):
    for function in (smoothgen.fit, smoothgen.build, smoothgen.load_config):
        with pytest.raises(ConfigError, match="expected a recipe's name, the path of a YAML file, a dict or"):
            function(source)
    with pytest.raises(ConfigError, match="not a path"):
        smoothgen.load(source)


@pytest.mark.parametrize("key", ["kernel.sigma", "trainer.max_steps", "seed", "trainer.clip_norm", "device.threads"])
def test_true_is_no_number(key):
    with pytest.raises(ConfigError, match=f"{key}: must be a number, got True"):
        load_config("rings", [f"{key}=true"])
