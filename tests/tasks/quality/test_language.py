"""Languages: told from prose, kept or dropped with the evidence."""

import polars as pl
import pytest
from pydantic import ValidationError

from tasks.corpus.filter import FilterSettings, judge
from tasks.quality.language import Language, languages_of

TEXTS = {
    "en": "The night was quiet, and nobody had seen the old man leave his house.",
    "de": "Die Nacht war still, und niemand hatte gesehen, wie der alte Mann sein Haus verließ.",
    "fr": "La nuit était calme et personne n'avait vu le vieil homme quitter sa maison.",
    "ja": "静かな夜だった。老人が家を出るのを誰も見ていなかった。",
    "ru": "Ночь была тихой, и никто не видел, как старик вышел из дома.",
}


def test_languages_are_told() -> None:
    found = languages_of(pl.Series(list(TEXTS.values())))
    assert found["language"].to_list() == list(TEXTS)
    assert found["probability"].to_numpy().min() > 0.8


def test_code_does_not_hide_the_language() -> None:
    code = "```python\nfor line in open(name):\n    print(line.strip().lower())\n```\n"
    assert languages_of(pl.Series([code * 10 + TEXTS["de"]]))["language"].to_list() == ["de"]


@pytest.mark.parametrize("text", ["", "\n", "\x00", "1234", "<p></p>"])
def test_a_text_without_prose_is_no_error(text: str) -> None:
    assert languages_of(pl.Series([text]))["probability"][0] < 0.65


def test_other_languages_are_dropped_with_what_was_found() -> None:
    rows = pl.DataFrame({"doc_id": list(TEXTS), "text": list(TEXTS.values()), "source": "s"})
    settings = FilterSettings(
        language=Language(allowed=("de", "en")), gopher_quality=None, gopher_repetition=None, mask=None
    )
    verdicts = judge(rows, settings)[0]
    assert verdicts["reason"].to_list() == ["passed", "passed", *["other language"] * 3]
    evidence = verdicts["evidence"][2]
    assert evidence.endswith(" probability of fr, at least 0.65 of de or en")
    assert float(evidence.split()[0]) > 0.8


def test_a_language_is_named_by_its_code() -> None:
    with pytest.raises(ValidationError, match="allowed"):
        Language(allowed=("english",))
