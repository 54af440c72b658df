"""Plans of whole recipes: what fits, what to change, how long."""

from __future__ import annotations

import pytest

from mirage_core.config import LoRASettings, ModelSettings, RuntimeSettings, Settings
from mirage_core.errors import SettingsError
from mirage_core.planning.flops import Rates
from mirage_core.planning.plan import GIB, Plan, make_plan, on_gpus, with_setting
from mirage_core.planning.resident_memory import resident_memory
from mirage_core.planning.sizes import model_sizes
from mirage_core.recipes import load

LARGE = ModelSettings(source="Qwen/Qwen2.5-VL-7B-Instruct", dtype="bfloat16")
RATES = Rates(training=200.0, rolling=200.0)


def planned(recipe: str, gpus: int, *overrides: str, gpu_gib: float = 80.0, rates: Rates | None = RATES) -> Plan:
    return make_plan(on_gpus(load(recipe, overrides), gpus), gpu_gib, rates)


def with_advice(settings: Settings, advice: tuple[str, ...]) -> Settings:
    return load("qwen2.5-vl-7b", [*OVERRIDES, *(option.removeprefix("--set ") for option in advice)])


OVERRIDES = ("runtime.processes=1", "grpo.gradient_checkpointing=false", "grpo.micro_batch_size=null")


@pytest.mark.parametrize("gpu_gib", [80.0, 40.0])
def test_what_is_advised_makes_a_stage_fit_and_nothing_of_it_can_be_left_out(gpu_gib: float) -> None:
    settings = load("qwen2.5-vl-7b", OVERRIDES)
    plan = make_plan(settings, gpu_gib)
    assert not plan.fits
    for stage in (stage for stage in plan.stages if not stage.fits):
        assert all(option.startswith("--set ") for option in stage.advice), stage.advice
        changed = make_plan(with_advice(settings, stage.advice), gpu_gib)
        (again,) = (option for option in changed.stages if option.name == stage.name)
        assert again.fits, (stage.name, stage.advice)
        for left_out in stage.advice:
            fewer = tuple(option for option in stage.advice if option != left_out)
            (without,) = (
                option
                for option in make_plan(with_advice(settings, fewer), gpu_gib).stages
                if option.name == stage.name
            )
            assert not without.fits, (stage.name, left_out)


def test_where_nothing_helps_it_is_said() -> None:
    plan = planned("qwen2.5-vl-7b", 1, "runtime.engine=plain", gpu_gib=8.0)
    assert {stage.advice for stage in plan.stages if stage.name == "relaxation"} == {
        ("nothing that can be set makes it fit: use more GPUs, larger ones, or a smaller model",)
    }


@pytest.mark.parametrize("recipe", ["qwen2.5-vl-3b", "qwen2.5-vl-7b"])
def test_a_recipe_for_gpus_fits_80_gib_as_it_is(recipe: str) -> None:
    plan = make_plan(load(recipe), 80.0)
    assert [stage.name for stage in plan.stages] == ["direct-sft", "grounding", "relaxation", "grpo", "evaluation"]
    assert plan.fits, {stage.name: stage.needed / GIB for stage in plan.stages}


@pytest.mark.parametrize(
    ("stage", "weights", "gradients", "optimizer"), [(1, 2.0, 4.0, 3.0), (2, 2.0, 1.0, 3.0), (3, 0.5, 1.0, 3.0)]
)
def test_zero_shares_out_what_it_says(stage: int, weights: float, gradients: float, optimizer: float) -> None:
    sizes = model_sizes(LARGE)
    runtime = RuntimeSettings(zero_stage=stage, processes=4)  # type: ignore[arg-type]
    resident, learned = resident_memory(sizes, LARGE, runtime, "adamw"), sizes.language
    assert resident.weights == pytest.approx(weights * sizes.total)
    assert resident.gradients == pytest.approx(gradients * learned)
    assert resident.optimizer == pytest.approx(optimizer * learned)  # 12 bytes a parameter, among four
    assert resident.main == 0


def test_what_is_offloaded_lies_in_main_memory() -> None:
    sizes = model_sizes(LARGE)
    runtime = RuntimeSettings(zero_stage=3, processes=2, offload_optimizer=True, offload_parameters=True)
    resident = resident_memory(sizes, LARGE, runtime, "adamw")
    assert (resident.weights, resident.optimizer, resident.stepping) == (0, 0, 0)
    assert resident.main == pytest.approx(8 * sizes.language + sizes.total)
    assert resident_memory(sizes, LARGE, RuntimeSettings(zero_stage=2), "adamw_8bit").optimizer < 0.6 * (
        resident_memory(sizes, LARGE, RuntimeSettings(zero_stage=2), "adamw").optimizer
    )


def test_two_hosts_count_as_all_their_gpus() -> None:
    settings = load("tiny-paper", ["runtime.hosts=[a, b]", "runtime.launcher=torchrun"])
    assert on_gpus(settings, 8).runtime.world_size == 8
    with pytest.raises(SettingsError, match="do not divide among 2 hosts"):
        on_gpus(settings, 3)
    assert on_gpus(settings, None) == settings


def test_steps_and_examples_are_those_of_the_recipe() -> None:
    plan = planned("qwen2.5-vl-3b", 1)
    steps = {stage.name: stage.steps for stage in plan.stages}
    assert plan.rows.train == 2000
    assert steps == {"direct-sft": 30000, "grounding": 3750, "relaxation": 30000, "grpo": 1000, "evaluation": 250}


def test_only_what_is_compared_is_trained_and_planned() -> None:
    plan = planned("tiny-paper", 1, "evaluation.methods=[zero-shot, direct-sft]")
    assert [stage.name for stage in plan.stages] == ["base", "direct-sft", "evaluation"]
    plan = planned("tiny-paper", 1, "evaluation.methods=[capimagine]")
    assert [stage.name for stage in plan.stages] == ["base", "capimagine", "evaluation"]


def test_visual_tokens_are_planned_with_their_codebook_and_as_long_as_a_span_of_latents() -> None:
    methods = "evaluation.methods=[direct-sft, stage-1, visual-tokens]"
    plan = planned("qwen2.5-vl-7b", 1, methods, "visual_tokens.codebook_size=256", "visual_tokens.batch_size=1")
    stages = {stage.name: stage for stage in plan.stages}
    assert stages["visual-codes"].steps == plan.rows.train + 512
    text, codes, latents = (stages[name].tokens_per_step for name in ("direct-sft", "visual-tokens", "grounding"))
    batch = 8  # of grounding in this recipe
    assert codes == latents / batch == text + load("qwen2.5-vl-7b").latent.num_latents + 2
    sizes, lora = model_sizes(LARGE), LoRASettings()
    grown = sizes.with_tokens(258)
    assert grown.vocabulary == sizes.vocabulary + 258
    assert grown.total - sizes.total == 258 * sizes.text.hidden * 2 == grown.language - sizes.language
    assert grown.adapters(lora, 258) - sizes.adapters(lora) == 258 * sizes.text.hidden * 2


def test_a_stage_that_does_not_fit_is_advised_by_the_settings_it_reads() -> None:
    methods = "evaluation.methods=[visual-tokens, without-stage-1]"
    plan = planned("qwen2.5-vl-7b", 1, methods, "runtime.processes=1", gpu_gib=12.0)
    assert {stage.name for stage in plan.stages if not stage.fits} >= {"visual-codes", "visual-tokens"}
    (advice,) = {stage.name: stage.advice for stage in plan.stages}["visual-codes"]
    assert "use more GPUs, larger ones, or a smaller model" in advice


def test_hours_come_with_a_rate_and_shrink_with_it() -> None:
    def hours(rate: float) -> dict[str, float]:
        plan = planned("qwen2.5-vl-7b", 4, rates=Rates(training=rate, rolling=rate, launch_ms=0.0))
        return {stage.name: stage.hours or 0.0 for stage in plan.stages}

    slow, fast = hours(10.0), hours(100.0)
    assert all(slow[name] > fast[name] > 0 for name in slow)
    assert planned("qwen2.5-vl-7b", 4, rates=None).hours is None


def test_operations_are_six_a_parameter_and_token_and_a_third_more_where_layers_are_computed_again() -> None:
    text = {
        stage.name: stage for stage in planned("qwen2.5-vl-7b", 1, "direct_sft.gradient_checkpointing=false").stages
    }
    sizes = model_sizes(LARGE)
    by_rule = 6 * sizes.parameters["layers"] * text["direct-sft"].tokens_per_step
    assert text["direct-sft"].flops_per_step == pytest.approx(by_rule, rel=0.05)
    assert text["direct-sft"].model_flops_per_step == text["direct-sft"].flops_per_step
    again = {
        stage.name: stage for stage in planned("qwen2.5-vl-7b", 1, "direct_sft.gradient_checkpointing=true").stages
    }
    assert again["direct-sft"].flops_per_step == pytest.approx(4 / 3 * by_rule, rel=0.05)
    assert again["direct-sft"].model_flops_per_step == text["direct-sft"].model_flops_per_step


def test_processes_without_an_example_are_told_of() -> None:
    notes = {stage.name: stage.notes for stage in planned("qwen2.5-vl-7b", 8, "relaxation.batch_size=1").stages}
    assert "relaxation.batch_size is 1: 7 of 8 processes have nothing to do" in notes["relaxation"]
    assert not any("nothing to do" in note for note in notes["grounding"])


def test_a_setting_is_changed_and_checked() -> None:
    settings = load("tiny-paper")
    assert with_setting(settings, "grounding.micro_batch_size", 4).grounding.micro_batch_size == 4
    with pytest.raises(ValueError, match="greater than 0"):
        with_setting(settings, "grounding.batch_size", 0)


def test_muon_costs_what_orthogonalising_the_matrices_of_all_layers_takes() -> None:
    chosen = ["runtime.zero_stage=0", "model.source=from_scratch"]
    found = {}
    for name in ("adamw", "muon"):
        plan = make_plan(load("tiny-paper", [*chosen, f"direct_sft.optimizer={name}"]), 80.0, RATES)
        found[name] = next(stage for stage in plan.stages if stage.name == "direct-sft")
    # Short and long side of the seven matrices of a layer: queries and output, keys and values, and the MLP's.
    sides = [(128, 128)] * 2 + [(64, 128)] * 2 + [(128, 384)] * 3
    operations = 4 * 5 * sum(4 * short**2 * long + 2 * short**3 for short, long in sides)
    assert found["muon"].model_flops_per_step == found["adamw"].model_flops_per_step
    hours = {name: stage.hours or 0.0 for name, stage in found.items()}
    more = (hours["muon"] - hours["adamw"]) * 3600 / found["muon"].steps
    assert more == pytest.approx(operations / (RATES.training * 1e12), rel=1e-3)
