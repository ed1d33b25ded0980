"""VQA accuracy by the rules of the official VQA evaluation toolkit."""

import re
from collections.abc import Sequence

from actstore.errors import ActstoreError

__all__ = ["normalised", "vqa_accuracy", "vqa_of_all"]

_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_NUMBERS = "none:0 zero:0 one:1 two:2 three:3 four:4 five:5 six:6 seven:7 eight:8 nine:9 ten:10"
_ARTICLES = {"a", "an", "the"}

# The toolkit's contractions that a lower-cased word can meet: the word it makes, and what it makes it from.
_CONTRACTIONS = """
ain't: aint
aren't: arent
can't: cant
could've: couldve
couldn't: couldnt
couldn't've: couldn'tve couldnt've
didn't: didnt
doesn't: doesnt
don't: dont
hadn't: hadnt
hadn't've: hadnt've hadn'tve
hasn't: hasnt
haven't: havent
he'd: hed
he'd've: hed've he'dve
he's: hes
how'd: howd
how'll: howll
how's: hows
isn't: isnt
it'd: itd
it'd've: itd've it'dve
it'll: itll
ma'am: maam
mightn't: mightnt
mightn't've: mightnt've mightn'tve
might've: mightve
mustn't: mustnt
must've: mustve
needn't: neednt
not've: notve
o'clock: oclock
oughtn't: oughtnt
'ow's'at: ow's'at 'ows'at 'ow'sat
shan't: shant
she'd've: shed've she'dve
should've: shouldve
shouldn't: shouldnt
shouldn't've: shouldnt've shouldn'tve
somebodyd: somebody'd
somebody'd've: somebodyd've somebody'dve
somebody'll: somebodyll
somebody's: somebodys
someone'd: someoned
someone'd've: someoned've someone'dve
someone'll: someonell
someone's: someones
something'd: somethingd
something'd've: somethingd've something'dve
something'll: somethingll
that's: thats
there'd: thered
there'd've: thered've there'dve
there're: therere
there's: theres
they'd: theyd
they'd've: theyd've they'dve
they'll: theyll
they're: theyre
they've: theyve
'twas: twas
wasn't: wasnt
we'd've: wed've we'dve
we've: weve
weren't: werent
what'll: whatll
what're: whatre
what's: whats
what've: whatve
when's: whens
where'd: whered
where's: wheres
where've: whereve
who'd: whod
who'd've: whod've who'dve
who'll: wholl
who's: whos
who've: whove
why'll: whyll
why're: whyre
why's: whys
won't: wont
would've: wouldve
wouldn't: wouldnt
wouldn't've: wouldnt've wouldn'tve
y'all: yall
y'all'll: yall'll y'allll
y'all'd've: yall'd've y'alld've y'all'dve
you'd: youd
you'd've: youd've you'dve
you'll: youll
you're: youre
you've: youve
"""

_NUMBER = dict(pair.split(":") for pair in _NUMBERS.split())
_CONTRACTION = {
    bare: word
    for line in _CONTRACTIONS.split("\n")
    if line
    for word, bares in [line.split(": ")]
    for bare in bares.split()
}


def vqa_accuracy(answer: str, answers: Sequence[str]) -> float:
    """Accuracy [0, 1] of an answer against those of (ten) annotators.

    Mean over annotators of min(1, matches among the others / 3), both sides normalised: 0, .3, .6, .9, 1
    for 0, 1, 2, 3, 4 or more of ten. Antol et al., "VQA" (2015) and its evaluation toolkit.
    Raises ActstoreError for fewer than two annotators.

    >>> vqa_accuracy("Two!", ["2"] * 3 + ["3"] * 7)
    0.9
    """
    if len(answers) < 2:
        raise ActstoreError(f"{len(answers)} annotators: VQA accuracy compares with the others, so give at least two")
    said = normalised(answer)
    same = [normalised(other) == said for other in answers]
    return sum(min(1.0, (sum(same) - own) / 3) for own in same) / len(same)


def vqa_of_all(answer: str, answers: Sequence[str]) -> float:
    """min(1, matches among all annotators / 3), both sides normalised: the formula of The Narrow Gate's paper.

    The toolkit's `vqa_accuracy`, which its code runs, leaves each annotator out in turn, and is lower for 1 to 3 of
    ten. Raises ActstoreError for fewer than two annotators.

    >>> vqa_of_all("Two!", ["2"] * 2 + ["3"] * 8), vqa_accuracy("Two!", ["2"] * 2 + ["3"] * 8)
    (0.6666666666666666, 0.6)
    """
    if len(answers) < 2:
        raise ActstoreError(f"{len(answers)} annotators: VQA accuracy is of several, so give at least two")
    said = normalised(answer)
    return min(1.0, sum(normalised(other) == said for other in answers) / 3)


def normalised(answer: str) -> str:
    """An answer as the toolkit compares it: without punctuation and articles, numbers as digits, apostrophes restored.

    >>> normalised("The two t-shirts, arent they?")
    "2 t shirts aren't they"
    """
    words = (_NUMBER.get(word, word) for word in _unpunctuated(answer).lower().split())
    return " ".join(_CONTRACTION.get(word, word) for word in words if word not in _ARTICLES)


def _unpunctuated(answer: str) -> str:
    """Marks next to a space, or beside a number such as 1,000, removed; other marks replaced by a space."""
    text = answer.replace("\n", " ").replace("\t", " ").strip()
    thousands = re.search(r"\d,\d", text) is not None
    bare = "".join(
        char if char not in _MARKS else "" if thousands or f"{char} " in text or f" {char}" in text else " "
        for char in text
    )
    return re.sub(r"\.(?!\d)", "", bare)
