from __future__ import annotations

import msgspec
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from foundation.store_url import (
    MAX_HOSTS,
    MAX_SOCKET_PATH_BYTES,
    MAX_URL_CHARS,
    StoreAddress,
    StoreUrlError,
    parse_store_url,
    unix_url,
    without_password,
)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://cache", StoreAddress("server", hosts=(("cache", 6379),))),
        ("rediss://cache:7000/3", StoreAddress("server", True, (("cache", 7000),), db=3)),
        ("redis://[::1]:7000", StoreAddress("server", hosts=(("::1", 7000),))),
        ("redis://[fe80::2]", StoreAddress("server", hosts=(("fe80::2", 6379),))),
        (
            "redis://ann:p%40ss%3Aword@cache/0?client_name=a",
            StoreAddress(
                "server",
                hosts=(("cache", 6379),),
                username="ann",
                password="p@ss:word",
                client_name="a",
            ),
        ),
        ("redis://cache?db=4", StoreAddress("server", hosts=(("cache", 6379),), db=4)),
        ("unix:///run/a%20b.sock?db=2", StoreAddress("unix", path="/run/a b.sock", db=2)),
        ("unix://:secret@/s.sock", StoreAddress("unix", path="/s.sock", password="secret")),
        (
            "unix:///s.sock?username=ann&password=p%40",
            StoreAddress("unix", path="/s.sock", username="ann", password="p@"),
        ),
        (
            "redis+sentinel://:pw@a,b:7/main/2",
            StoreAddress(
                "sentinel", hosts=(("a", 26379), ("b", 7)), service="main", db=2, password="pw"
            ),
        ),
        ("rediss+sentinel://a/main", StoreAddress("sentinel", True, (("a", 26379),), "", "main")),
        (
            "redis+sentinel://a/main?sentinel_user=eve&sentinel_password=x&db=1",
            StoreAddress(
                "sentinel",
                hosts=(("a", 26379),),
                service="main",
                db=1,
                sentinel_user="eve",
                sentinel_password="x",
            ),
        ),
        (
            "rediss://a?ca=/ca&cert=/c&key=/k&server_name=b",
            StoreAddress(
                "server", True, (("a", 6379),), ca="/ca", cert="/c", key="/k", server_name="b"
            ),
        ),
        ("redis+cluster://a:1,b", StoreAddress("cluster", hosts=(("a", 1), ("b", 6379)))),
        ("rediss+cluster://a/0", StoreAddress("cluster", True, (("a", 6379),))),
    ],
)
def test_addresses_that_can_be_used(url: str, address: StoreAddress) -> None:
    assert parse_store_url(url) == address


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "must begin with one of redis://"),
        ("cache:6379", "must begin"),
        ("http://cache", "must begin"),
        ("valkey://cache", "must begin"),
        ("redis://", "names no host"),
        ("redis://:6379", "names no host"),
        ("redis://cache:", "port"),
        ("redis://cache:0", "port"),
        ("redis://cache:65536", "port"),
        ("redis://cache:x", "port"),
        ("redis://cache:٣", "port"),
        ("redis://cache/x", "database"),
        ("redis://cache/-1", "database"),
        ("redis://cache/1/2", "too many parts"),
        ("redis://cache?db=99999999999", "database"),
        ("redis://a,b", "too many hosts"),
        ("redis://[::1", "cannot be read"),
        ("redis://[::1]7", "cannot be read"),
        ("redis://h\u2100st", "cannot be read"),
        ("redis://ann@cache", "write USER:PASSWORD@"),
        ("redis://@cache", "write USER:PASSWORD@"),
        ("redis://cache?username=ann", "write USER:PASSWORD@"),
        ("redis://ann:x@cache?password=y", "password twice"),
        (
            "redis://cache?timeout=5",
            "timeout has no meaning after the '\\?'; possible: client_name, db",
        ),
        ("unix:///s.sock?database=2", "database has no meaning"),
        ("redis://cache?ca=/x", "ca has no meaning"),
        ("redis://cache?sentinel_user=a", "sentinel_user has no meaning"),
        ("redis://cache?db=1&db=1", "stands twice"),
        ("redis://cache?client_name=a%20b", "printable ASCII"),
        ("redis://cache?client_name", "WORD=VALUE"),
        ("redis://ann:a?b=c@cache", "write a '\\?' in a password as %3F"),
        ("rediss://cache?key=/k", "needs cert="),
        ("redis://ca che", "blank"),
        ("redis://cache\n", "blank"),
        ("redis://cache#1", "%23"),
        ("unix://s.sock", "absolute path"),
        ("unix://host/s.sock", "absolute path"),
        ("unix:///folder/", "absolute path"),
        ("unix:///" + "s" * MAX_SOCKET_PATH_BYTES, "107 bytes"),
        ("redis+sentinel://a,b", "no service"),
        ("redis+sentinel://a,/main", "names no host"),
        ("redis+cluster://a/1", "only database 0"),
        ("redis+cluster://" + ",".join("a" * (MAX_HOSTS + 1)), "too many hosts"),
        ("redis://" + "a" * MAX_URL_CHARS, "4096 characters"),
    ],
)
def test_addresses_that_cannot_be_used(url: str, words: str) -> None:
    with pytest.raises(StoreUrlError, match=words):
        parse_store_url(url)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://cache:6379/1", "redis://cache:6379/1"),
        ("redis://ann:hush@cache/1", "redis://ann:***@cache/1"),
        ("redis://:hush@cache", "redis://:***@cache"),
        ("redis://hush@cache", "redis://***@cache"),
        ("redis+sentinel://:hush@a,b/main", "redis+sentinel://:***@a,b/main"),
        ("redis://ann:hu/sh@hu?sh@cache", "redis://ann:***@cache"),
        (
            "redis://cache?password=hush&sentinel_password=hush&db=1",
            "redis://cache?password=***&sentinel_password=***&db=1",
        ),
        ("unix:///run/a@b.sock?db=0", "unix:///run/a@b.sock?db=0"),
        ("unix://:hush@/run/s.sock", "unix://:***@/run/s.sock"),
        ("ann:hush@cache", "***"),
    ],
)
def test_what_is_shown(url: str, shown: str) -> None:
    assert without_password(url) == shown


@given(
    st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=12),
    st.sampled_from(["redis", "rediss", "redis+sentinel", "redis+cluster", "http", ""]),
)
def test_no_complaint_shows_a_password(password: str, scheme: str) -> None:
    secret = f"<<{password}>>"
    url = f"{scheme}://ann:{secret}@cache:nowhere"
    with pytest.raises(StoreUrlError) as refused:
        parse_store_url(url)
    assert secret not in str(refused.value)
    assert "<<" not in str(refused.value)
    assert ">>" not in str(refused.value)


def test_a_password_that_no_host_could_have_is_not_shown_either() -> None:
    with pytest.raises(StoreUrlError) as refused:
        parse_store_url("redis://ann:s\u2100cret@cache")
    assert "cret" not in str(refused.value)
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__


def test_an_address_shows_no_password() -> None:
    address = parse_store_url("redis+sentinel://ann:hush@cache:1/main/2?sentinel_password=hush")
    assert address.name == "redis+sentinel://cache:1/main"
    assert "hush" not in repr(address)
    assert "hush" not in str(msgspec.structs.replace(address, db=1))


@pytest.mark.parametrize("path", ["/run/s.sock", "/a b/%20?#@:é.sock"])
def test_redis_py_reads_the_same_socket(path: str) -> None:
    url = unix_url(path, db=3)
    assert parse_store_url(url) == StoreAddress("unix", path=path, db=3)
    found = redis.ConnectionPool.from_url(url).connection_kwargs
    assert (found["path"], found["db"]) == (path, 3)


@pytest.mark.parametrize(
    "url", ["redis://ann:p%40s@cache:7/2", "rediss://[::1]?db=5", "redis://c/1?db=2&password=p"]
)
def test_redis_py_reads_the_same_server(url: str) -> None:
    address = parse_store_url(url)
    found = redis.ConnectionPool.from_url(url).connection_kwargs
    assert (found["host"], found.get("port", 6379)) == address.hosts[0]
    assert found["db"] == address.db
    assert found.get("password", "") == address.password
