"""Captions of the world: a small grammar with synonyms over a closed vocabulary."""

import json
from functools import cache

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase, Replace, Sequence
from tokenizers.pre_tokenizers import Whitespace

from stt2v.export.mini.atlas import OBJECTS
from stt2v.export.mini.scene import BACKGROUNDS, MOTIONS, Scene

TOKENS = 16  # of every caption, padded
PAD, UNKNOWN = "<pad>", "<unk>"

NAMES = {
    "cat": ("cat", "kitten"),
    "dog": ("dog", "puppy"),
    "pig": ("pig", "piglet"),
    "donut": ("donut", "doughnut"),
    "pizza": ("pizza", "slice of pizza"),
    "football": ("football", "soccer ball"),
    "rocket": ("rocket", "spaceship"),
    "car": ("car", "red car"),
    "gift": ("gift", "present"),
    "ladybug": ("ladybug", "ladybird"),
    "fish": ("fish", "striped fish"),
}
"""Other names of objects; all others have only their own."""

DOING = {
    "side": ("moving left and right", "sliding from side to side", "swaying sideways"),
    "rise": ("moving up and down", "rising and falling", "floating up and down"),
    "circle": ("moving in a circle", "circling around", "going round in circles"),
    "bounce": ("bouncing", "hopping around", "jumping across"),
    "pulse": ("growing and shrinking", "pulsating", "getting bigger and smaller"),
    "spin": ("spinning", "rotating", "turning around itself"),
}

PLACES = {
    "pink": ("on a pink background", "before a pink wall"),
    "grey": ("on a grey background", "before a gray wall"),
    "mint": ("on a mint background", "before a mint wall"),
    "sunset": ("at sunset", "in the evening sky"),
    "night": ("at night", "in the night sky"),
    "grass": ("on grass", "in a meadow"),
    "water": ("on water", "over the sea"),
    "sand": ("on sand", "on the beach"),
}

BARE = 0.06  # share of captions that leave a part out


def caption(scene: Scene, random: np.random.Generator) -> str:
    """One of the captions of a scene."""
    name, motion, background = OBJECTS[scene.object], MOTIONS[scene.motion], BACKGROUNDS[scene.background]
    said = str(random.choice(NAMES.get(name, (name,))))
    parts = [_article(said) if random.random() < 0.9 else f"the {said}"]
    for phrases in (DOING[motion], PLACES[background]):
        if random.random() >= BARE:
            parts.append(str(random.choice(phrases)))
    return " ".join(parts)


def plain_caption(scene: Scene) -> str:
    """The caption of a scene in the first words for everything."""
    name = OBJECTS[scene.object]
    place = PLACES[BACKGROUNDS[scene.background]][0]
    return f"{_article(NAMES.get(name, (name,))[0])} {DOING[MOTIONS[scene.motion]][0]} {place}"


def _article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


@cache
def tokenizer() -> Tokenizer:
    """Words of the grammar to numbers, lower case, always `TOKENS` of them. Longer captions are cut."""
    phrases = [*OBJECTS, *(phrase for table in (NAMES, DOING, PLACES) for entry in table.values() for phrase in entry)]
    words = sorted({"a", "an", "the", *(word for phrase in phrases for word in phrase.split())})
    vocabulary = {word: index for index, word in enumerate([PAD, UNKNOWN, *words])}
    made = Tokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
    made.normalizer = Sequence([Lowercase(), Replace("colour", "color")])
    made.pre_tokenizer = Whitespace()
    made.enable_truncation(TOKENS)
    made.enable_padding(pad_id=0, pad_token=PAD, length=TOKENS)
    return made


def vocabulary_size() -> int:
    """Number of different tokens."""
    return len(json.loads(tokenizer().to_str())["model"]["vocab"])


def token_ids(captions: list[str]) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """captions -> [N, TOKENS], int64."""
    return np.array([line.ids for line in tokenizer().encode_batch(captions)], np.int64)
