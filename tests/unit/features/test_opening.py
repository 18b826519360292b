from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from featurecache.errors import DefinitionError
from featurecache.sources.cluster_source import ClusterSource
from featurecache.sources.memory_source import MemorySource
from featurecache.sources.opening import open_source
from featurecache.sources.redis_source import RedisSource
from featurecache.sources.source_limits import SourceLimits
from tests.support.certificates import Authority

KINDS = [
    ("redis://localhost", RedisSource, "redis://localhost:6379"),
    ("redis://:s3cret@10.0.0.1:7000/3?client_name=w1", RedisSource, "redis://10.0.0.1:7000"),
    ("redis://u:s3cret%40@[::1]:7000", RedisSource, "redis://[::1]:7000"),
    ("rediss://u:s3cret@store.example", RedisSource, "rediss://store.example:6379"),
    ("unix:///run/valkey.sock?db=2", RedisSource, "unix:///run/valkey.sock"),
    ("unix://u:s3cret@/run/my%20valkey.sock", RedisSource, "unix:///run/my valkey.sock"),
    (
        "redis+sentinel://u:s3cret@a,b:9/main/2?sentinel_password=s3cret",
        RedisSource,
        "redis+sentinel://a:26379,b:9/main",
    ),
    ("redis+cluster://u:s3cret@a,b:9", ClusterSource, "redis+cluster://a:6379,b:9"),
    ("memory://", MemorySource, "memory"),
]


@pytest.mark.parametrize(("url", "kind", "name"), KINDS)
def test_each_address_opens_its_source_and_names_it_without_passwords(
    url: str, kind: type, name: str
) -> None:
    source = open_source(url, SourceLimits())
    assert type(source) is kind
    assert source.name == name
    assert not source.is_up
    assert not source.tracks


BAD = [
    ("", "must begin with one of"),
    ("localhost:6379", "must begin with one of"),
    ("http://h", "must begin with one of"),
    ("redis://", "names no host"),
    ("redis://h:0x", "port"),
    ("redis://h:99999", "port"),
    ("redis://a,b", "several need redis+sentinel:// or redis+cluster://"),
    ("redis://h/x", "a database that is no number"),
    ("redis://h/-1", "a database that is no number"),
    ("redis://user@h", "a user without a password"),
    ("redis://h?timeout=5", "timeout has no meaning"),
    ("redis://h?ca=/x", "ca has no meaning"),
    ("redis://h?client_name=a&client_name=b", "stands twice"),
    ("redis://h?client_name=a%20b", "printable ASCII"),
    ("redis://h?client_name", "WORD=VALUE"),
    ("redis://h#1", "%23"),
    ("redis://u:s3cret@[::1", "check its brackets"),
    ("rediss://h?ca=/does/not/exist", "cannot be used"),
    ("rediss://h?key=/k", "needs cert="),
    ("unix://", "absolute path"),
    ("unix://run/valkey.sock", "absolute path"),
    ("redis+sentinel://h", "names no service"),
    ("redis+cluster://h/1", "only database 0"),
    ("memory://x", "nothing behind it"),
    ("memory://?a=1", "nothing behind it"),
]


@pytest.mark.parametrize(("url", "said"), BAD)
def test_an_address_that_is_none_is_refused_with_what_is_wrong(url: str, said: str) -> None:
    with pytest.raises(DefinitionError) as refused:
        open_source(url)
    assert said in str(refused.value)
    assert "s3cret" not in str(refused.value)


def test_certificates_are_read_when_the_source_is_opened(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    own = authority.sign("client")
    files = f"ca={authority.file}&cert={own.certificate}&key={own.key}"
    assert type(open_source(f"rediss://h?{files}")) is RedisSource
    with pytest.raises(DefinitionError, match="cannot be used"):
        open_source(f"rediss://h?ca={own.key}")


@pytest.mark.parametrize("field", SourceLimits.__struct_fields__)
@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan")])
def test_no_limit_may_be_for_ever(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        SourceLimits(**{field: value})


def test_opening_needs_no_client_library() -> None:
    look = (
        "import sys, featurecache.sources.opening; "
        "print(sorted({'redis', 'valkey', 'pyarrow', 'duckdb', 'uvloop'} & sys.modules.keys()))"
    )
    said = subprocess.run(
        [sys.executable, "-c", look], capture_output=True, text=True, timeout=60, check=True
    )
    assert said.stdout.strip() == "[]"
