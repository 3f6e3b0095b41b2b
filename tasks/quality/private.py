"""Masks what points at a person: e-mail addresses, public IPv4 addresses, phone numbers.

Rust regular expressions over the column of texts, on those texts alone that have a "@", or digits with separators. What
stands there instead is natural text that belongs to nobody: `email@example.com` (RFC 2606), `192.0.2.1` (RFC 5737) and
`555-0100` (reserved for fiction), so a model learns no mark that never occurs in writing; FineWeb does the same.

An IPv4 address is masked if it is globally reachable (IANA's special-purpose registry: not private, loopback,
link-local, shared, documentation, benchmarking, multicast or reserved), if it follows no letter, digit, dot, hyphen,
single slash or comparison sign (v10.20.30.40, pkg==10.20.30.40, Chrome/120.0.0.0), and if one of its numbers has two
digits: 1.2.3.4 is nearly always a version. A phone number is one in international form (+, 8 to 15 digits, at most
one separator between two) or in North American form with separators (202-555-0143, (202) 555-0143, 202.555.0143).
Dates, ISBN and bare digits are left alone. In 33 MB of film reviews and 14 MB of Python proposals, five addresses are
found, four of them versions, and no phone numbers. Cost: 1 to 4 ns a byte, phones 2 more.
"""

import polars as pl

from models.settings import Settings

EMAIL, ADDRESS, PHONE = "email@example.com", "192.0.2.1", "555-0100"


class Mask(Settings):
    """What is masked in the documents that stay."""

    emails: bool = True
    """E-mail addresses become email@example.com."""
    ip_addresses: bool = True
    """Public IPv4 addresses become 192.0.2.1."""
    phones: bool = False
    """Phone numbers become 555-0100. Off by default: no pattern tells them from other numbers for certain."""


def mask(texts: pl.Series, settings: Mask) -> tuple[pl.Series, dict[str, int]]:
    """The texts with everything masked that the settings name, and how much of each kind was."""
    counts = {}
    if settings.emails:
        texts, counts["masked_emails"] = _replace(texts, "@", _EMAIL, EMAIL, passes=1)
    if settings.ip_addresses:
        texts, counts["masked_ip_addresses"] = _replace(texts, r"\d\.\d{1,3}\.\d", _IPV4, f"${{1}}{ADDRESS}${{2}}")
    if settings.phones:
        texts, counts["masked_phones"] = _replace(texts, r"\d[-. )]{1,2}\d{3}|\+\d", _PHONES, f"${{1}}{PHONE}${{2}}")
    return texts, counts


def _numbers(*ranges: tuple[int, int]) -> str:
    """A group that matches the decimal numbers of the ranges, both ends included; longer ones first."""
    numbers = sorted((number for low, high in ranges for number in range(low, high + 1)), reverse=True)
    return f"(?:{'|'.join(map(str, numbers))})"


def _ipv4() -> str:
    any_number = _numbers((0, 255))
    small, large = _numbers((0, 9)), _numbers((10, 255))
    wide = rf"{any_number}\.{any_number}"
    plain = _numbers((11, 99), (101, 126), (128, 168), (170, 171), (173, 191), (193, 197), (199, 202), (204, 223))
    special = [
        rf"{plain}\.{any_number}\.{wide}",
        rf"100\.{_numbers((0, 63), (128, 255))}\.{wide}",
        rf"169\.{_numbers((0, 253), (255, 255))}\.{wide}",
        rf"172\.{_numbers((0, 15), (32, 255))}\.{wide}",
        rf"192\.(?:{_numbers((1, 167), (169, 255))}\.{any_number}|0\.{_numbers((1, 1), (3, 255))})\.{any_number}",
        rf"198\.(?:{_numbers((0, 17), (20, 50), (52, 255))}\.{any_number}|51\.{_numbers((0, 99), (101, 255))})"
        rf"\.{any_number}",
        rf"203\.(?:{_numbers((1, 255))}\.{any_number}|0\.{_numbers((0, 112), (114, 255))})\.{any_number}",
        rf"{_numbers((1, 9))}\.(?:{large}\.{wide}|{small}\.{large}\.{any_number}|{small}\.{small}\.{large})",
    ]
    return "|".join(special)


# Rust's expressions look neither back nor ahead: what touches a match is taken in and put back.
_BEFORE, _AFTER = r"(^|//|[^\w.\-/=<>~^@+])", r"(\.?$|\.?[^\w.\-=@+]|\.\s)"
_EMAIL = r"\b[\w.+%\-]+@(?:[A-Za-z0-9](?:[A-Za-z0-9\-]*[A-Za-z0-9])?\.)+[A-Za-z]{2,}\b"
_IPV4 = f"{_BEFORE}(?:{_ipv4()}){_AFTER}"
_PHONES = (
    rf"{_BEFORE}(?:\+[1-9](?:[-. ]?\(?\d\)?){{7,14}}"
    rf"|(?:\+?1[-. ])?(?:\([2-9]\d\d\) ?|[2-9]\d\d[-. ])[2-9]\d\d[-. ]\d{{4}}){_AFTER}"
)


def _replace(texts: pl.Series, hint: str, pattern: str, replacement: str, passes: int = 2) -> tuple[pl.Series, int]:
    """Replace in the texts that have the hint; how often. In two passes, since of two matches that are one character
    apart the first takes the character in."""
    places = texts.str.contains(hint).arg_true()
    count = 0
    for _ in range(passes):
        some = texts.gather(places)
        found = some.str.count_matches(pattern)
        places = places.filter(found > 0)
        if not len(places):
            break
        count += int(found.sum())
        texts = texts.clone().scatter(places, some.filter(found > 0).str.replace_all(pattern, replacement))
    return texts, count
