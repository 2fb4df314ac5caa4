"""Credentials in addresses are found, and nothing else is taken for one."""

from __future__ import annotations

import pytest

from verifiers.credentials import has_credentials, masked, masked_tree


@pytest.mark.parametrize(
    ("text", "without"),
    [
        ("https://me:s3cret@host/a", "https://me:***@host/a"),
        ("https://s3cret@host", "https://***@host"),
        ("HTTP://:s3cret@host:80/?a=1", "HTTP://:***@host:80/?a=1"),
        ("postgresql+psycopg2://me:s3/cr?et@host/db", "postgresql+psycopg2://me:***@host/db"),
        ("https://host/score?token=s3cret&n=1", "https://host/score?token=***&n=1"),
        ("https://h/?a=1&api_key=s3cret&X-Amz-Signature=s3cret", "https://h/?a=1&api_key=***&X-Amz-Signature=***"),
        ("mysql://host/db?password=s3cret", "mysql://host/db?password=***"),
        ("https://h?accessToken=s3cret;clientSecret=s3cret", "https://h?accessToken=***;clientSecret=***"),
        ("https://me@example.org:s3cret@host/a", "https://me@example.org:***@host/a"),
        ("https://me:s3@cret@host/a@b", "https://me:***@host/a@b"),
        ("https://me:@host", "https://me:***@host"),
        ("http://me:s3cret@[::1]:80/", "http://me:***@[::1]:80/"),
        ("see https://me:s3cret@a/ and ftp://s3cret@b", "see https://me:***@a/ and ftp://***@b"),
    ],
)
def test_credentials_are_found_and_masked(text: str, without: str) -> None:
    assert has_credentials(text)
    assert masked(text) == without
    assert not has_credentials(without)


@pytest.mark.parametrize(
    "text",
    [
        "http://host:5000",
        "http://host:5000/me@example.org",
        "https://host/?max_tokens=5&keyword=a@b",
        "hf://datasets/OWNER/NAME@main",
        "rewards.py:score",
        "/data/me@host/file",
        "file:///tmp/a@b",
        "http://[fe80::1]:5000/a@b",
        "s3://bucket/a@b.jsonl?versionId=a&region=b",
        "https://{user}:{password}@host/?token={token}",
        "git clone https://<token>@host",
        r"https?://[^:@/]+:[^@]+@host|https?://\S+:\S+@host|https?://(\w+)@host|https?://.+@host",
        r"https://host/\?token=(\w+)&key=[a-z]+",
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}@end{% endfor %} see https://host, or me@example.org",
        "me@example.org",
        "",
    ],
)
def test_other_texts_stay(text: str) -> None:
    assert masked(text) == text


def test_nested_values_are_masked() -> None:
    tree = {"a": {"b": ["http://k@h", 1]}, "c": ("x",), "d": None}
    assert masked_tree(tree) == {"a": {"b": ["http://***@h", 1]}, "c": ("x",), "d": None}
