"""Texts as token blocks: the shipped corpus, a user's own files; the table that Duo reads."""
