"""Word lists that `statements` reads texts with: colours, negations, words without meaning of their own."""

from __future__ import annotations

# Each word of a line means (nearly) the same colour; American spelling.
COLOURS = {
    synonym: line.split()[0]
    for line in (
        "red reddish crimson scarlet ruby maroon",
        "green greenish emerald lime olive",
        "blue bluish navy azure cobalt",
        "yellow yellowish",
        "orange orangish",
        "purple purplish violet lavender lilac",
        "pink pinkish magenta rose",
        "brown brownish chestnut",
        "black blackish",
        "white whitish ivory",
        "gray grayish",
        "gold golden",
        "silver silvery",
        "beige tan cream",
        "turquoise teal cyan aqua",
        "mint",
    )
    for synonym in line.split()
}
NEGATIONS = frozenset(
    [
        "not",
        "no",
        "never",
        "none",
        "nothing",
        "nobody",
        "nowhere",
        "neither",
        "nor",
        "without",
        "cannot",
        "lacks",
        "lack",
        "lacked",
        "lacking",
        "isnt",
        "arent",
        "wasnt",
        "werent",
        "dont",
        "doesnt",
        "didnt",
        "hasnt",
        "havent",
        "hadnt",
        "cant",
        "couldnt",
        "wont",
        "wouldnt",
        "shouldnt",
        "aint",
    ]
)
NO_NEGATION = (
    ("no", "doubt"), ("without", "doubt"), ("without", "a", "doubt"), ("without", "any", "doubt"), ("not", "only"),
    ("not", "just"), ("nothing", "but"), ("none", "other", "than"), ("no", "less", "than"), ("no", "fewer", "than"),
    ("not", "without"), ("never", "without"), ("no", "problem"), ("not", "to", "mention"),
)  # fmt: skip
"""Phrases whose negations deny nothing."""
FUNCTION_WORDS = frozenset(
    [
        "a",
        "an",
        "the",
        "is",
        "are",
        "was",
        "were",
        "be",
        "it",
        "its",
        "this",
        "that",
        "these",
        "those",
        "of",
        "in",
        "on",
        "at",
        "to",
        "with",
        "by",
        "for",
        "from",
        "and",
        "or",
        "as",
        "his",
        "her",
        "their",
        "he",
        "she",
        "they",
        "we",
        "i",
        "you",
        "has",
        "have",
        "had",
        "does",
        "do",
        "did",
        "there",
        "can",
        "see",
        "what",
        "which",
        "who",
        "where",
        "when",
        "how",
        "why",
        "answer",
    ]
)
AUXILIARIES = frozenset(
    [
        "is",
        "are",
        "was",
        "were",
        "am",
        "be",
        "been",
        "do",
        "does",
        "did",
        "has",
        "have",
        "had",
        "can",
        "could",
        "will",
        "would",
        "shall",
        "should",
        "may",
        "might",
        "must",
    ]
)
SUBJECTS = frozenset(
    [
        "it",
        "it's",
        "its",
        "he",
        "she",
        "they",
        "there",
        "this",
        "that",
        "these",
        "those",
        "the",
        "i",
        "we",
        "you",
        "his",
        "her",
        "their",
        "he's",
        "she's",
        "they're",
        "there's",
        "that's",
        "rather",
        "instead",
        "actually",
        "only",
        "just",
    ]
)
"""Words that begin a clause of its own after a comma or "and"."""
CLAUSE_WORDS = frozenset(["but", "although", "though", "whereas", "while", "however"])
YES = frozenset(["yes", "yeah", "yep", "yup"])
NO = frozenset(["no", "nope", "nah"])
BEFORE_REPLY = frozenset(
    ["i", "think", "believe", "guess", "would", "say", "so", "oh", "well", "um", "hmm", "the", "my", "answer", "is"]
)
