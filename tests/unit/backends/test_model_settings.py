from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from backends.errors import ModelLoadError
from backends.model_settings import (
    FeaturesSettings,
    ModelSettings,
    parse_model_settings,
    read_model_settings,
    read_version_features,
)

PAGE = Path(__file__).parents[3] / "docs" / "model-toml.md"

SECTIONS = ModelSettings.__struct_fields__
KEYS = [
    (name, key) for name in SECTIONS for key in getattr(ModelSettings(), name).__struct_fields__
]


def parse(text: str) -> ModelSettings:
    return parse_model_settings(text, source="models/m/model.toml")


def refusal(text: str) -> str:
    with pytest.raises(ModelLoadError) as caught:
        parse(text)
    return str(caught.value)


def test_an_empty_file_means_defaults() -> None:
    assert parse("") == ModelSettings()


def test_a_missing_file_means_defaults(tmp_path: Path) -> None:
    assert read_model_settings(tmp_path / "model.toml") == ModelSettings()


def test_every_key_can_be_written() -> None:
    settings = parse(
        """
        [batching]
        mode = "always"
        max_batch_size = 8
        max_queue_delay_us = 500
        max_queue_requests = 10
        max_queue_rows = 20
        [deadline]
        default_timeout_ms = 50
        [priority]
        default = 1
        levels = 2
        [versions]
        policy = "specific"
        latest = 3
        specific = [1, 4]
        [execution]
        inline = "never"
        inline_limit_us = 1000
        instances = 2
        [onnxruntime]
        device = "cuda"
        device_id = 1
        intra_op_threads = 4
        inter_op_threads = 2
        graph_optimization = "basic"
        execution_mode = "parallel"
        spinning = true
        memory_arena = false
        memory_pattern = false
        session_config = { "session.set_denormal_as_zero" = "1" }
        [warmup]
        enabled = false
        runs = 5
        [features]
        service = "flights"
        lookup_budget_ms = 2
        max_defaulted_fraction = 0.5
        keys = { origin = "header:x-origin" }
        """
    )
    written = msgspec.to_builtins(settings)
    defaults = msgspec.to_builtins(ModelSettings())
    unchanged = [(name, key) for name, key in KEYS if written[name][key] == defaults[name][key]]
    assert unchanged == []
    assert settings.deadline.default_timeout_ms == 50.0
    assert settings.versions.specific == (1, 4)
    assert settings.onnxruntime.session_config == {"session.set_denormal_as_zero": "1"}


@pytest.mark.parametrize(("section", "key"), KEYS, ids=".".join)
def test_the_page_documents_every_key_with_its_default(section: str, key: str) -> None:
    rows = re.findall(rf"^\| `{key}` \| (.+?) \|", page_section(section), re.MULTILINE)
    assert rows == [as_toml(getattr(getattr(ModelSettings(), section), key))]


@pytest.mark.parametrize("section", SECTIONS)
def test_the_page_documents_no_key_that_does_not_exist(section: str) -> None:
    documented = re.findall(r"^\| `(\w+)` \|", page_section(section), re.MULTILINE)
    assert documented == list(getattr(ModelSettings(), section).__struct_fields__)


def page_section(section: str) -> str:
    _, found, rest = PAGE.read_text("utf-8").partition(f"\n## `[{section}]`\n")
    assert found, f"docs/model-toml.md has no section [{section}]"
    return rest.partition("\n## ")[0]


def as_toml(value: Any) -> str:
    if value is None:
        return "none"
    return f"`{json.dumps(value)}`"  # for what stands there, TOML and JSON write the same


def test_an_unknown_key_is_named_with_file_and_nearest_key() -> None:
    assert refusal("[batching]\nmax_batchsize = 3") == (
        "models/m/model.toml: unknown key `batching.max_batchsize`; "
        "the nearest known one is `batching.max_batch_size`"
    )


def test_a_key_in_the_wrong_section_is_shown_its_place() -> None:
    assert "the nearest known one is `onnxruntime.spinning`" in refusal(
        "[execution]\nspinning = true"
    )


def test_an_unknown_section_is_named() -> None:
    message = refusal("[onnx_runtime]\ndevice = 'cpu'")
    assert "unknown section [onnx_runtime]; the nearest known one is `onnxruntime`" in message


def test_a_key_outside_any_section_is_called_a_section() -> None:
    assert "unknown section [max_batch_size]" in refusal("max_batch_size = 3")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[batching]\nmax_batch_size = 0", "`batching.max_batch_size`: expected `int` >= 1"),
        (
            "[batching]\nmax_batch_size = true",
            "`batching.max_batch_size`: expected `int`, got `bool`",
        ),
        (
            "[batching]\nmax_batch_size = '8'",
            "`batching.max_batch_size`: expected `int`, got `str`",
        ),
        (
            "[batching]\nmode = 'on'",
            '`batching.mode`: must be "auto", "always" or "never", not \'on\'',
        ),
        (
            "[batching]\nmax_queue_delay_us = -1",
            "`batching.max_queue_delay_us`: expected `int` >= 0",
        ),
        (
            "[batching]\nmax_queue_requests = 0",
            "`batching.max_queue_requests`: expected `int` >= 1",
        ),
        ("[batching]\nmax_queue_rows = 8", "`max_queue_rows` must not be smaller"),
        ("batching = 3", "`batching`: expected a table, got `int`"),
        (
            "[deadline]\ndefault_timeout_ms = 0",
            "`deadline.default_timeout_ms`: expected `float` > 0",
        ),
        (
            "[deadline]\ndefault_timeout_ms = inf",
            "`deadline.default_timeout_ms`: expected `float` <=",
        ),
        ("[deadline]\ndefault_timeout_ms = nan", "`deadline.default_timeout_ms`: expected `float`"),
        ("[priority]\ndefault = 4", "`priority`: `default` must be between 1 and `levels` (3)"),
        ("[versions]\npolicy = 'newest'", '`versions.policy`: must be "latest", "all" or'),
        ("[versions]\npolicy = 'specific'", '`versions`: policy "specific" needs `specific'),
        ("[versions]\nspecific = [1]", '`specific` has no effect with policy "latest"'),
        ("[versions]\npolicy='specific'\nspecific = [1, 1]", "names a version twice"),
        (
            "[versions]\npolicy='specific'\nspecific = [0]",
            "`versions.specific[0]`: expected `int` >= 1",
        ),
        ("[versions]\nlatest = 0", "`versions.latest`: expected `int` >= 1"),
        ("[execution]\ninstances = 0", "`execution.instances`: expected `int` >= 1"),
        ("[onnxruntime]\ndevice = 'tpu'", '`onnxruntime.device`: must be "cpu" or "cuda"'),
        ("[onnxruntime]\ndevice_id = 1", '`device_id` has no effect with `device = "cpu"`'),
        (
            "[onnxruntime]\nintra_op_threads = 0",
            "`onnxruntime.intra_op_threads`: expected `int` >= 1",
        ),
        ("[onnxruntime.session_config]\na.b = '1'", "quote keys that contain dots"),
        ("[onnxruntime.session_config]\n'a.b' = 1", "`onnxruntime.session_config`: expected `str`"),
        ("[warmup]\nruns = 0", "`warmup.runs`: expected `int` >= 1"),
        ("[batching", "not valid TOML"),
    ],
)
def test_a_wrong_value_is_explained(text: str, said: str) -> None:
    message = refusal(text)
    assert message.startswith("models/m/model.toml: ")
    assert said in message
    assert "$." not in message


def test_text_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.toml").write_bytes(b"# caf\xe9")
    with pytest.raises(ModelLoadError, match=r"model\.toml: not UTF-8 text \(byte 5\)"):
        read_model_settings(tmp_path / "model.toml")


def test_a_folder_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.toml").mkdir()
    with pytest.raises(ModelLoadError, match="cannot be read: Is a directory"):
        read_model_settings(tmp_path / "model.toml")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('keys = { origin = "cookie:o" }', "write input:NAME, parameter:NAME or header:NAME"),
        ('keys = { origin = "input:" }', "write input:NAME, parameter:NAME or header:NAME"),
        ("max_defaulted_fraction = 1.5", "`features.max_defaulted_fraction`"),
        ("lookup_budget_ms = 0", "`features.lookup_budget_ms`"),
        ('keys = "origin"', 'write keys = { origin = "input:origin" }'),
    ],
)
def test_features_that_cannot_be_meant_are_refused(text: str, problem: str) -> None:
    assert problem in refusal(f'[features]\nservice = "flights"\n{text}')


def test_keys_without_a_service_are_refused() -> None:
    assert "no effect without `service`" in refusal('[features]\nkeys = { o = "input:o" }')


def test_a_version_may_have_features_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "version.toml"
    assert read_version_features(file) is None
    file.write_text('[features]\nservice = "v2"\n')
    found = read_version_features(file)
    assert found is not None
    assert found.service == "v2"
    file.write_text("[features]\n")
    assert read_version_features(file) == FeaturesSettings()


def test_a_version_decides_nothing_but_its_features(tmp_path: Path) -> None:
    file = tmp_path / "version.toml"
    file.write_text("[batching]\nmax_batch_size = 3\n")
    with pytest.raises(
        ModelLoadError, match=r"version\.toml: \[batching\] counts for all versions"
    ):
        read_version_features(file)
