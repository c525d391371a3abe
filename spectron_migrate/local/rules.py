"""Fact extraction by patterns for plain English statements about people, in place of a language model.

They match "lives in Berlin", "now eats fish", "Alice's favourite colour is green" and the like. First-person text and
text without a subject ("Prefers tea") are about the user: the entity `person/user` of the scope. A capitalised name
before the verb is a person of that name. What a person has once (home, diet) has one key; what a person has many of
(likes) has a key for each value. Text that matches no rule stays a passage and can be found by its words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from spectron_migrate.local.extract import HEDGED, Extraction, Fact, Names
from spectron_migrate.local.rows import Category

USER = ("person", "user")
ASSISTANT = ("agent", "assistant")

Make = Callable[[str, re.Match[str]], Fact | None]


class RuleExtractor:
    """Implements `Extractor` with the rules, sentence by sentence and clause by clause."""

    async def extract(self, messages: Sequence[tuple[str, str]], known: Callable[[], Names]) -> Extraction:
        """See `Extractor`; ignores `known` and keeps names as they are written."""
        facts: dict[tuple[tuple[str, str], str], Fact] = {}
        instructions = []
        for role, text in messages:
            reader = _MessageReader(USER if role == "user" else ASSISTANT)
            for sentence in _SENTENCE_END.split(text):
                if _INSTRUCTION.match(sentence.strip()):
                    instructions.append(sentence.strip())
                    continue
                for fact in reader.facts(sentence):
                    facts[fact.entity, fact.key] = fact
        return Extraction(tuple(facts.values()), tuple(instructions))


def slug(text: str) -> str:
    """A key for a text: lower-case words joined by underscores."""
    words = re.findall(r"\w+", re.sub(r"['’]s\b", "", text.casefold()))
    return "_".join(words)[:64].strip("_")


class _MessageReader:
    """Reads one message from left to right; a clause without a subject has that of the clause before it."""

    def __init__(self, speaker: tuple[str, str]) -> None:
        self.speaker = speaker
        self.named = speaker
        """The entity that "she" refers to."""

    def facts(self, sentence: str) -> Iterator[Fact]:
        subject = self.speaker
        for clause in _clauses(_LEAD.sub("", sentence.strip())):
            found = _owned(clause, self.speaker)
            if found is None:
                subject, found = self.statement(clause, subject)
            if found is None:
                continue
            if found.entity != self.speaker:
                self.named = found.entity
            yield replace(found, confidence=HEDGED) if _HEDGE.search(clause) else found

    def statement(self, clause: str, subject: tuple[str, str]) -> tuple[tuple[str, str], Fact | None]:
        """The subject of a clause, and its fact; None if no rule matches."""
        fact = predicate(clause)
        if fact is None:
            someone = _SELF.match(clause)
            if someone is not None:
                subject = self.named if someone["third"] else self.speaker
                fact = predicate(clause[someone.end() :])
            else:
                name, rest = _name(clause)
                if name:
                    subject, fact = ("person", name), predicate(rest)
        return subject, None if fact is None else replace(fact, entity=subject)


def predicate(text: str) -> Fact | None:
    """The fact in a text after its subject; None if no rule matches the verb."""
    text = text.strip()
    for pattern, make in _PREDICATES:
        match = pattern.match(text)
        if match is not None:
            value = _value(match["value"])
            return make(value, match) if value else None
    return None


def _clauses(sentence: str) -> Iterator[str]:
    """Split a sentence into statements; an "and" between other words (fish and chips) does not split it."""
    start = 0
    for joint in _JOINT.finditer(sentence):
        rest = sentence[joint.end() :]
        someone = _SELF.match(rest)
        name, after = _name(rest)
        if predicate(rest[someone.end() :] if someone else rest) or (name and predicate(after)):
            yield sentence[start : joint.start()]
            start = joint.end()
    yield sentence[start:]


def _name(clause: str) -> tuple[str, str]:
    """A name of up to three words at the start, if a statement follows; letters without case count as capitals."""
    words = re.match(r"\s*((?:[^\W\d_][\w’'-]*\s+){1,3})", clause)
    parts = words[1].split() if words else []
    for count in range(len(parts), 0, -1):
        name = parts[:count]
        rest = clause.split(None, count)
        if len(rest) > count and not any(word[0].islower() for word in name) and predicate(rest[count]):
            return " ".join(name), rest[count]
    return "", clause


def _owned(clause: str, speaker: tuple[str, str]) -> Fact | None:
    """Facts about possessions: "Her sister's name is Mia", "Alice's favourite colour is green"."""
    match = _OWNED.match(clause)
    if match is None or (match["name"] and match["name"][0].islower()):
        return None
    key, value = _title(match["what"]), _value(match["value"])
    if not key or not value:
        return None
    owner = ("person", match["name"]) if match["name"] else speaker
    return Fact(owner, key, value, category="identity" if key in _IDENTITY_KEYS else "knowledge")


def _value(text: str) -> str:
    """The object of a statement, without words of time at its end and without the full stop."""
    before = None
    while before != text:
        before, text = text, _TAIL.sub("", text)
    return text.strip(" \"'“”")[:200]


def _single(key: str, category: Category = "knowledge", target: str | None = None) -> Make:
    """A key with one value: the next statement supersedes the last."""

    def make(value: str, match: re.Match[str]) -> Fact:
        return Fact(USER, key, value, category=category, target=(target, value) if target else None)

    return make


def _each(verb: str) -> Make:
    """A key for each value: who likes tea may like chess too."""

    def make(value: str, match: re.Match[str]) -> Fact | None:
        thing = slug(value)
        stated = f"no longer: {value}" if _NEGATION.search(match[0][: match.start("value")]) else value
        return Fact(USER, f"{verb}_{thing}"[:64], stated) if thing else None

    return make


def _preference(value: str, match: re.Match[str]) -> Fact | None:
    """The key is the noun ("dark mode" -> mode), so that another choice supersedes."""
    chosen = _CHOICE_END.split(value, maxsplit=1)[0]
    words = re.findall(r"[\w’'-]+", chosen)
    if not words:
        return None
    noun = slug(words[-1])
    if noun in _FOOD:
        return Fact(USER, "food_preference", chosen)
    return Fact(USER, f"{_singular(noun)}_preference", value)


def _title(text: str) -> str:
    return slug(text).replace("favorite", "favourite").replace("color", "colour")


def _pet(value: str, match: re.Match[str]) -> Fact:
    return Fact(USER, slug(f"{match['what']}_name"), value)


def _titled(value: str, match: re.Match[str]) -> Fact:
    key = _title(match["what"])
    return Fact(USER, key, value, category="identity" if key in _IDENTITY_KEYS else "knowledge")


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|[;\n]+\s*")
_JOINT = re.compile(r"\s*,\s*(?:and|but)\s+|\s+(?:and|but)\s+|\s*,\s*", re.I)
_LEAD = re.compile(
    r"(?:(?:yesterday|today|now|recently|currently|actually|apparently|last \w+|this \w+|in \d{4}|since \d{4}),?\s+)+"
    r"(?=[^\W\d_])",
    re.I,
)
_INSTRUCTION = re.compile(r"(?:please\s+)?(?:always|never|don't|do not)\s+\w+", re.I)
_HEDGE = re.compile(
    r"\b(?:might|may|maybe|perhaps|probably|possibly|thinks? (?:about|of)|considering|could|not sure)\b", re.I
)
_NEGATION = re.compile(r"\b(?:no longer|not|never|doesn't|don't|does not|do not|isn't|stopped|used to|quit)\b", re.I)
_SELF = re.compile(
    r"\s*(?:(?:i(?:['’](?:m|ve|d))?|(?:the\s+)?user)|(?P<third>(?:he|she|they)(?:['’](?:s|re|ve))?))\b\s*", re.I
)
_OWNED = re.compile(
    r"\s*(?:(?:my|his|her|their|(?:the\s+)?user['’]s)|(?P<name>[^\W\d_][\w-]*(?:\s+[^\W\d_][\w-]*)?)['’]s)\s+"
    r"(?P<what>[\w'’ -]{2,40}?)\s+(?:is|are|(?:was |has )?changed to)\s+(?:now\s+)?(?P<value>.+)",
    re.I | re.S,
)
_TAIL = re.compile(
    r"[\s.,!?;]+$"
    r"|\s+(?:now|currently|these days|nowadays|anymore|any more|again|instead|as well|too|lately|recently)[\s.!]*$"
    r"|\s+(?:last|next|this)\s+(?:week|month|year|spring|summer|autumn|fall|winter)[\s.!]*$"
    r"|\s+in\s+(?:\d{4}|(?:january|february|march|april|may|june|july|august|september|october|november|december)\b"
    r"(?:\s+\d{4})?)[\s.!]*$"
    r"|\s+(?:since|as of|because|although|when|while|for the|starting)\b.*$",
    re.I | re.S,
)
_CHOICE_END = re.compile(r"\s+(?:over|to|rather than|instead of|for|in|on|with|when)\s+", re.I)
_FOOD = {"food", "foods", "meals", "meal", "cuisine", "dishes", "diet", "vegetarian", "vegan"}
_IDENTITY_KEYS = {"name", "birthday", "email", "age", "phone", "phone_number", "nationality", "job_title"}

_FILLER = (
    r"(?:(?:now|currently|also|still|really|recently|just|actually|usually|mostly|often|always|today|has|have|had"
    r"|might|may|maybe|perhaps|probably)\s+)*"
)
_BE = r"(?:is|am|are|['’]m|['’]s)"
_DIET = r"vegetarian|vegan|pescatarian|omnivore|flexitarian|lactose[- ]intolerant|gluten[- ]free"
_PROFESSION = (
    r"[\w -]*?(?:engineer|developer|teacher|nurse|doctor|designer|manager|scientist|student|lawyer|chef|writer|artist"
    r"|architect|analyst|consultant|accountant|professor|pilot|director|researcher|founder|cto|ceo)\b.*"
)
_TITLE = r"favou?rite [\w ]+?|name|birthday|email(?: address)?|phone(?: number)?|job title|nationality"
_NOT = r"(?:(?:no longer|not|stopped|does not|doesn['’]t|do not|don['’]t)\s+)?"

_PREDICATES: list[tuple[re.Pattern[str], Make]] = [
    (re.compile(_FILLER + pattern, re.I | re.S), make)
    for pattern, make in [
        (rf"(?P<what>{_TITLE})\s+(?:is|are)\s+(?:now\s+)?(?P<value>.+)", _titled),
        (
            rf"(?:(?:{_BE}|became|went|turned)\s+)?(?:now\s+)?(?:an?\s+)?(?P<value>{_DIET})\b",
            _single("food_preference"),
        ),
        (r"prefers?\s+(?P<value>.+)", _preference),
        (rf"(?:{_BE}\s+)?(?:eats?|eating)\s+(?P<value>.+)", _single("food_preference")),
        (rf"(?:{_BE}\s+)?{_NOT}allergic to\s+(?P<value>.+)", _each("allergic_to")),
        (
            rf"(?:lives?|living|resides?|{_BE}\s+(?:now\s+)?(?:living|based))\s+in\s+(?P<value>.+)",
            _single("lives_in", "identity", "location"),
        ),
        (
            rf"(?:moved|relocated|{_BE}\s+moving)\s+(?:from\s+[\w ]+?\s+)?to\s+(?P<value>.+)",
            _single("lives_in", "identity", "location"),
        ),
        (rf"(?:{_BE}\s+)?(?:works?|working)\s+as\s+(?:an?\s+)?(?P<value>.+)", _single("job_title", "identity")),
        (
            rf"(?:{_BE}\s+)?(?:works?|working|employed)\s+(?:at|for|by)\s+(?P<value>.+?)(?:\s+as\s+.*)?$",
            _single("works_at", "identity", "organisation"),
        ),
        (
            r"(?:joined(?!\s+(?:the|an?)\b)|started (?:working )?at|(?:got|has) a (?:new )?job at"
            r"|(?:changed|switched) jobs? to|left\s+[\w ]+?\s+for)\s+(?P<value>.+?)(?:\s+as\s+.*)?$",
            _single("works_at", "identity", "organisation"),
        ),
        (
            rf"(?:{_BE}|became|(?:was|got) (?:promoted to|hired as))\s+(?:now\s+)?(?:an?\s+|the\s+)?"
            rf"(?P<value>{_PROFESSION})",
            _single("job_title", "identity"),
        ),
        (rf"(?:{_BE}\s+(?:called|named)|goes by)\s+(?P<value>.+)", _single("name", "identity")),
        (rf"(?:{_BE}|turned)\s+(?P<value>\d{{1,3}})(?:\s+years old)?[.!]?\s*$", _single("age", "identity")),
        (r"was\s+born\s+(?:on|in)\s+(?P<value>.+)", _single("born", "identity")),
        (rf"(?:{_BE}|got)\s+married to\s+(?P<value>.+)", _single("married_to", "identity", "person")),
        (r"(?:has|have|owns?|adopted|got)\s+an?\s+(?P<what>\w+)\s+(?:named|called)\s+(?P<value>.+)", _pet),
        (r"speaks?\s+(?P<value>.+)", _each("speaks")),
        (r"drives?\s+(?P<value>.+)", _single("drives")),
        (rf"{_NOT}(?:likes?|loves?|enjoys?|liking)\s+(?P<value>.+)", _each("likes")),
        (r"(?:dislikes?|hates?|can['’]t stand)\s+(?P<value>.+)", _each("dislikes")),
        (rf"(?:{_BE}\s+learning|started learning|learns)\s+(?P<value>.+)", _each("learning")),
    ]
]
