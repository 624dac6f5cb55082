"""benchmarks.imports: the drawing in docs/architecture.md is that of the code."""

from benchmarks import imports


def test_the_drawing_is_of_today():
    assert imports.page() == imports.PAGE.read_text()


def test_arrows_that_follow_from_others_are_left_out():
    found = imports.reduced({"a": {"b", "c"}, "b": {"c"}, "c": set()})
    assert found == {"a": {"b"}, "b": {"c"}, "c": set()}
