"""Prompts of any length and script: tokens come out, or one line says why not."""

import pytest
from hypothesis import strategies as st

from fuzz.mutation import amounts, no_hang, refused_in_one_line, search
from stt2v.engine.media.tokenizer import Tokenizer
from stt2v.engine.models import find_model
from stt2v.engine.plan import plan_run
from stt2v.engine.request import Request
from stt2v.engine.store import SHIPPED

TEXT_MODEL = find_model("streaming-t2v")
LONGEST = 100_000
pieces = st.sampled_from(
    ["0:", ";", "1e9s:", "-3:", " 7s :", "a cat", "猫", "🐈‍⬛", "قطة", "\0", "\ud800", "\n", "16:9", "\uff19:"]
)
prompts = st.text() | st.lists(pieces | st.text(max_size=5), max_size=30).map("".join)


@amounts
def test_any_prompt(examples: int) -> None:
    tokenize = Tokenizer(SHIPPED / "tiny" / "enhance_tokenizer.json")

    def check(prompt: str) -> None:
        with refused_in_one_line():
            plan = plan_run(TEXT_MODEL, Request(prompt=prompt).resolve(TEXT_MODEL))
            assert all(tokenize(text).shape == (1, 77) for text in set(plan.chunk_prompts))

    search(8 * examples, check, prompt=prompts)


@pytest.mark.parametrize("piece", ["a", "a ", "0:", "; 0: a", "猫", " ", "9", ";", "\ud800"])
def test_a_very_long_prompt(piece: str) -> None:
    tokenize = Tokenizer(SHIPPED / "tiny" / "enhance_tokenizer.json")
    prompt = piece * (LONGEST // len(piece))
    with no_hang(), refused_in_one_line():
        plan = plan_run(TEXT_MODEL, Request(prompt=prompt).resolve(TEXT_MODEL))
        assert tokenize(plan.chunk_prompts[0]).shape == (1, 77)
