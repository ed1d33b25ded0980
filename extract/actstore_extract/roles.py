"""Roles: names for positions of a sample, resolved from the sample's own tokens and never from constants."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from actstore.errors import ActstoreError, nearest

__all__ = ["RULES", "ImageSpan", "Layout", "Point", "Positions", "Role", "RoleError", "parse_role", "positions"]

RULES = "rules_of_roles"  # in a run card: the number of those by which roles were found
Point = Literal["residual", "attention-input"]  # what a block receives, or the normed stream that its attention reads

Positions = NDArray[np.int64]


class RoleError(ActstoreError):
    """The text is not a role."""


def _none() -> Positions:
    return np.empty(0, np.int64)


@dataclass(frozen=True)
class ImageSpan:
    """Where one image is among a sample's tokens.

    `block` are all tokens that stand for it, without gap: image tokens, the ends of their lines, what begins and ends
    the image, and the rest of the machinery (what tells its tiles apart). `grid` is (rows, columns) of the image
    tokens, of the last ones where an overview precedes them.
    """

    block: Positions
    image: Positions
    eol: Positions
    boi: int | None
    eoi: int | None
    grid: tuple[int, int] | None


@dataclass(frozen=True)
class Layout:
    """Where one sample's tokens are; every position is 0-based in the sample's own tokens, without padding.

    `image` holds the image tokens in the order of the sequence, `eol` the ends of their lines, `boi` and `eoi` what
    begins and ends the image, `size` what says in between how large the image is. `text` is the prompt's text: what
    follows the image or, when nothing does (text-image order, text alone), what precedes it; neither the
    beginning-of-sequence token nor anything that stands for the image is ever text. `text_before` is all text in front
    of the image. `grid` is (rows, columns) of the image tokens, of the last ones where an overview precedes them, None
    where nothing says it. `special` names the model's other machinery ("frame-end": 1030). `spans` are the images one
    by one, with all that stands for them. Of several images `image` and `eol` are those of all, `boi` is that of the
    first, `eoi` that of the last, and there is no one grid; text between them is in front of the last. `words` are the
    positions of roles by words, by the roles' names.
    """

    token_ids: Positions
    image: Positions = field(default_factory=_none)
    eol: Positions = field(default_factory=_none)
    boi: int | None = None
    eoi: int | None = None
    size: Positions = field(default_factory=_none)
    text: Positions = field(default_factory=_none)
    text_before: Positions = field(default_factory=_none)
    grid: tuple[int, int] | None = None
    special: Mapping[str, int] = field(default_factory=dict)
    spans: tuple[ImageSpan, ...] = ()
    words: Mapping[str, Positions] = field(default_factory=dict)

    @property
    def length(self) -> int:
        """Number of tokens."""
        return len(self.token_ids)

    @property
    def image_end(self) -> int | None:
        """Where the image is complete: its end token, or its last token in a model without one."""
        if self.eoi is not None:
            return self.eoi
        return int(self.image[-1]) if len(self.image) else None

    @property
    def machinery(self) -> Positions:
        """What else stands for the images in front of their ends: separators of tiles, their numbers."""
        known = [self.image, self.eol, self.size, np.array([*self.special.values()], np.int64)]
        known += [np.array([at for at in (span.boi, span.eoi) if at is not None], np.int64) for span in self.spans]
        return np.setdiff1d(np.concatenate([_none(), *map(_inside, self.spans)]), np.concatenate(known))

    @property
    def n_pictures(self) -> int:
        """How many images it has."""
        return len(self.spans) or int(len(self.image) > 0)

    def of(self, picture: int) -> "Layout":
        """The layout as that of one picture alone, counted from 1; without an image if there is none of that number."""
        if self.n_pictures < 2 and picture == 1:
            return self
        words = Layout(self.token_ids, text=self.text, text_before=self.text_before, words=self.words)
        if not 1 <= picture <= len(self.spans):
            return words
        own = self.spans[picture - 1]
        return replace(words, image=own.image, eol=own.eol, boi=own.boi, eoi=own.eoi, grid=own.grid, spans=(own,))

    def picture(self, at: Positions) -> Positions:
        """The number of the picture that each position stands for, from 1, shape (n,); 0 where it is none."""
        numbers = np.zeros(self.length, np.int64)
        for number, span in enumerate(self.spans, start=1):
            numbers[span.block] = number
        return numbers[at]

    def by_picture(self, at: Positions) -> list[Positions]:
        """The positions of each picture, of several; all together otherwise."""
        if self.n_pictures < 2:
            return [at]
        numbers = self.picture(at)
        return [at[numbers == number] for number in np.unique(numbers)]

    def modality(self, at: Positions) -> NDArray[np.str_]:
        """'image', 'text' or 'special' (the machinery around both) of each position, shape (n,).

        >>> layout = Layout(np.arange(5), image=np.array([2]), boi=1, text=np.array([3, 4]))
        >>> layout.modality(np.array([0, 1, 2, 4])).tolist()
        ['special', 'special', 'image', 'text']
        """
        names = np.full(self.length, "special", dtype="<U7")
        names[self.text_before] = "text"
        names[self.text] = "text"
        names[self.image] = "image"
        return names[at]


@dataclass(frozen=True)
class Role:
    """A parsed role: `name` is canonical and names the role's folder; `without` are positions that it leaves out, `of`
    is the number of the picture that it is of, 0 for all."""

    name: str
    kind: str
    n: int = 1
    without: tuple[int, ...] = ()
    of: int = 0

    @property
    def is_mean(self) -> bool:
        """Whether the role is one vector, the mean over its positions."""
        return self.kind.endswith("-mean")

    @property
    def is_open(self) -> bool:
        """Whether the role reaches to the prompt's end, so that tokens generated later belong to it."""
        return self.kind in {"text", "suffix", "all"}


def _inside(span: ImageSpan) -> Positions:
    """What stands for an image in front of its end."""
    return span.block if span.eoi is None else span.block[span.block < span.eoi]


def _one(at: int | None) -> Positions | None:
    return None if at is None else np.array([at], np.int64)


def _some(at: Positions) -> Positions | None:
    return at if len(at) else None


def _kth(at: Positions, k: int) -> Positions | None:
    """The k-th of `at`, 1-based."""
    return at[k - 1 : k] if 1 <= k <= len(at) else None


def _from(start: int | None, layout: Layout) -> Positions | None:
    return None if start is None else np.arange(start, layout.length)


def _without(layout: Layout, positions: tuple[int, ...]) -> Positions | None:
    """The image without these positions, which have to be of it."""
    return _some(np.setdiff1d(layout.image, positions)) if np.isin(positions, layout.image).all() else None


def _wrapped(layout: Layout) -> Positions | None:
    """The image with all its machinery, in front of what ends it."""
    special = np.array([at for at in (layout.boi, *layout.special.values()) if at is not None], np.int64)
    return _some(np.unique(np.concatenate([layout.image, layout.eol, layout.size, special, layout.machinery])))


def _draw(pool: Positions, n: int, key: str) -> Positions | None:
    """n of `pool` without repetition, ascending.

    Hashes, because no random generator promises the same draws in the next version of Python or NumPy.
    """
    if n > len(pool):
        return None
    deck = pool.tolist()
    for i in range(n):
        digest = sha256(f"{key}/{i}".encode()).digest()
        j = i + int.from_bytes(digest[:8], "big") % (len(deck) - i)
        deck[i], deck[j] = deck[j], deck[i]
    return np.array(sorted(deck[:n]), np.int64)


# kind -> positions, from the layout, the role's number and the key of its random draw
_RESOLVE: dict[str, Callable[[Layout, int, str], Positions | None]] = {
    "all": lambda x, _, __: _some(np.arange(x.length)),
    "all-image-mean": lambda x, _, __: _wrapped(x),
    "at": lambda x, n, _: _one(n if n < x.length else None),
    "boi": lambda x, _, __: _one(x.boi),
    "eoi": lambda x, _, __: _one(x.eoi),
    "eol": lambda x, _, __: _some(x.eol),
    "eol-mean": lambda x, _, __: _some(x.eol),
    "first-image": lambda x, _, __: _kth(x.image, 1),
    "image": lambda x, _, __: _some(x.image),
    "image-K": lambda x, n, _: _kth(x.image, n),
    "image-mean": lambda x, _, __: _some(x.image),
    "image-size": lambda x, _, __: _some(x.size),
    "last": lambda x, n, _: _one(x.length - n if n <= x.length else None),
    "last-image": lambda x, _, __: _some(x.image[-1:]),
    "machinery": lambda x, _, __: _some(x.machinery),
    "prefix": lambda x, _, __: _some(np.arange(x.image_end or 0)),
    "random-image": lambda x, n, key: _draw(x.image, n, f"{key}/image"),
    "random-text": lambda x, n, key: _draw(x.text, n, f"{key}/text"),
    "suffix": lambda x, _, __: _from(x.image_end, x),
    "text": lambda x, _, __: _some(x.text),
    "text-mean": lambda x, _, __: _some(x.text),
}
MEANINGS = {
    "all": "every token",
    "all-image-mean": "mean of the image tokens and of the machinery among them, without what ends the image",
    "at-P": "the token at position P, counted from 0",
    "at-NAME": "a token of the model's own machinery: at-frame-end in Emu3",
    "boi": "what begins the image",
    "eoi": "what ends the image (also: end-image)",
    "eol": "what ends each line of the image",
    "eol-mean": "mean of these",
    "first-image": "the first image token (also: image-1)",
    "image": "every image token",
    "image-K": "the K-th image token, counted from 1",
    "image-mean": "mean of the image tokens",
    "image-mean-without-P": "mean of the image tokens but those at positions P-..., counted from 0",
    "image-size": "what says how large the image is, in models that write it",
    "last": "the last token of the prompt (also: last-1)",
    "last-N": "the N-th token from the end, counted from 1",
    "last-image": "the last image token",
    "machinery": "what else stands for the image in front of its end: what tells its tiles apart, for example",
    "prefix": "every token in front of what ends the image",
    "random-image": "one image token, drawn by the recipe's seed and the sample",
    "random-image-N": "N of them",
    "random-text": "one text token, drawn so",
    "random-text-N": "N of them",
    "suffix": "every token from what ends the image on",
    "text": "the prompt's text: what follows the image or, where nothing does, what precedes it",
    "text-mean": "mean of these",
    "word-COLUMN": "the last token of what the sample's column says, where it stands in the prompt (its _ written -)",
    "words-COLUMN": "all tokens of it",
    "ROLE-of-N": "of several pictures that of the N-th alone, of all that are the image's; each has its own otherwise",
}
_ALIASES = {
    "end-image": "eoi",
    "image-1": "first-image",
    "last-1": "last",
    "random-image-1": "random-image",
    "random-text-1": "random-text",
}
# Those that each picture has for itself.
_PICTURED = {
    *("all-image-mean", "boi", "eoi", "eol", "eol-mean", "first-image", "image", "image-K", "image-mean", "image-size"),
    "machinery",
    *("image-without-mean", "last-image", "random-image"),
}
_PLAIN = sorted(_RESOLVE.keys() - {"at", "image-K"})
_COUNTED = {"image": "image-K", "last": "last", "random-image": "random-image", "random-text": "random-text"}


def parse_role(text: str) -> Role:
    """The role that `text` names; RoleError, with the nearest one, when it names none.

    >>> parse_role("end-image").name, parse_role("image-032").name, parse_role("at-frame-end").name
    ('eoi', 'image-32', 'at-frame-end')
    >>> parse_role("image-2-of-03")  # the second token of the third picture
    Role(name='image-2-of-3', kind='image-K', n=2, without=(), of=3)
    """
    if worded := re.fullmatch(r"(words?)-[a-z][a-z0-9]*(-[a-z0-9]+)*", text):
        return Role(text, worded[1])
    if chosen := re.fullmatch(r"(.+)-of-0*(\d+)", text):
        role, picture = parse_role(chosen[1]), int(chosen[2])
        if role.kind not in _PICTURED or role.of or not picture:
            raise RoleError(f"no role is called {text!r}: {role.name} is of no one picture, and they count from 1")
        return replace(role, name=f"{role.name}-of-{picture}", of=picture)
    name = re.sub(r"-0*(\d+)$", r"-\1", text)
    name = _ALIASES.get(name, name)
    if name in _PLAIN:
        return Role(name, name)
    stem, _, number = name.rpartition("-")
    if number.isdecimal() and stem == "at":
        return Role(name, "at", int(number))
    if number.isdecimal() and stem in _COUNTED and int(number) > 0:
        return Role(name, _COUNTED[stem], int(number))
    if without := re.fullmatch(r"image-mean-without((?:-\d+)+)", text):
        left_out = tuple(sorted({int(number) for number in without[1][1:].split("-")}))
        return Role("-".join(["image-mean-without", *map(str, left_out)]), "image-without-mean", without=left_out)
    if re.fullmatch(r"at-[a-z]+(-[a-z]+)*", name):
        return Role(name, "special")
    examples = ("at-32", "image-32", "last-2", "random-image-10", "random-text-10", "word-label", "words-label")
    known = [*_PLAIN, *_ALIASES, *examples]
    roles = f"roles are {', '.join(MEANINGS)}: see actstore roles"
    raise RoleError(f"no role is called {text!r}{nearest(text, known, roles)}")


def positions(role: Role, layout: Layout, *, seed: int, sample_id: str) -> Positions | None:
    """Positions (n,) of the role in a sample, in reading order; None when this sample has none: never another token.

    `image-K` and `last-N` count from 1, `at-P` and `image-mean-without-P-...` from 0. A mean role gives the positions
    it averages: `image-mean` all image tokens, `all-image-mean` the image's machinery too, but for what ends it. Random
    roles depend on the seed and the sample alone, whatever the batch or the rank.

    What a picture has, each of several has for itself: their positions follow each other, or are those of one, `of`.
    """
    if role.kind in _PICTURED and (role.of or layout.n_pictures > 1):
        numbers = [role.of] if role.of else range(1, layout.n_pictures + 1)
        found = [_resolved(role, layout.of(number), seed, sample_id, number) for number in numbers]
        there = [at for at in found if at is not None]
        return np.concatenate(there) if there else None
    return _resolved(role, layout, seed, sample_id)


def _resolved(role: Role, layout: Layout, seed: int, sample_id: str, picture: int = 1) -> Positions | None:
    """Positions of a role in a layout of one picture at most, which is that number of the sample's."""
    if role.kind == "special":
        return _one(layout.special.get(role.name.removeprefix("at-")))
    if role.kind in ("word", "words"):
        return layout.words.get(role.name)
    if role.without:
        return _without(layout, role.without)
    key = f"{seed}/{sample_id}" if picture == 1 else f"{seed}/{sample_id}/picture {picture}"
    found = _RESOLVE[role.kind](layout, role.n, key)
    return None if found is None else found.astype(np.int64)
