"""What chapter 18 builds in its cells: the judge, the sampler, GRPO's loss against trl, and pass@k."""

import copy
import itertools
import math
import random
import sys

import pytest
import torch
import trl_loss
from hypothesis import given, settings
from hypothesis import strategies as st
from lifting import lift, notebook_path
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

from utils import claims, files

LETTERS, TASKS, JUDGED, TRAINED = lift("18", "LETTERS", "TASKS", "JUDGED", "TRAINED")
programs_for, prompt, run_tests, by_tests, scored = lift(
    "18", "programs_for", "prompt", "run_tests", "by_tests", "scored"
)
answers_of, until_line_end, texts_of, log_probs, sample, prompts_of, LINE_END, LONGEST = lift(
    "18", "answers_of", "until_line_end", "texts_of", "log_probs", "sample", "prompts_of", "LINE_END", "LONGEST"
)
pass_at, advantages, grpo_loss, ahead, with_a_hole = lift(
    "18", "pass_at", "advantages", "grpo_loss", "ahead", "with_a_hole"
)
grpo, rejection, supervised, distilled, lower_part, start, draw = lift(
    "18", "grpo", "rejection", "supervised", "distilled", "lower_part", "start", "draw"
)
TRL = files.records("trl_loss.json")
HANGS = "9 ** 9 ** 9"


@pytest.fixture(scope="module")
def tiny() -> DeepseekV3ForCausalLM:
    torch.manual_seed(0)
    config = DeepseekV3Config(
        vocab_size=4096, hidden_size=32, intermediate_size=32, moe_intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, kv_lora_rank=16, q_lora_rank=16, qk_nope_head_dim=8,
        qk_rope_head_dim=8, v_head_dim=8, n_routed_experts=4, num_experts_per_tok=2, n_group=1, topk_group=1,
        first_k_dense_replace=1, experts_implementation="eager",
    )  # fmt: skip
    return DeepseekV3ForCausalLM(config).eval()


# -------------------------------------------------------------------------------------------------- the tasks


def test_every_written_program_passes_its_tests_and_no_judged_task_is_trained_on():
    pairs = [(program, task) for task in TASKS[::7] for program in programs_for(task)]
    assert run_tests(pairs) == "1" * len(pairs)
    assert len(TASKS) == 512 and not set(JUDGED) & set(TRAINED) and len(JUDGED) + len(TRAINED) == 512
    assert len({prompts_of([task]).shape for task in TASKS[::50]}) == 1


def test_an_answer_that_is_cut_short_is_no_written_one():
    ids, mask = answers_of([program for task in TASKS for program in programs_for(task)])
    assert mask.sum(1).max() <= LONGEST and (ids[mask.cumsum(1) == mask.sum(1, keepdim=True)] == LINE_END).all()


# -------------------------------------------------------------------------------------------------- the judge


@pytest.mark.parametrize(
    ("program", "sign"),
    [
        ("x[3:6]", "1"),
        ("'def'", "1"),
        ("x[3] + x[5] + x[4]", "0"),
        ("('d', 'e', 'f')", "0"),
        ("x[8]", "e"),
        ("x[3] +", "e"),
        ("", "e"),
        ("__import__('os').system('true')", "e"),
        ("open('x')", "e"),
        ("x * 10 ** 11", "e"),
        ("(lambda f: f(f))(lambda f: f(f))", "e"),
        ("print('1')", "e"),
        (HANGS, "k"),
        ("[[0 for i in x * 10 ** 5] for j in x * 10 ** 5]", "k"),
    ],
)
def test_what_a_candidate_does_gets_its_sign(program: str, sign: str):
    assert run_tests([(program, "def")]) == sign


def test_behind_a_killed_candidate_a_new_worker_goes_on():
    batch = ["x[3:6]", HANGS, "x[0]", HANGS, HANGS, "x[3:6]"]
    assert run_tests([(program, "def") for program in batch], seconds=0.1) == "1k0kk1"
    assert run_tests([]) == ""


def test_a_worker_that_cannot_work_is_an_error_and_not_a_wrong_answer():
    with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError, match="worker failed"):
        patch.setitem(run_tests.__globals__, "WORKER", "raise SystemExit('no worker')")
        run_tests([("x", "def")])


@pytest.mark.parametrize("candidates", [["x[0]"], ("x[0]", "abc"), [("x", "def", "too much")]])
def test_what_is_no_pair_of_program_and_task_is_refused(candidates):
    with pytest.raises(ValueError, match="a candidate is a pair"):
        run_tests(candidates)


def test_where_the_system_limits_no_processor_time_the_clock_does():
    worker = run_tests.__globals__["WORKER"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(run_tests.__globals__, "WORKER", "import signal; del signal.setitimer" + worker)
        assert run_tests([("x[3:6]", "def"), (HANGS, "def"), ("x[0]", "def")], seconds=0.05) == "1k0"


def test_nothing_that_a_candidate_does_reaches_this_process():
    before = dict(sys.modules)
    run_tests([("x.__class__.__base__.__subclasses__()", "def"), ("(y := 5)", "def")])
    assert sys.modules.keys() == before.keys()


def test_the_reward_with_a_hole_pays_for_errors_and_the_sound_one_does_not():
    answers, asked = ["x[3:6]", "x[", "x[0]"], ["def"] * 3
    assert by_tests(answers, asked) == [1, 0, 0] and with_a_hole(answers, asked) == [1, 1, 0]


def endless(answers, tasks):
    while True:
        pass


def deaf(answers, tasks):
    while True:
        try:
            endless(answers, tasks)
        except Exception:
            continue


@pytest.mark.parametrize(
    ("reward", "complaint"),
    [
        (lambda answers, tasks: [1 / 0], "raised ZeroDivisionError"),
        (lambda answers, tasks: [math.nan, 1.0], "finite numbers; got nan"),
        (lambda answers, tasks: [1.0, -math.inf], "finite numbers; got -inf"),
        (lambda answers, tasks: [1.0], "must give 2 numbers"),
        (lambda answers, tasks: 1.0, "must give 2 numbers"),
        (lambda answers, tasks: ["right", "wrong"], r"must give numbers; got \['right', 'wrong'\]"),
        (lambda answers, tasks: None, "must give numbers; got nothing"),
        (lambda answers, tasks: (1.0 for answer in answers), "must give numbers; got <generator"),
        (deaf, "deaf took longer than 0.3 s"),
        (endless, "endless took longer than 0.3 s"),
    ],
)
def test_a_broken_reward_is_an_error_with_a_name(reward, complaint):
    with pytest.raises(ValueError, match=complaint):
        scored(reward, ["x", "x"], ["abc", "abd"], seconds=0.3)


def test_a_sound_reward_is_passed_on():
    assert scored(by_tests, ["x[0:3]", "x"], ["abc", "abc"]).tolist() == [1, 0]


# ------------------------------------------------------------------------------------------------ the sampler


def test_the_sampler_s_answers_have_the_probabilities_of_one_pass(tiny):
    prompts, ids, mask = sample(tiny, TRAINED[:3], 4, seed=1)
    assert prompts.shape[0] == ids.shape[0] == 12 and ids.shape == mask.shape and mask[:, 0].all()
    found = log_probs(tiny, prompts, ids)
    for row in range(0, 12, 5):
        whole = torch.cat([prompts[row], ids[row]])[None]
        logits = tiny(input_ids=whole).logits[0, prompts.shape[1] - 1 : -1].log_softmax(-1)
        own = logits[torch.arange(ids.shape[1]), ids[row]]
        torch.testing.assert_close(found[row], own, atol=1e-4, rtol=0)


def test_a_sharp_model_s_samples_are_likely_in_one_pass(tiny):
    """So the cache that a group shares is that of its own prompt."""
    weight = tiny.lm_head.weight.detach().clone()
    with torch.no_grad():
        tiny.lm_head.weight.mul_(3000)
        prompts, ids, mask = sample(tiny, TRAINED[:3], 2, seed=0)
        likely = log_probs(tiny, prompts, ids)[mask].exp().mean()
        strange = log_probs(tiny, prompts.roll(2, 0), ids)[mask].exp().mean()
        tiny.lm_head.weight.copy_(weight)
    assert likely > 0.9 and strange < 0.9


def test_the_mask_ends_behind_the_first_line_end():
    ids, mask = until_line_end(torch.tensor([[5, LINE_END, 7, LINE_END, 9], [5, 6, 7, LINE_END, LINE_END]]))
    assert mask.tolist() == [[True, True, False, False], [True] * 4] and ids.shape == (2, 4)
    written, kept = answers_of(["x[0]", "x[1] + x[2] + x[3]"])
    assert texts_of(written, kept) == ["x[0]", "x[1] + x[2] + x[3]"]


# ------------------------------------------------------------------------------------------------------- GRPO


def own_loss(answer: dict, **changes) -> tuple[float, torch.Tensor]:
    numbers = {name: torch.tensor(value) for name, value in TRL["batch"].items()}
    plain = answer["loss_type"] == "grpo"
    new = numbers["new"].clone().requires_grad_()
    advantage = advantages(numbers["rewards"].float(), TRL["batch"]["group"], divided=plain)
    options = {"clip": TRL["clip"], "beta": answer["beta"], "longest": None if plain else TRL["longest"]} | changes
    loss = grpo_loss(new, numbers["old"], numbers["reference"], advantage, numbers["mask"], **options)
    loss.backward()
    return loss.item(), new.grad


@pytest.mark.parametrize("answer", TRL["answers"], ids=lambda answer: f"{answer['loss_type']}, {answer['beta']}")
def test_loss_and_gradient_equal_trl_s(answer: dict):
    loss, gradient = own_loss(answer)
    assert loss == pytest.approx(answer["loss"], abs=1e-6)
    torch.testing.assert_close(gradient, torch.tensor(answer["gradient"]), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("change", [{"clip": 0.5}, {"beta": 0.1}, {"longest": 4}])
def test_the_batch_tells_a_wrong_loss_from_trl_s(change: dict):
    answer = TRL["answers"][1]
    loss, gradient = own_loss(answer, **change)
    assert not torch.allclose(gradient, torch.tensor(answer["gradient"]), atol=1e-4) and loss != answer["loss"]


def test_trl_s_numbers_are_trl_s():
    trl = pytest.importorskip("trl")
    pytest.importorskip("datasets")
    assert trl.__version__ == TRL["trl"]
    assert trl_loss.found() == TRL


def test_the_file_holds_the_batch_that_trl_was_asked_about():
    assert trl_loss.batch() == TRL["batch"]
    asked = list(itertools.product(trl_loss.LOSSES, trl_loss.BETAS))
    assert [(answer["loss_type"], answer["beta"]) for answer in TRL["answers"]] == asked


@given(st.lists(st.integers(0, 1), min_size=8, max_size=8))
def test_advantages_of_a_group_sum_to_0_and_a_group_of_equals_teaches_nothing(rewards: list):
    found = advantages(torch.tensor(rewards, dtype=torch.float32), 8)
    assert abs(float(found.sum())) < 1e-4
    if len(set(rewards)) == 1:
        assert not found.any()
    else:
        assert float(found.std()) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(("answers", "group", "complaint"), [(4, 1, "2 answers or more"), (5, 2, "groups of 2")])
def test_groups_that_cannot_be_compared_are_refused(answers: int, group: int, complaint: str):
    with pytest.raises(ValueError, match=complaint):
        advantages(torch.ones(answers), group)


# -------------------------------------------------------------------------------------------------- measuring


@settings(deadline=None)
@given(st.integers(1, 7), st.data())
def test_pass_at_k_counts_the_draws_that_have_a_right_answer(n: int, data):
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    draws = list(itertools.combinations([1] * c + [0] * (n - c), k))
    assert pass_at(n, c, k) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_pass_at_k_is_unbiased_and_the_power_is_too_low():
    p, n, k = 0.3, 6, 3
    chances = [math.comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)]
    true = 1 - (1 - p) ** k
    assert sum(x * pass_at(n, c, k) for c, x in enumerate(chances)) == pytest.approx(true)
    assert sum(x * (1 - (1 - c / n) ** k) for c, x in enumerate(chances)) < true - 0.02


@pytest.mark.parametrize(("k", "c", "n"), [(0, 1, 4), (5, 1, 4), (1, 5, 4), (1, -1, 4)])
def test_pass_at_k_refuses_what_cannot_be(k: int, c: int, n: int):
    with pytest.raises(ValueError, match="no pass@"):
        pass_at(n, c, k)


@pytest.mark.parametrize(
    ("left", "right", "by", "word"),
    [
        ([0.5, 0.6], [0.3, 0.4], 0, True),
        ([0.5, 0.6], [0.3, 0.4], 0.2, None),
        ([0.3, 0.4], [0.5], 0.05, False),
        ([0.3, 0.5], [0.4, 0.6], 0, None),
    ],
)
def test_ahead_needs_every_seed_and_the_margin(left, right, by, word):
    assert ahead(left, right, by) is word


def test_grpo_makes_what_is_rewarded_more_likely():
    """One update in the direction of a reward for one token, on the mini DeepSeek's lower part."""
    torch.manual_seed(0)
    model = lower_part(1)
    wanted = []

    def reward(answers, tasks):
        return [float(len(answer) % 2) for answer in answers]

    prompts, ids, mask, rewards, *_ = draw(model, random.Random(0), reward, 0)  # grpo's own first batch

    def agreement() -> float:
        with torch.no_grad():
            return float((log_probs(model, prompts, ids) * mask).sum(1) @ advantages(rewards, 8))

    before = agreement()
    grpo(model, 0, reward, 1)
    assert rewards.std() > 0 and agreement() > before
    grpo(model, 0, reward, 3, note=lambda rewards, *_: wanted.append(float(rewards.mean())))
    assert len(wanted) == 3 and all(0 <= share <= 1 for share in wanted)


def test_each_batch_of_answers_is_read_as_often_as_asked(monkeypatch):
    torch.manual_seed(0)
    losses = []
    monkeypatch.setitem(grpo.__globals__, "step", lambda optimizer, loss: losses.append(float(loss.detach())))
    grpo(lower_part(1), 0, lambda answers, tasks: [float(i % 2) for i in range(len(answers))], 2, readings=3)
    assert len(losses) == 6 and losses[0] == losses[2]  # nothing has moved, and old stays what it was


def test_a_start_that_misses_its_aim_says_so(tiny):
    with pytest.raises(RuntimeError, match=r"below 1\.1 after 2 steps"):
        start(copy.deepcopy(tiny), 1e-3, 1.1, limit=2)


def test_rewards_may_be_whole_numbers_in_a_list_or_hang_on_a_gradient():
    assert advantages([1, 0, 0, 0], 4, divided=False).tolist() == [0.75, -0.25, -0.25, -0.25]
    assert not scored(lambda answers, tasks: torch.ones(2, requires_grad=True), ["x", "x"], ["abc"] * 2).requires_grad


# --------------------------------------------------------------------------------------------------- verdicts


def test_the_verdicts_are_those_of_the_saved_run():
    found = {verdict.claim: verdict for verdict in claims.saved_verdicts(notebook_path("18"))}
    words = {claim: verdict.verdict.split(" if ")[0] for claim, verdict in found.items()}
    assert words == {
        "D12": "holds", "D13": claims.UNTOLD, "D14": claims.UNTOLD,
        "D15": claims.UNTOLD, "D16": "holds", "D17": "holds",
    }  # fmt: skip
    assert [case["holds"] for case in found["D14"].cases] == [None]
    assert [case["holds"] for case in found["D16"].cases] == [True, False]
