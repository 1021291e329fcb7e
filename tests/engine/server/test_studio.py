"""What a server opens."""

import pytest

from stt2v.engine.machine import Card
from stt2v.engine.server import studio
from stt2v.engine.server.studio import visible_cards

CARD = Card("Card", 24 << 30, "580.1", "sm_89")


def no_driver() -> tuple[Card, ...]:
    raise OSError("nvidia-smi failed; mend the NVIDIA driver")


@pytest.mark.parametrize(
    ("named", "there", "workers"),
    [
        (None, lambda: (CARD, CARD), ["0", "1"]),
        (None, lambda: (), [None]),
        (None, no_driver, [None]),
        ("1,GPU-5", no_driver, ["1", "GPU-5"]),
        ("", lambda: (CARD,), [None]),
    ],
)
def test_a_worker_for_each_card_that_is_to_be_seen(
    named: str | None, there: object, workers: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(studio, "cards", there)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if named is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert visible_cards() == workers
