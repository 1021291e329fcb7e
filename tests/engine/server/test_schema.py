"""What the API says of itself, held against what it does, by schemathesis."""

from collections import Counter
from contextlib import suppress
from itertools import product
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from serving import serving

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed; make dev")
from schemathesis import GenerationMode, checks  # noqa: E402

ENDLESS = "/v1/events"  # as long as the server runs; streams of events are read in test_api
LEFT_OUT = [checks.positive_data_acceptance]  # which sizes and lengths a model takes is more than a schema says
CALM = [HealthCheck.too_slow, HealthCheck.filter_too_much]


@pytest.mark.parametrize("examples", [5, pytest.param(100, marks=pytest.mark.slow)])
def test_it_does_what_it_says(examples: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """With requests that fit the schema, and with such that do not, where there can be any."""
    called = Counter[tuple[str, GenerationMode]]()

    def call(case: Any) -> None:
        called[case.operation.label, case.meta.generation.mode] += 1
        case.call_and_validate(excluded_checks=LEFT_OUT)

    with serving(tmp_path_factory.mktemp("server"), places=3) as served:
        schema = schemathesis.openapi.from_url(f"{served.address}/openapi.json").exclude(path=ENDLESS)
        own = settings(max_examples=examples, derandomize=True, database=None, suppress_health_check=CALM)
        for operation, mode in product((each.ok() for each in schema.get_all_operations()), GenerationMode):
            cases = operation.as_strategy(generation_mode=mode)
            with suppress(*([Unsatisfiable] if mode is GenerationMode.NEGATIVE else [])):
                own(given(case=cases)(call))()
    wrong = {label for label, mode in called if mode is GenerationMode.NEGATIVE}
    assert wrong >= {"POST /v1/videos", "POST /v1/plans", "POST /v1/videos/{video_id}/takes", "GET /v1/videos"}
