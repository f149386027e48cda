"""Settings: every default holds, every range is kept, every mistake is answered with one sentence that helps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pellucid import config as config_module
from pellucid.config import (
    Config,
    CorpusConfig,
    DecodingConfig,
    ModelConfig,
    TokenizerConfig,
    TrainingConfig,
    dump_config,
    load_config,
    parse_config,
)
from pellucid.errors import ConfigError
from pellucid.settings import explain, fields_of, group_of, merged, read_override


def get(config: Config, name: str) -> Any:
    value: Any = config
    for part in name.split("."):
        value = getattr(value, part)
    return value


def refusal(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(overrides=overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Dotted name and pydantic field of every setting; of the corpora, which are alike, the first.
SETTINGS = {
    name: field
    for name, field in fields_of(Config)
    if not group_of(field) and not name.startswith(("data.dev", "data.test", "data.corpora"))
}


# -- reading: file, flags, overrides


def test_without_anything_the_defaults_hold() -> None:
    assert load_config() == Config() == parse_config({})
    assert (Config().seed, Config().model.hidden_size, Config().training.max_epochs) == (1, 256, 20)


def test_overrides_win_over_flags_and_flags_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("seed: 2\ntraining: {batch_tokens: 100, accumulate: 100, save_every: 100}\n")
    flags = {"training": {"accumulate": 200, "save_every": 200}}
    config = load_config(path, ["training.save_every=250", "training.save_every=300"], flags)
    training = config.training
    assert (config.seed, training.batch_tokens, training.accumulate, training.save_every) == (2, 100, 200, 300)
    assert training.log_every == TrainingConfig().log_every
    assert flags == {"training": {"accumulate": 200, "save_every": 200}}


def test_an_override_can_set_a_whole_group_and_then_one_of_its_settings() -> None:
    config = load_config(overrides=["data.train={source: a.zh, target: a.en}", "data.train.target=b.en"])
    assert config.data.train == CorpusConfig(source="a.zh", target="b.en")


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("training.learning_rate=2e-3", 0.002),  # a string in YAML 1.1, which wants a dot
        ("training.learning_rate=1.0e-3", 0.001),
        ("training.max_grad_norm=null", None),
        ("training.max_grad_norm=", None),
        ("tokenizer.joint=no", False),
        ("model.norm=rmsnorm", "rmsnorm"),
        ("output=2024", "2024"),
        ("output=2026-01-31", "2026-01-31"),
        ("output=a=b", "a=b"),
        ("data.dir=/tmp/我", "/tmp/我"),
    ],
)
def test_values_of_overrides_are_yaml(override: str, value: object) -> None:
    config = load_config(overrides=["model.tied_embeddings=two", override])
    assert get(config, override.partition("=")[0]) == value


@pytest.mark.parametrize("override", ["model", "=3", "model.num_heads"])
def test_an_override_that_is_none_is_refused(override: str) -> None:
    assert refusal(override) == f"override {override!r} is not of the form key=value, e.g. model.hidden_size=512"


@pytest.mark.parametrize("override", ["model.num_heads=[1", "seed=0x_", "model={norm: 1, norm: 2}"])
def test_an_override_whose_value_is_not_yaml_is_refused(override: str) -> None:
    assert refusal(override) == f"override {override!r}: the value is not valid YAML"


def test_laying_settings_over_others_changes_neither() -> None:
    old = {"a": {"b": 1, "c": {"d": 2}}, "e": {"f": 3}}
    new = {"a": {"c": {"g": 4}}, "e": 5, "h": {"i": 6}}
    assert merged(old, new) == {"a": {"b": 1, "c": {"d": 2, "g": 4}}, "e": 5, "h": {"i": 6}}
    assert old == {"a": {"b": 1, "c": {"d": 2}}, "e": {"f": 3}}
    assert new == {"a": {"c": {"g": 4}}, "e": 5, "h": {"i": 6}}
    assert read_override("a.b.c=[1]") == {"a": {"b": {"c": [1]}}}


# -- files that are not configs


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"model:\n  norm: rmsnorm\n bias: true\n",
            ", line 3: not valid YAML (expected <block end>, but found '<block",
        ),
        (b"model: [1\n", ", line 2: not valid YAML (expected ',' or ']', but got '<stream end>')"),
        (b"model:\n  norm: rmsnorm\nmodel:\n  bias: no\n", ", line 3: not valid YAML (model is given twice)"),
        (b"training:\n  seed: 1\n  seed: 1\n", ", line 3: not valid YAML (seed is given twice)"),
        (b"- seed\n", ": expected settings (key: value), found list"),
        (b"seed\n", ": expected settings (key: value), found str"),
        (b"seed: 0x_\n", ": not a YAML file in UTF-8 (invalid literal for int() with base 16: '')"),
        ("seed: 1 # 种子".encode("gb18030"), ": not a YAML file in UTF-8 ('utf-8' codec can't decode byte"),
        (b"\x7fELF\x00\x01", ": not a YAML file in UTF-8 (unacceptable character #x007f"),
        (b"model: {hidden_sise: 8}\n", ": unknown setting model.hidden_sise; did you mean model.hidden_size?"),
        (b"decoding: {beam_size: 0}\n", ": decoding.beam_size = 0: input should be greater than or equal to 1"),
    ],
)
def test_a_bad_file_is_named_with_the_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{path}{message}")
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "none.yaml")
    assert str(caught.value) == f"{tmp_path / 'none.yaml'}: no such config file"
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path)
    assert str(caught.value) == f"{tmp_path}: cannot be read as a config file (Is a directory)"


@pytest.mark.parametrize("content", ["", "# nothing\n", "---\n", "model:\n  # norm: x\noutput:\n", "\ufeffseed: 1"])
def test_an_empty_file_or_group_means_the_defaults(tmp_path: Path, content: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(content, encoding="utf-8")
    assert load_config(path) == Config()


# -- unknown settings


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("modle.norm=x", "unknown setting modle; did you mean model?"),
        ("model.hidden_sise=8", "unknown setting model.hidden_sise; did you mean model.hidden_size?"),
        ("data.train={sorce: a}", "unknown setting data.train.sorce; did you mean data.train.source?"),
        ("learning_rate=1", "unknown setting learning_rate; did you mean training.learning_rate?"),
        (
            "max_length_ratio=1",
            "unknown setting max_length_ratio; did you mean data.max_length_ratio or decoding.max_length_ratio?",
        ),
        ("model.beam_size=1", "unknown setting model.beam_size; did you mean decoding.beam_size?"),
        ("xyzzy=1", "unknown setting xyzzy; known here: output, seed, data, tokenizer, model, training, decoding"),
        (
            "data.train={xyzzy: 1}",
            "unknown setting data.train.xyzzy; known here: source, target, path, source_column, target_column, tag",
        ),
    ],
)
def test_an_unknown_setting_is_answered_with_what_may_have_been_meant(override: str, hint: str) -> None:
    assert refusal(override) == hint


def test_no_group_accepts_unknown_settings() -> None:
    for group in ("data", "tokenizer", "model", "training", "decoding", "data.train", "data.dev", "data.test"):
        assert refusal(f"{group}.xyzzy=1").startswith(f"unknown setting {group}.xyzzy; known here: ")


# -- values


# The largest and smallest value that is allowed, and the nearest that is not.
RANGES = [
    ("seed", [0, 2**32 - 1], [-1, 2**32]),
    ("data.holdout", [1], [0]),
    ("data.max_source_tokens", [1], [0]),
    ("data.max_target_tokens", [1], [0]),
    ("data.max_length_ratio", [1.01], [1.0]),
    ("data.max_unknown", [0.0, 0.999], [-0.001, 1.0]),
    ("data.drop_final_punctuation", [0.0, 1.0], [-0.001, 1.001]),
    ("data.temperature", [1.0, 5.0, 1000.0], [0.999, 1000.1]),
    ("data.train.source_column", [0, 3, "zh"], [-1, 1.5]),
    ("data.train.target_column", [0, 3, "en"], [-1, [1]]),
    ("tokenizer.vocab_size", [16, 1_000_000], [15, 1_000_001]),
    ("tokenizer.character_coverage", [0.901, 1.0], [0.9, 1.001]),
    ("tokenizer.sampling_alpha", [0.0, 1.0], [-0.1, 1.1]),
    ("model.hidden_size", [4], [0]),
    ("model.encoder_layers", [1], [0]),
    ("model.decoder_layers", [1], [0]),
    ("model.num_heads", [1], [0]),
    ("model.head_dim", [1, None], [0]),
    ("model.norm_epsilon", [1e-12, 0.1, None], [0.0, 0.2]),
    ("model.first_position", [0, 1000], [-1, 1001]),
    ("model.relative_buckets", [4], [3, 5, 65538]),
    ("model.rotary_base", [100.0, 500000.0, 1e9], [99.0, 2e9]),
    ("model.relative_max_distance", [17], [0]),
    ("model.num_kv_heads", [1, None], [0]),
    ("model.cross_num_kv_heads", [1, None], [0]),
    ("model.ff_size", [1], [0]),
    ("model.max_positions", [1], [0]),
    ("model.dropout", [0.0, 0.999], [-0.1, 1.0]),
    ("model.attention_dropout", [0.0, 0.999], [-0.1, 1.0]),
    ("model.ff_dropout", [0.0, 0.999], [-0.1, 1.0]),
    ("model.word_dropout", [0.0, 0.999], [-0.1, 1.0]),
    ("training.batch_tokens", [16], [15]),
    ("training.accumulate", [1], [0]),
    ("training.max_updates", [1, None], [0]),
    ("training.max_epochs", [1], [0]),
    ("training.learning_rate", [1e-9, 1.0], [0.0, 1.001]),
    ("training.warmup_steps", [0], [-1]),
    ("training.final_learning_rate", [0.0, 0.999], [-0.1, 1.0]),
    ("training.adam_beta1", [0.0, 0.999], [-0.1, 1.0]),
    ("training.adam_beta2", [0.0, 0.999], [-0.1, 1.0]),
    ("training.adam_epsilon", [1e-12], [0.0]),
    ("training.weight_decay", [0.0], [-0.1]),
    ("training.max_grad_norm", [0.1, None], [0.0]),
    ("training.label_smoothing", [0.0, 0.999], [-0.1, 1.0]),
    ("training.r_drop", [0.0, 5.0, 100.0], [-0.1, 100.1]),
    ("training.lora.rank", [1], [0]),
    ("training.lora.alpha", [0.1], [0.0]),
    ("training.lora.dropout", [0.0, 0.999], [-0.1, 1.0]),
    ("training.scheduled_sampling", [0.0, 1.0], [-0.1, 1.1]),
    ("training.scheduled_sampling_start", [0], [-1]),
    ("training.ema_decay", [0.0, 0.999], [-0.1, 1.0]),
    ("training.validate_every", [1, None], [0]),
    ("training.validate_after", [0], [-1]),
    ("training.save_every", [1], [0]),
    ("training.log_every", [1], [0]),
    ("training.validation_beam_size", [1], [0]),
    ("training.patience", [1, None], [0]),
    ("training.checks", ["refuse", "warn", "skip"], ["off", None]),
    ("training.threads", [1, None], [0]),
    ("decoding.beam_size", [1, 1024], [0, 1025]),
    ("decoding.n_best", [1, 1024], [0, 1025]),
    ("decoding.length_alpha", [-10.0, 10.0], [-10.1, 10.1]),
    ("decoding.min_length", [0], [-1]),
    ("decoding.repetition_penalty", [0.001, 100.0], [0.0, 100.1]),
    ("decoding.no_repeat_ngram", [0, 1000], [-1, 1001]),
    ("decoding.diversity_groups", [1, 1024], [0, 1025]),
    ("decoding.diversity_strength", [0.0, 1000.0], [-0.1, 1000.1]),
    ("decoding.temperature", [0.001, 100.0], [0.0009, 100.1]),
    ("decoding.top_k", [1, None], [0]),
    ("decoding.top_p", [0.001, 1.0], [0.0, 1.1]),
    ("decoding.min_p", [0.0, 1.0], [-0.1, 1.1]),
    ("decoding.typical_p", [0.001, 1.0], [0.0, 1.1]),
    ("decoding.seed", [0, 2**32 - 1], [-1, 2**32]),
    ("decoding.max_length", [1, None], [0]),
    ("decoding.max_length_ratio", [0.0, 100.0], [-0.1, 100.1]),
    ("decoding.max_length_extra", [1], [0]),
    ("decoding.max_source_length", [1], [0]),
    ("decoding.batch_size", [1], [0]),
]

CHOICES = {
    "data.on_bad_line": ["error", "drop"],
    "tokenizer.kind": ["sentencepiece", "characters", "letters", "symbols"],
    "tokenizer.target_kind": ["sentencepiece", "characters", "letters", "symbols", None],
    "tokenizer.model": ["unigram", "bpe"],
    "tokenizer.normalization": ["nmt_nfkc", "nfkc", "nmt_nfkc_cf", "nfkc_cf", "identity"],
    "tokenizer.source_script": ["none", "simplified", "traditional"],
    "tokenizer.target_script": ["none", "simplified", "traditional"],
    "model.preset": ["tiny", "small", "base", None],
    "model.activation": ["relu", "gelu", "gelu_tanh", "silu", "reglu", "geglu", "geglu_tanh", "swiglu"],
    "model.norm": ["layernorm", "rmsnorm"],
    "model.norm_placement": ["pre", "post"],
    "model.positions": ["sinusoidal", "learned", "rotary", "relative", "none"],
    "model.sinusoidal_layout": ["interleaved", "halves", "fairseq"],
    "model.tied_embeddings": ["three", "two", "inputs", "none"],
    "training.schedule": ["inverse_sqrt", "cosine", "linear", "constant"],
    "training.precision": ["auto", "float32", "bfloat16"],
    "training.scheduled_sampling_schedule": ["linear", "inverse_sigmoid", "constant"],
    "training.scheduled_sampling_choice": ["argmax", "sample"],
    "training.metric": ["loss", "bleu", "chrf", "wer", "ser"],
    "training.device": ["auto", "cpu", "cuda", "cuda:0", "cuda:11", "mps"],
    "decoding.unknown": ["keep", "drop", "copy"],
    "decoding.length_penalty": ["average", "power", "gnmt", "none"],
    "decoding.stop": ["exact", "first_k", "top", "heuristic"],
    "decoding.beam": ["narrowing", "full"],
    "decoding.forced_score": ["counted", "free"],
}

# Some values that are allowed, and some that are not.
LISTS: dict[str, tuple[list[Any], list[Any]]] = {
    "training.freeze": ([[], ["encoder.*", "*.norm.*"]], ["encoder.*", [1], 3]),
    "training.lora.targets": ([["*.query"], ["*.up", "*.down"]], ["*.query", [1], 3]),
    "tokenizer.placeholders": ([[], ["url"], ["number", "email", "url"]], ["url", ["xyzzy"], [1], 3]),
    **{
        f"decoding.{name}": ([[], ["▁a", "b"]], ["▁a", [1], 3])
        for name in ("prefix_tokens", "forbidden_tokens", "allowed_tokens", "forbidden_phrases")
    },
}

MODEL_FLAGS = ["scale_embeddings", "embedding_norm", "scale_attention", "scale_output", "output_bias", "bias"]
FLAGS = ["tokenizer.joint", "tokenizer.byte_fallback", *(f"model.{name}" for name in MODEL_FLAGS)]
FLAGS += ["decoding.sampling", "decoding.force_end", "decoding.renormalize"]
TEXTS = [
    *("decoding.prefix", "output", "data.dir", "data.train.source", "data.train.target", "data.train.path"),
    *("training.init_from", "training.encoder_from", "training.metric_corpus", "data.train.tag", "decoding.tag"),
]

TWO = "data.corpora={a: {path: a.tsv}, b: {path: b.tsv}}"

# What must stand beside a value for it to be allowed.
COMPANIONS = {
    "data.temperature": [TWO],
    "data.train.source": ["data.train.target=a.en"],
    "data.train.target": ["data.train.source=a.zh"],
    "data.train.source_column": ["data.train.path=a.tsv"],
    "data.train.target_column": ["data.train.path=a.tsv"],
    **{f"training.lora.{name}": ["training.init_from=a"] for name in ("rank", "alpha", "dropout", "targets")},
    "tokenizer": ["model.tied_embeddings=two"],
    "decoding.diversity_groups": ["decoding.beam_size=1024"],
    "decoding.diversity_strength": ["decoding.beam_size=4", "decoding.diversity_groups=2"],
    **{
        f"decoding.{name}": ["decoding.sampling=true"]
        for name in ("n_best", "temperature", "top_k", "top_p", "min_p", "typical_p")
    },
}


def override(name: str, value: object) -> list[str]:
    companions = COMPANIONS.get(name, COMPANIONS.get(name.partition(".")[0], []))
    return [*companions, f"{name}={json.dumps(value)}"]  # JSON is YAML


def test_every_setting_is_in_one_of_the_tables_above() -> None:
    listed = [name for name, _, _ in RANGES] + list(CHOICES) + list(LISTS) + FLAGS + TEXTS
    assert sorted(listed) == sorted(SETTINGS)


@pytest.mark.parametrize(("name", "allowed", "refused"), RANGES, ids=[name for name, _, _ in RANGES])
def test_the_range_of_every_number(name: str, allowed: list[object], refused: list[object]) -> None:
    for value in allowed:
        assert get(load_config(overrides=override(name, value)), name) == value
    for value in refused:
        assert refusal(*override(name, value)).startswith(f"{name} = {value!r}: input should be ")


@pytest.mark.parametrize(("name", "choices"), CHOICES.items())
def test_the_choices_of_every_named_setting(name: str, choices: list[str]) -> None:
    for value in choices:
        assert get(load_config(overrides=override(name, value)), name) == value
    for wrong in ("xyzzy", choices[0].upper(), f"{choices[0]} ", 1):
        message = refusal(*override(name, wrong))
        assert message.startswith(f"{name} = {wrong!r}: ")
        if name != "training.device":
            assert all(repr(value) in message for value in choices if value is not None)


@pytest.mark.parametrize(("name", "allowed", "refused"), [(name, *values) for name, values in LISTS.items()])
def test_the_members_of_every_list(name: str, allowed: list[Any], refused: list[Any]) -> None:
    for value in allowed:
        assert list(get(load_config(overrides=override(name, value)), name)) == value
    for value in refused:
        wrong = value[0] if isinstance(value, list) else value
        assert refusal(*override(name, value)).startswith(f"{name} = {wrong!r}: input should be ")


@pytest.mark.parametrize("name", [name for name, field in SETTINGS.items() if field.annotation is not bool])
def test_only_flags_are_true_or_false(name: str) -> None:
    for value in (True, False):
        assert refusal(*override(name, value)) == f"{name} = {value!r}: expected a value, not true or false"


@pytest.mark.parametrize("name", FLAGS)
def test_flags_are_true_or_false(name: str) -> None:
    for value in (True, False):
        assert get(load_config(overrides=override(name, value)), name) is value
    assert refusal(*override(name, "maybe")).startswith(f"{name} = 'maybe': input should be a valid boolean")


@pytest.mark.parametrize("name", [name for name, _, refused in RANGES if any(isinstance(x, float) for x in refused)])
@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf"])
def test_no_number_is_infinite_or_undefined(name: str, value: str) -> None:
    message = refusal(*override(name, 0)[:-1], f"{name}={value}")
    assert message.startswith(f"{name} = {value.replace('.', '')}: input should be ")


def test_a_value_where_a_group_belongs_and_the_other_way_round() -> None:
    assert refusal("data.train=a.tsv") == (
        "data.train = 'a.tsv': expected a group of settings (source, target, path, source_column, target_column, tag)"
    )
    assert refusal("decoding=5").startswith("decoding = 5: expected a group of settings (beam_size, n_best, ")
    assert refusal("model=yes").startswith("model = True: expected a group of settings (preset, hidden_size, ")
    assert refusal("model=3").startswith("model = 3: expected a group of settings (preset, hidden_size, ")
    assert refusal("seed.x=1") == "seed = {'x': 1}: input should be a valid integer"
    assert refusal("model.preset=[tiny]").startswith("model.preset = ['tiny']: input should be 'tiny', ")
    assert refusal("model={1: 2}") == "model.1 = 1: keys should be strings"


def test_a_setting_cannot_be_changed_afterwards() -> None:
    config = Config()
    with pytest.raises(ValidationError, match="frozen"):
        config.seed = 2  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        config.model.norm = "rmsnorm"  # type: ignore[misc]


def test_a_single_group_explains_itself_too() -> None:
    with pytest.raises(ValidationError) as caught:
        ModelConfig.model_validate({"hidden_sise": 8})
    assert explain(caught.value, ModelConfig) == "unknown setting hidden_sise; did you mean hidden_size?"
    with pytest.raises(ValidationError) as caught:
        ModelConfig.model_validate({"hidden_size": 9, "num_heads": 2})
    assert explain(caught.value, ModelConfig) == "hidden_size (9) must be a multiple of num_heads (2)"
    with pytest.raises(ValidationError) as caught:
        CorpusConfig.model_validate([1])
    expected = "settings = [1]: expected a group of settings (source, target, path, source_column, target_column, tag)"
    assert explain(caught.value, CorpusConfig) == expected


# -- contradictions


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.train={}"], "data.train: give either source and target"),
        (["data.train={source: a}"], "data.train: give either source and target"),
        (["data.dev={target: a}"], "data.dev: give either source and target"),
        (["data.test={source: a, target: b, path: c}"], "data.test: give either source and target"),
        (["data.test={source: a, path: c}"], "data.test: give either source and target"),
        ([TWO, "data.corpora.a.dev={source: x}"], "data.corpora.a.dev: give either source and target"),
        ([TWO, "data.corpora.b.weight=0"], "data.corpora.b.weight = 0: input should be greater than 0"),
        ([TWO, "data.corpora.b.wieght=2"], "unknown setting data.corpora.b.wieght; did you mean data.corpora.b.we"),
        ([TWO, "data.corpora.c=3"], "data.corpora.c = 3: expected a group of settings (source, target, path, "),
        ([TWO, "data.train.path=c"], "data: train is one corpus and corpora are several: give one of the two"),
        ([TWO, "data.dev.path=c", "data.corpora.a.dev.path=d"], "data: dev is the development set of all, and cor"),
        (["data.temperature=2"], "data: temperature has no effect without several corpora"),
        (["data.corpora={a b: {path: x}}"], "data: corpora: a corpus cannot be called 'a b': use letters, digits"),
        (["data.corpora={A: {path: x}, a: {path: y}}"], "data: corpora: A and a differ in case alone: rename one"),
        ([TWO, "data.corpora.a.tag=de"], "data.corpora.a.tag: a tag stands between marks and has neither spaces"),
        ([TWO, "data.corpora.a.tag=<a b>"], "data.corpora.a.tag: a tag stands between marks and has neither spac"),
        ([TWO, "data.corpora.a.tag=<unk>"], "data.corpora.a.tag: <unk> is a special token of every vocabulary"),
        (
            [TWO, "data.corpora.a.tag=<de>", "data.corpora.b.tag=__de__"],
            "data: the tags <de> and __de__ are told apart by their marks alone: rename one",
        ),
        (["training.metric_corpus=a"], "training.metric_corpus = 'a': there is one development set: name one of "),
        ([TWO, "training.metric_corpus=c"], "training.metric_corpus = 'c': those with a development set are a, b"),
        (["tokenizer.kind=characters", "tokenizer.sampling_alpha=0.1"], "tokenizer: sampling_alpha needs kind: sent"),
        (["tokenizer.model=bpe", "tokenizer.sampling_alpha=0.1"], "tokenizer: sampling_alpha needs kind: sentencep"),
        (["tokenizer.kind=symbols", "tokenizer.placeholders=[url]"], "tokenizer: placeholders need kind: sentencep"),
        (["tokenizer.target_kind=symbols", "tokenizer.placeholders=[url]"], "tokenizer: placeholders need kind: sent"),
        (["tokenizer.placeholders=[url, url]"], "tokenizer: placeholders names a kind twice: url, url"),
        (["model.hidden_size=10"], "model: hidden_size (10) must be a multiple of num_heads (4)"),
        (["model.num_kv_heads=3"], "model: num_kv_heads (3) must divide num_heads (4)"),
        (
            ["model.sinusoidal_layout=fairseq", "model.hidden_size=2", "model.num_heads=1"],
            "model: sinusoidal_layout: fairseq needs a hidden_size of at least 4, not 2",
        ),
        (
            ["model.relative_max_distance=16"],
            "model: relative_max_distance (16) must exceed half of relative_buckets (32): ",
        ),
        (
            ["tokenizer.joint=false", "model.tied_embeddings=inputs"],
            "model.tied_embeddings: inputs needs one vocabulary",
        ),
        (["model.cross_num_kv_heads=8"], "model: cross_num_kv_heads (8) must divide num_heads (4)"),
        (
            ["model.positions=rotary", "model.hidden_size=12"],
            "model: rotary positions need an even head size, not 3",
        ),
        (
            ["model.positions=sinusoidal", "model.hidden_size=9", "model.num_heads=3"],
            "model: sinusoidal positions need an even hidden_size, not 9",
        ),
        (["decoding.beam_size=4", "decoding.n_best=5"], "decoding: n_best (5) must not exceed beam_size (4)"),
        (["tokenizer.joint=false"], "model.tied_embeddings: three needs one vocabulary for both sides"),
        (["tokenizer.target_kind=symbols"], "model.tied_embeddings: three needs one vocabulary for both sides"),
        (
            ["model.positions=learned", "model.max_positions=256"],
            "model.max_positions (256) is shorter than the longest training sequence (257 with </s>)",
        ),
        (
            ["model.positions=learned", "data.max_target_tokens=512"],
            "model.max_positions (512) is shorter than the longest training sequence (513 with </s>)",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(overrides: list[str], message: str) -> None:
    assert refusal(*overrides).startswith(message)


@pytest.mark.parametrize(
    "overrides",
    [
        ["data.train={path: a.tsv}", "data.dev={source: a, target: b}"],
        ["tokenizer.sampling_alpha=0.1"],
        ["model.num_kv_heads=2", "model.cross_num_kv_heads=1"],
        ["model.hidden_size=10", "model.head_dim=6"],
        ["model.positions=none", "model.hidden_size=9", "model.num_heads=3"],
        ["model.positions=rotary", "model.hidden_size=16"],
        ["decoding.beam_size=5", "decoding.n_best=5"],
        ["tokenizer.joint=false", "model.tied_embeddings=two"],
        ["tokenizer.target_kind=symbols", "model.tied_embeddings=none"],
        ["tokenizer.kind=symbols", "tokenizer.target_kind=symbols"],
        ["model.positions=learned", "model.max_positions=257"],
        ["model.positions=sinusoidal", "model.max_positions=8"],
    ],
)
def test_settings_that_come_close_to_it_are_not(overrides: list[str]) -> None:
    load_config(overrides=overrides)


# -- what follows from other settings


@pytest.mark.parametrize("name", ["tiny", "small", "base"])
def test_a_preset_sets_the_sizes_and_what_is_given_beside_it_wins(name: Any) -> None:
    preset = config_module.PRESETS[name]
    model = ModelConfig(preset=name)
    assert {key: getattr(model, key) for key in preset} == preset
    assert model.head_size * model.num_heads == model.hidden_size
    others = set(ModelConfig.model_fields) - set(preset) - {"preset"}
    assert {key: getattr(model, key) for key in others} == {key: getattr(ModelConfig(), key) for key in others}
    model = load_config(overrides=["model.ff_size=96", f"model.preset={name}"]).model
    assert (model.ff_size, model.hidden_size) == (96, preset["hidden_size"])


def test_the_base_preset_is_the_base_model_of_2017() -> None:
    model = ModelConfig(preset="base")
    # Vaswani et al. 2017, table 3, row "base", and sections 3.1, 3.4, 3.5.
    assert (model.encoder_layers, model.hidden_size, model.ff_size, model.num_heads) == (6, 512, 2048, 8)
    assert (model.decoder_layers, model.head_size, model.dropout) == (6, 64, 0.1)
    assert (model.norm_placement, model.activation, model.norm) == ("post", "relu", "layernorm")
    assert (model.positions, model.tied_embeddings, model.scale_embeddings) == ("sinusoidal", "three", True)


def test_key_value_heads_follow_the_query_heads_and_cross_follows_self() -> None:
    heads = [
        ModelConfig(num_heads=8, num_kv_heads=self_heads, cross_num_kv_heads=cross_heads, hidden_size=64)
        for self_heads, cross_heads in [(None, None), (2, None), (None, 4), (2, 1)]
    ]
    assert [(model.self_kv_heads, model.cross_kv_heads) for model in heads] == [(8, 8), (2, 2), (8, 4), (2, 1)]


def test_one_vocabulary_only_where_asked_for_and_of_one_kind() -> None:
    kinds = [
        TokenizerConfig(joint=joint, kind="symbols", target_kind=target)
        for joint, target in [(True, None), (True, "symbols"), (True, "characters"), (False, None)]
    ]
    assert [tokenizer.is_joint for tokenizer in kinds] == [True, True, False, False]


def test_training_always_ends() -> None:
    assert TrainingConfig().max_epochs == 20
    assert TrainingConfig(max_updates=None, max_epochs=None).max_epochs == 20
    assert TrainingConfig(max_updates=100).max_epochs is None
    assert TrainingConfig(max_epochs=3).max_epochs == 3
    both = TrainingConfig(max_updates=100, max_epochs=3)
    assert (both.max_updates, both.max_epochs) == (100, 3)


def test_the_length_limit() -> None:
    assert DecodingConfig().limit(7) == 24
    assert DecodingConfig(max_length_ratio=1.5, max_length_extra=3).limit(5) == 11  # ⌈7.5⌉ + 3
    assert DecodingConfig(max_length_ratio=0.0, max_length_extra=3).limit(5) == 3
    assert DecodingConfig(max_length=4, max_length_ratio=1.5).limit(500) == 4


@given(ratio=st.integers(0, 400), extra=st.integers(1, 50), length=st.integers(0, 2000))
def test_the_length_limit_is_rounded_up(ratio: int, extra: int, length: int) -> None:
    # Quarters are exact in binary, so that integer arithmetic can tell what is right.
    decoding = DecodingConfig(max_length_ratio=ratio / 4, max_length_extra=extra)
    assert decoding.limit(length) == (ratio * length + 3) // 4 + extra


# -- writing and reading back


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["model.preset=tiny", "model.hidden_size=64", "seed=4294967295"],
        ["data.train={path: 语料.jsonl, source_column: zh, target_column: en}", "data.dir=2024", "output='yes'"],
        ["training.max_updates=10", "training.max_grad_norm=null", "training.adam_epsilon=1e-12"],
        ["tokenizer.joint=false", "model.tied_embeddings=none", "decoding.length_penalty=none"],
    ],
)
def test_a_dumped_config_reads_back_the_same(tmp_path: Path, overrides: list[str]) -> None:
    config = load_config(overrides=overrides)
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config), encoding="utf-8")
    assert load_config(path) == config
    assert dump_config(load_config(path)) == dump_config(config)


def test_a_dump_states_every_setting_in_order_and_in_plain_characters() -> None:
    config = load_config(overrides=["data.train={path: 语料.tsv}"])
    dumped = dump_config(config)
    assert "path: 语料.tsv" in dumped
    values = yaml.safe_load(dumped)
    assert list(values) == list(Config.model_fields)
    assert list(values["training"]) == list(TrainingConfig.model_fields)
    assert values["training"]["max_epochs"] == 20
    assert list(values["data"]["train"]) == list(CorpusConfig.model_fields)


def test_every_setting_has_a_meaning() -> None:
    for name, field in SETTINGS.items():
        assert field.description, name
        assert field.description.endswith("."), name
        assert field.description[0].isupper() or field.description.startswith("auto"), name


def test_several_corpora_keep_their_order_and_hand_their_tags_to_their_development_sets(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(
        "data:\n  corpora:\n    talks: {path: t.tsv, tag: <talks>, dev: {path: td.tsv}}\n    all: {path: a.tsv}\n"
    )
    config = load_config(path, ["data.corpora.all.weight=2", "data.temperature=5"])
    assert list(config.data.corpora) == ["talks", "all"]
    talks, rest = config.data.corpora.values()
    assert talks.dev is not None and (talks.tag, talks.dev.tag, rest.tag, rest.weight) == (
        "<talks>",
        "<talks>",
        None,
        2,
    )
    assert (config.data.tags, config.data.dev_names) == (("<talks>",), ("talks",))
    assert parse_config(yaml.safe_load(dump_config(config))) == config


def test_one_name_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("data:\n  corpora:\n    a: {path: x}\n    a: {path: y}\n")
    with pytest.raises(ConfigError, match=r"line 4: not valid YAML \(a is given twice\)"):
        load_config(tmp_path / "run.yaml")
