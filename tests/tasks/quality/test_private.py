"""Masking: what points at a person goes, what only looks like it stays."""

from pathlib import Path

import polars as pl
import pytest

from tasks.quality.private import Mask, mask

ALL = Mask(phones=True)


def masked(text: str) -> str:
    return mask(pl.Series([text]), ALL)[0].item()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ann@site.net", "email@example.com"),
        ("<Ann.B+list@mail.site.co.uk>, bob_9@a-b.org;", "<email@example.com>, email@example.com;"),
        ("mail to:ann@site.net.", "mail to:email@example.com."),
        ("at 8.8.4.40 or 91.198.174.192.", "at 192.0.2.1 or 192.0.2.1."),
        ("91.198.174.192", "192.0.2.1"),
        ("(91.198.174.192:80)", "(192.0.2.1:80)"),
        ("http://91.198.174.192/a, 91.198.174.0/24", "http://192.0.2.1/a, 192.0.2.1/24"),
        ("91.198.174.192 91.198.174.193 91.198.174.194", "192.0.2.1 192.0.2.1 192.0.2.1"),
        ("call 202-555-0143, please", "call 555-0100, please"),
        ("(202) 555-0143", "555-0100"),
        ("+1 202 555 0143 or +1-202-555-0144", "555-0100 or 555-0100"),
        ("tel. +49 30 901820.", "tel. 555-0100."),
        ("+44 (0)20 7946 0958", "555-0100"),
    ],
)
def test_what_points_at_a_person_is_masked(text: str, expected: str) -> None:
    assert masked(text) == expected
    assert masked(masked(text)) == masked(text)


@pytest.mark.parametrize(
    "text",
    [
        "x @ y, @decorator, a@b, root@localhost, M@v.T",
        "version 1.2.3.4 and v10.20.30.40 and pkg==91.198.174.192 and 1.22.33.44.55",
        "10.0.0.1 127.0.0.1 192.168.1.20 172.16.0.10 169.254.10.20 100.64.10.1 224.0.0.251 240.10.0.1 0.10.20.30",
        "192.0.2.10 198.51.100.20 203.0.113.30 198.18.0.10 255.255.255.255",
        "256.10.20.30 91.198.174.999 91.198.174 Chrome/120.10.0.0",
        "2024-01-15, 2024.01.15, 12:30:45, 1,234,567, 978-3-16-148410-0, 555-1234, 20255501430",
        "+12 points, 1+234567890123, 123-456-7890, 0xff 1e+10",
    ],
)
def test_what_only_looks_like_it_stays(text: str) -> None:
    assert masked(text) == text


def test_what_is_masked_is_counted_and_each_kind_can_be_off() -> None:
    texts = pl.Series(["a@b.io c@d.io 91.198.174.192 91.198.174.193", "nothing", "(202) 555-0143"])
    assert mask(texts, ALL)[1] == {"masked_emails": 2, "masked_ip_addresses": 2, "masked_phones": 1}
    left, counts = mask(texts, Mask(emails=False, ip_addresses=False))
    assert left.to_list() == texts.to_list()
    assert counts == {}


def test_a_column_of_nothing_is_no_error() -> None:
    assert mask(pl.Series([], dtype=pl.String), ALL)[0].to_list() == []


def test_python_proposals_are_full_of_versions_and_few_are_taken_for_addresses(shared_data: Path) -> None:
    texts = pl.read_parquet(shared_data / "text" / "peps.parquet")["text"]
    assert mask(texts, Mask(emails=False))[1]["masked_ip_addresses"] <= 5
