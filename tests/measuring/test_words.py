"""Words of samples: known ones, long ones, their length."""

import pytest

from duo_ext.measuring import words

SAMPLES = ["ut We the people, of 1787 zzz", "o don't go"]


def test_words_are_runs_of_letters_and_the_cut_ones_do_not_count():
    assert words.of("Ça n'a 3 mots_ou Plus") == ["ça", "n", "a", "mots", "ou", "plus"]
    # we the people of, don t
    assert words.length(SAMPLES) == pytest.approx((2 + 3 + 6 + 2 + 3 + 1) / 6)
    assert words.length(["one two", ""]) is None


def test_shares_of_a_training_texts_words(tmp_path):
    (tmp_path / "train.txt").write_text("We, the PEOPLE\nand so of\n")
    known = words.known_of(str(tmp_path))
    assert known == {"we", "the", "people", "and", "so", "of"}
    assert words.measure(SAMPLES, known) == {
        "word_length": words.length(SAMPLES),
        "known_words": pytest.approx(4 / 6),
        "known_long_words": 1.0,
    }
    assert words.measure(["a be c"], known)["known_long_words"] is None  # there is none


def test_a_data_set_of_the_hub_has_no_words_here(tmp_path):
    assert words.known_of("openwebtext-train") is None
    assert words.known_of(str(tmp_path)) is None
    assert words.measure(SAMPLES, None)["known_words"] is None
