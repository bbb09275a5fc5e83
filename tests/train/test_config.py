import dataclasses
import json
import pathlib
import re

import pytest

from train.config import FREE_ON_RESUME, TINY, ConfigError, TrainConfig, config_from, defaults, read_config, to_table

_PAGE = pathlib.Path(__file__).parents[2] / "docs" / "training.md"


def _read(*settings, file=None, model="some/model"):
    return read_config(base=defaults(model), file=file, settings=settings)


def test_defaults_are_those_of_the_dataclass():
    assert _read() == TrainConfig()


def test_tiny_has_defaults_of_its_own():
    assert (_read(model=TINY).seq_len, _read(model=TINY).lr) == (256, 4e-3)


def test_settings_lie_over_the_file(tmp_path):
    file = tmp_path / "config.toml"
    file.write_text("lr = 1e-4\nseed = 3\n")
    config = _read("lr=2e-4", file=str(file))
    assert (config.lr, config.seed) == (2e-4, 3)


def test_whole_numbers_take_suffixes_and_floats_take_whole_numbers():
    config = _read("seq_len=8k", "lr=1", "max_steps=0.5M")
    assert (config.seq_len, config.lr, config.max_steps) == (8_000, 1.0, 500_000)


def test_a_stored_config_reads_back():
    config = _read("warmup_steps=7", "betas=[0.8, 0.9]", "epochs=3")
    assert config_from(json.loads(json.dumps(to_table(config)))) == config


def test_a_warm_up_in_steps_puts_the_ratio_out():
    assert _read("warmup_steps=7").phases(100).n_warmup_steps == 7
    assert _read("warmup_ratio=0.05").phases(110).n_warmup_steps == 6  # 5.5, rounded up


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("lrr=1", "config key 'lrr' is unknown; did you mean 'lr'?"),
        ("optim.lr=1", "config key 'optim.lr' is unknown"),
        ("lr", "--set 'lr' is not KEY=VALUE"),
        ("lr=0", "lr is 0; it takes a number above 0"),
        ("lr=fast", "lr is 'fast'; it takes a value of type float"),
        ("compile=1", "compile is 1; it takes a value of type bool"),
        ("seq_len=1.5", "seq_len is 1.5; it takes a value of type int"),
        ("seq_len=1", "seq_len is 1; it takes a whole number of at least 2"),
        ("epochs=0", "epochs is 0; it takes a whole number of at least 1"),
        ("micro_batch=7", "micro_batch 7 does not divide global_batch 256; valid values: 1, 2, 4, 8, 16, 32, 64, 128, 256"),
        ("betas=[0.9]", "betas is [0.9]; it takes a value of type two floats"),
        ("betas=[0.9, 1.0]", "betas is [0.9, 1.0]; each is at least 0 and below 1"),
        ("dtype=float16", "dtype is 'float16'; allowed: auto, float32, bfloat16, float64"),
        ("packing=best", "packing is 'best'; allowed: concat, best_fit"),
        ("device=tpu", "device is 'tpu'; allowed: auto, cpu, cuda, cuda:N"),
        ("min_lr_ratio=1.5", "min_lr_ratio is 1.5; it takes a ratio from 0 to 1"),
        ("schedule=step", "schedule is 'step'; allowed: cosine, linear, wsd, infinite, rewarm"),
        ("schedule=rewarm", "schedule 'rewarm' needs base_lr, the rate at which the base's own training ended, which has no default;"),
        ("base_lr=1e-6", "base_lr is given, and schedule 'cosine' does not read it; leave it out, or take rewarm"),
        ("base_lr=1e-3", "base_lr is 0.001; it takes a number from 0 to lr, 3e-05"),
        ("anneal_tokens=5M", "anneal_tokens is given, and schedule 'cosine' does not read it; leave it out, or take wsd or infinite"),
        ("attention=all", "attention is 'all'; allowed: documents, causal"),
        ("parallel=tp", "parallel is 'tp'; allowed: ddp, fsdp"),
        ("peak_tflops=0", "peak_tflops is 0; it takes a number above 0"),
        ("cost_per_hour=-1", "cost_per_hour is -1; it takes a number of at least 0"),
        ("activation_checkpointing=-1", "activation_checkpointing is -1; it takes a whole number of at least 0"),
        ("weight_decay=-1", "weight_decay is -1; it takes a number of at least 0"),
    ],
)
def test_a_wrong_setting_is_one_line_that_says_what_is_allowed(setting, message):
    with pytest.raises(ConfigError) as caught:
        _read(setting)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_two_warm_ups_are_refused():
    with pytest.raises(ConfigError, match="both given"):
        _read("warmup_steps=7", "warmup_ratio=0.1")


def test_an_infinite_schedule_does_not_rise_when_it_anneals():
    with pytest.raises(ConfigError, match=r"constant_lr_ratio 0\.05 is below min_lr_ratio 0\.1"):
        _read("schedule=infinite", "constant_lr_ratio=0.05")


def test_a_file_that_is_not_there_or_not_toml_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="not found"):
        _read(file=str(tmp_path / "none.toml"))
    (tmp_path / "bad.toml").write_text("lr = = 1")
    with pytest.raises(ConfigError, match="not valid TOML"):
        _read(file=str(tmp_path / "bad.toml"))


def test_the_docs_list_every_key_with_both_defaults():
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| `(.+?)` \| `(.+?)` \|", _PAGE.read_text(), flags=re.MULTILINE)
    written = {key: (unit, real, tiny) for key, unit, real, tiny in rows}
    assert list(written) == [field.name for field in dataclasses.fields(TrainConfig)]
    for key, (unit, real, tiny) in written.items():
        assert unit, key
        assert json.loads(real) == defaults("some/model")[key], key
        assert json.loads(tiny) == defaults(TINY)[key], key
    assert {key for key, (unit, _, _) in written.items() if unit.endswith(" *")} == set(FREE_ON_RESUME)
