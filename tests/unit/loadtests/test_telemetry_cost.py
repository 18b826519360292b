"""What the bench of telemetry makes of its samples."""

from __future__ import annotations

import pytest

from foundation.settings import load
from gateway.settings import GatewaySettings
from loadtests.measured import ClosedSample
from loadtests.telemetry_cost import (
    LOADS,
    METRICS,
    NOTHING,
    PAIRS,
    TRACES,
    VARIANTS,
    judge,
    page,
    settings,
)


def sample(row: str, number: int, per_second: float, cpu_us: float) -> ClosedSample:
    return ClosedSample(
        row=row,
        round=number,
        requests=1000,
        per_second=per_second,
        p50_us=1.0,
        p99_us=2.0,
        cpu_us=cpu_us,
        foreign_core=0.0,
        resident_mb=1.0,
    )


def rounds(variant: str, *per_second: float) -> list[ClosedSample]:
    row = f"{LOADS[0].name}: {variant}"
    return [sample(row, at + 1, each, 1e6 / each) for at, each in enumerate(per_second)]


def test_a_cost_is_a_ratio_of_medians() -> None:
    samples = rounds(NOTHING, 100, 200, 1000) + rounds(METRICS, 192, 10, 900)
    [cost] = judge(samples)
    assert (cost.variant, cost.beside) == (METRICS, NOTHING)
    assert cost.throughput == pytest.approx(0.96)
    assert cost.cpu == pytest.approx(200 / 192)
    assert cost.is_kept
    [worse] = judge(rounds(NOTHING, 100) + rounds(METRICS, 94.9))
    assert not worse.is_kept


def test_every_pair_and_load_is_judged() -> None:
    samples = [
        sample(f"{load.name}: {variant}", 1, 100, 10) for load in LOADS for variant in VARIANTS
    ]
    costs = judge(samples)
    assert len(costs) == len(LOADS) * len(PAIRS)
    text = page(samples, costs, "the command")
    assert all(f"| {load.name}: {variant} |" in text for load in LOADS for variant in VARIANTS)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_settings_of_a_variant_are_settings(
    variant: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("settings") / "telemetry.toml"
    file.write_text(settings(variant, "http://127.0.0.1:1"))
    found = load(GatewaySettings, file=file, environment={}, overrides={}).telemetry
    assert found.metrics == (variant != NOTHING)
    assert bool(found.otlp_endpoint) == (variant == TRACES)
