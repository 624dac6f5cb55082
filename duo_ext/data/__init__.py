"""Texts as token blocks: the shipped corpus, files of the user, what tables the teachers need."""
