"""The learning step: the objective's advantages reach the engine, with ratios and KL if they are configured."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from actors.group import Group
from actors.group_metrics import group_metrics
from actors.queue.allocation_settings import AllocationSettings
from actors.workers.learning_step import LearningStep, graded_groups
from cluster.evaluation.summary import curve_of
from learner import strategy_value
from learner.estimators import group_advantages
from learner.estimators.bon_sft import bon_sft_advantages
from learner.objective import Objective
from learner.objective_settings import ObjectiveSettings
from learner.schedule import EntropySchedule, Schedule, ScheduleSettings
from learner.settings import LossSettings
from tests.actors.test_group import make_group
from tests.learner.tabular import BINARY, best, gradient, groups_of, policy, update


class RecordingEngine:
    """Records its calls; every token has log-probability `current` now and `reference` at the start."""

    def __init__(self, current: float = -1.0, reference: float = -1.5) -> None:
        self.current, self.reference, self.refreshed, self.scored = current, reference, 0, 0

    def accumulate(self, sequences, normaliser, step, **options):
        self.sequences, self.normaliser, self.options = sequences, normaliser, options
        return {}

    def score(self, sequences, temperature):
        self.scored += 1
        return [np.full(len(s.response_tokens), self.current, np.float32) for s in sequences]

    def score_reference(self, sequences, temperature):
        return [np.full(len(s.response_tokens), self.reference, np.float32) for s in sequences]

    def refresh_reference(self):
        self.refreshed += 1


def graded(rewards, *, version: int = 0, scores=None, answers=None):
    n = len(rewards)
    rewards = np.array(rewards, dtype=np.float64)
    group = make_group(tuple(range(3, 3 + n)))
    return replace(
        group,
        token_versions=[np.full(len(tokens), version, np.int32) for tokens in group.response_tokens],
        reward=rewards,
        score=rewards if scores is None else np.array(scores, dtype=np.float64),
        verdict=["correct" if r == 1 else "wrong" for r in rewards],
        answer=answers or [f"x{i}" for i in range(n)],
    )


GROUPS = [graded([1, 0, 0, 0]), graded([1, 1, 0, 0])]
REWARDS = [[1, 0, 0, 0], [1, 1, 0, 0]]


def run(settings: ObjectiveSettings, groups=GROUPS, *, step: int = 0, loss: LossSettings | None = None, **more):
    engine = RecordingEngine(**more.pop("engine", {}))
    objective = Objective(settings)
    more = {"n": groups[0].n, "temperature": 1.0} | more
    figures, advantages = LearningStep(engine, objective, loss or LossSettings(), **more).accumulate(groups, step)
    assert [s.advantage for s in engine.sequences] == pytest.approx(np.concatenate(advantages).tolist())
    return engine, figures, advantages


@pytest.mark.parametrize("texts", [["1+2", "1+2", "3", "4"], None])
def test_equal_responses_are_one_event_for_soft_pass_at_k(texts: list[str] | None) -> None:
    """Equal texts, whatever their tokens; without texts equal tokens."""
    group = replace(graded([0.5, 0.5, 0.2, 0.0]), response_text=texts)
    if texts is None:
        names = ("response_tokens", "behaviour_logprobs", "token_versions")
        group = replace(group, **{name: [getattr(group, name)[i] for i in (0, 0, 2, 3)] for name in names})
    _, figures, (advantages,) = run(ObjectiveSettings(strategy="soft_pass_at_k", k=2), [group])
    expected = group_advantages(group.rewards, strategy="soft_pass_at_k", k=2, responses=["a", "a", "b", "c"])
    np.testing.assert_allclose(advantages, expected)
    assert not np.allclose(expected, group_advantages(group.rewards, strategy="soft_pass_at_k", k=2))
    assert curve_of([group], "soft_pass_at_k")[1].value == pytest.approx(figures["objective/value"])


def test_advantages_of_the_objective_reach_the_engine() -> None:
    engine, figures, advantages = run(ObjectiveSettings(k=2))
    np.testing.assert_allclose(advantages, group_advantages(REWARDS, strategy="pass_at_k", k=2))
    assert engine.normaliser == 2.0 and engine.scored == 0 and not engine.options["exact_ratios"]
    assert figures["objective/value"] == pytest.approx((0.5 + 5 / 6) / 2)


def test_rewards_that_the_objective_cannot_take_name_the_key() -> None:
    groups = [GROUPS[0], graded([1, 0.5, 0, 0])]
    words = f"prompt {groups[1].prompt_id!r} has a reward of 0.5, but pass_at_k takes .* let task.reward return"
    with pytest.raises(ValueError, match=words):
        run(ObjectiveSettings(k=2), groups)
    run(ObjectiveSettings(strategy="max_at_k", k=2), groups)


def test_a_mixture_is_the_weighted_sum() -> None:
    mixture = [{"weight": 0.3, "strategy": "mean", "k": 1}]
    _, figures, advantages = run(ObjectiveSettings(weight=0.7, k=2, mixture=mixture))
    expected = 0.7 * group_advantages(REWARDS, strategy="pass_at_k", k=2)
    expected += 0.3 * group_advantages(REWARDS, strategy="mean", k=1)
    np.testing.assert_allclose(advantages, expected)
    assert figures["objective/value"] == pytest.approx(0.7 * (0.5 + 5 / 6) / 2 + 0.3 * 3 / 8)


def test_k_follows_its_schedule() -> None:
    annealed = ScheduleSettings(k=Schedule(shape="steps", at={10: 1}))
    for step, k in ((9, 2), (10, 1)):
        _, figures, advantages = run(ObjectiveSettings(k=2), step=step, schedule=annealed)
        assert figures["objective/k"] == k
        np.testing.assert_allclose(advantages, group_advantages(REWARDS, strategy="pass_at_k", k=k))


def test_k_follows_the_entropy_of_earlier_steps_also_after_a_restore() -> None:
    moves = ScheduleSettings(k_by_entropy=EntropySchedule(points=((0.2, 3), (0.8, 1)), window=2))

    def learning_step() -> LearningStep:
        objective = Objective(ObjectiveSettings(k=2))
        return LearningStep(RecordingEngine(), objective, LossSettings(), n=4, temperature=1.0, schedule=moves)

    def of_entropy(entropy: float) -> list[Group]:
        tokens = GROUPS[0].response_tokens
        return [replace(g, behaviour_logprobs=[np.full(len(t), -entropy, np.float32) for t in tokens]) for g in GROUPS]

    learner = learning_step()
    for step, (entropy, k) in enumerate([(0.3, 2), (0.1, 3), (0.9, 3), (0.1, 2)]):
        if step == 2:  # a rank that is replaced loads a checkpoint
            learner, state = learning_step(), learner.state()
            learner.restore(state)
        figures, advantages = learner.accumulate(of_entropy(entropy), step)
        assert figures["objective/k"] == k, step
        np.testing.assert_allclose(advantages, group_advantages(REWARDS, strategy="pass_at_k", k=k))
    older = learning_step()
    older.restore({})
    assert older.accumulate(of_entropy(0.9), 2)[0]["objective/k"] == 2, "a checkpoint without entropies"


def test_verifier_scores_select_and_correct_answers_vote_as_one() -> None:
    groups = [graded([0, 1, 1, 0], scores=[0.9, 0.1, 0.2, 0.3], answers=["7", "1/2", "0.5", None])]
    _, _, advantages = run(ObjectiveSettings(strategy="best_of_k", k=2), groups)
    expected = group_advantages([0, 1, 1, 0], scores=[0.9, 0.1, 0.2, 0.3], strategy="best_of_k", k=2)
    np.testing.assert_allclose(advantages[0], expected)
    votes = graded_groups(groups)
    assert votes.answers[0][1] == votes.answers[0][2] == votes.correct[0] and votes.answers[0][3] is None


def test_no_text_of_an_answer_votes_for_the_right_one() -> None:
    """One right answer against two equal wrong ones: it wins if it is drawn alone, and half of the ties."""
    for wrong in ("<right>", "right", "('right',)"):
        votes = graded_groups([graded([1, 0, 0, 0], answers=["5", wrong, wrong, None])])
        value = strategy_value(**votes.arguments(), strategy="majority_at_k", k=2)
        assert value == pytest.approx((1 + 0.5 + 0.5 + 0 + 0 + 0) / 6)


def test_a_vote_without_extracted_answers_is_refused() -> None:
    """It would be pass@k: only right answers would have votes."""
    mute = [graded([1, 0, 0, 0], answers=[None] * 4)]
    for strategy in ("majority_at_k", "weighted_vote"):
        with pytest.raises(ValueError, match=f"has no extracted answer, but {strategy} counts equal answers: let task"):
            run(ObjectiveSettings(strategy=strategy, k=2), mute)
    run(ObjectiveSettings(strategy="pass_at_k", k=2), mute)
    run(ObjectiveSettings(strategy="majority_at_k", k=2), [graded([1, 0, 0, 0], answers=["a", None, None, None])])


def test_stale_groups_use_every_members_ratio() -> None:
    """Only with off_policy: exact and stale groups; fresh groups need no second pass."""
    exact = ObjectiveSettings(k=2, off_policy="exact")
    assert run(exact)[0].scored == 0
    stale = [graded([1, 0, 0, 0], version=0)]
    lengths = [len(r) for r in stale[0].response_tokens]
    behaviour = [float(b.sum()) for b in stale[0].behaviour_logprobs]
    ratios = np.exp([-0.5 * n - b for n, b in zip(lengths, behaviour, strict=True)])
    engine, _, advantages = run(exact, stale, step=1, engine={"current": -0.5})
    assert engine.scored == 1 and engine.options["exact_ratios"]
    expected = group_advantages([1, 0, 0, 0], strategy="pass_at_k", k=2, ratios=ratios)
    np.testing.assert_allclose(advantages[0], expected, rtol=1e-5)


def test_kl_in_the_reward_has_its_own_baseline() -> None:
    loss = LossSettings(kl_coefficient=0.1, kl_placement="reward")
    _, _, advantages = run(ObjectiveSettings(k=2), loss=loss)
    kl = np.array([[0.5 * len(r) for r in group.response_tokens] for group in GROUPS])
    expected = group_advantages(REWARDS, strategy="pass_at_k", k=2)
    np.testing.assert_allclose(advantages, expected + group_advantages(-0.1 * kl, strategy="mean", k=1), rtol=1e-6)


def test_a_single_sample_has_no_kl_baseline() -> None:
    objective = ObjectiveSettings(strategy="mean", k=1, estimator="loo1")
    groups = [graded([1]), graded([0])]
    _, _, advantages = run(objective, groups, loss=LossSettings(kl_coefficient=0.1, kl_placement="reward"))
    kl = np.array([[0.5 * len(group.response_tokens[0])] for group in groups])
    np.testing.assert_allclose(advantages, [[1], [0]] - 0.1 * kl, rtol=1e-6)


class TabularEngine(RecordingEngine):
    """A softmax policy over the four answers of ``tests.learner.tabular``; a response is one token, the answer."""

    def __init__(self, reference: np.ndarray) -> None:
        super().__init__()
        self._laws = np.log(policy()), np.log(reference)

    def score(self, sequences, temperature):
        return [self._laws[0][s.response_tokens] for s in sequences]

    def score_reference(self, sequences, temperature):
        return [self._laws[1][s.response_tokens] for s in sequences]


@pytest.mark.parametrize("n", [1, 3])
def test_stale_groups_with_kl_in_the_reward_follow_the_exact_gradient(n: int) -> None:
    """Every group of an older policy: the mean update is the gradient of pass@k - c KL under the current policy."""
    behaviour, reference, coefficient, k = (
        np.array([0.4, 0.3, 0.2, 0.1]),
        np.array([0.1, 0.2, 0.3, 0.4]),
        0.3,
        min(n, 2),
    )
    answers_GN, _ = groups_of(n)
    groups = [
        replace(
            graded(BINARY[answers]),
            response_tokens=[np.array([y], np.int32) for y in answers],
            token_versions=[np.zeros(1, np.int32)] * n,
            behaviour_logprobs=[np.log(behaviour[[y]]) for y in answers],
        )
        for answers in answers_GN
    ]
    settings = ObjectiveSettings(k=k, estimator="loo" if n > k else "loo1", off_policy="exact")
    loss = LossSettings(kl_coefficient=coefficient, kl_placement="reward")
    engine = TabularEngine(reference)
    _, advantages_GN = LearningStep(engine, Objective(settings), loss, n=n, temperature=1.0).accumulate(groups, 1)
    assert engine.options["exact_ratios"]
    divergence = gradient(lambda ys: float(np.log(policy() / reference)[ys[0]]), 1)
    expected = gradient(best(BINARY, BINARY), k) - coefficient * divergence
    found = update(np.stack(advantages_GN), answers_GN, behaviour[answers_GN].prod(axis=1))
    np.testing.assert_allclose(found, expected, atol=1e-10)


def test_the_ratio_cap_holds_for_the_kl_too() -> None:
    stale = [graded([1, 0, 0, 0], version=0)]
    objective = Objective(ObjectiveSettings(k=2, off_policy="exact", ratio_cap=1.5))
    loss = LossSettings(kl_coefficient=0.1, kl_placement="reward")
    engine = RecordingEngine(current=-0.1)  # far likelier now: every ratio is capped
    _, advantages = LearningStep(engine, objective, loss, n=4, temperature=1.0).accumulate(stale, 1)
    capped = dict(ratios=[[1.5] * 4])
    kl = np.array([[1.4 * len(r) for r in stale[0].response_tokens]])
    expected = group_advantages([[1, 0, 0, 0]], strategy="pass_at_k", k=2, **capped)
    expected += group_advantages(-0.1 * kl, strategy="mean", k=1, **capped)
    np.testing.assert_allclose(advantages, expected, rtol=1e-5)


def test_the_reference_is_refreshed_on_time() -> None:
    loss = LossSettings(kl_coefficient=0.1, kl_refresh_every=5)
    assert [run(ObjectiveSettings(k=2), step=s, loss=loss)[0].refreshed for s in (0, 4, 5, 6, 10)] == [0, 0, 1, 0, 1]


def test_groups_sampled_with_other_settings_are_refused_with_key_and_remedy() -> None:
    """Groups from a checkpoint when the run is resumed with other settings: some of a step's groups, or all."""
    with pytest.raises(
        ValueError, match=r"^rollout\.temperature = 1, .* with 0\.5, 1; .*schedule\.temperature as in the run"
    ):
        run(ObjectiveSettings(k=2), [GROUPS[0], replace(GROUPS[1], temperature=0.5)])
    with pytest.raises(ValueError, match=r"^rollout\.temperature = 0\.7, .* with 1; "):
        run(ObjectiveSettings(k=2), temperature=0.7)
    with pytest.raises(ValueError, match=r"^rollout\.n = 4, .* with 3, 4; .*schedule\.n as in the run"):
        run(ObjectiveSettings(k=2), [GROUPS[0], graded([1, 0, 0])])
    with pytest.raises(ValueError, match=r"^rollout\.n = 8, but the groups of step 1 were sampled with 4; "):
        run(ObjectiveSettings(k=2), n=8)
    rounded = [replace(group, temperature=float(np.float32(0.7))) for group in GROUPS]
    run(ObjectiveSettings(k=2), rounded, temperature=0.7)


def test_the_schedules_of_n_and_temperature_say_how_a_steps_groups_were_sampled() -> None:
    moves = ScheduleSettings(n=Schedule(shape="steps", at={10: 4}), temperature=Schedule(shape="steps", at={10: 1.0}))
    run(ObjectiveSettings(k=2), step=10, n=8, temperature=0.5, schedule=moves)
    with pytest.raises(ValueError, match=r"^rollout\.n = 8 \(changed by schedule\.n\), but"):
        run(ObjectiveSettings(k=2), step=9, n=8, temperature=0.5, schedule=moves)
    with pytest.raises(ValueError, match=r"^rollout\.temperature = 0\.5 \(changed by schedule\.temperature\), but"):
        run(
            ObjectiveSettings(k=2),
            step=9,
            n=4,
            temperature=0.5,
            schedule=ScheduleSettings(temperature=moves.temperature),
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(strategy="majority_at_k", off_policy="exact", k=2), "off_policy: exact has no form"),
        (dict(strategy="mean", k=1, estimator="passk_training"), "is defined for strategy pass_at_k"),
        (dict(mixture=[{"strategy": "mean", "k": 4}]), "set k = 1"),
    ],
)
def test_objectives_that_cannot_work_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ObjectiveSettings(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(behaviour_cap=2.0), "behaviour_cap needs ratio: decoupled"),
        (dict(kl_estimator="k1"), "k1 has no gradient as a loss"),
        (dict(kl_placement="reward", kl_estimator="k2"), "in the reward the KL is estimated by k1"),
        (dict(ratio="decoupled", dual_clip=3.0), "dual_clip has no effect"),
    ],
)
def test_losses_that_cannot_work_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LossSettings(**settings)


def test_groups_of_unequal_size_are_trained_as_each_alone() -> None:
    """Under rollout.allocation the gradient is the mean over groups, each with its own size."""
    groups = [graded([1, 0, 0, 0]), graded([1, 0, 1]), graded([0, 1, 1, 0]), graded([0, 1, 0, 0, 0])]
    objective = Objective(ObjectiveSettings(k=2, off_policy="exact"))
    more = {"loss": LossSettings(kl_coefficient=0.1, kl_placement="reward"), "engine": {"current": -0.5}, "step": 1}
    engine, figures, advantages = run(objective.settings, groups, allocation=AllocationSettings(max_n=5), **more)
    alone = [run(objective.settings, [group], **more) for group in groups]
    for found, (_, _, expected) in zip(advantages, alone, strict=True):
        np.testing.assert_array_equal(found, expected[0])
    assert figures["objective/value"] == pytest.approx(np.mean([one["objective/value"] for _, one, _ in alone]))
    assert engine.normaliser == 4.0
    row = group_metrics(groups, advantages, 1)
    assert (row["groups/samples_min"], row["groups/samples_max"], row["pass_at_k/1"]) == (3, 5, row["reward/mean"])
    assert row["reward/mean"] == pytest.approx((1 / 4 + 2 / 3 + 2 / 4 + 1 / 5) / 4)
    with pytest.raises(ValueError, match=r"rollout\.allocation allows groups of 3 to 4 samples, but there is one of 5"):
        run(objective.settings, groups, allocation=AllocationSettings(max_n=4), **more)


def test_an_importance_weight_multiplies_the_gradient_of_its_group() -> None:
    """Under rollout.allocation.candidates: also the KL part, and the weight in the means of the metrics."""
    groups = [graded([1, 0, 0, 0]), graded([1, 0, 1, 1])]
    more = {"loss": LossSettings(kl_coefficient=0.1, kl_placement="reward"), "engine": {"current": -0.5}, "step": 1}
    settings = ObjectiveSettings(k=2)
    _, plain, equal = run(settings, groups, **more)
    weighted = [replace(groups[0], weight=0.5), replace(groups[1], weight=3.0)]
    engine, figures, advantages = run(settings, weighted, **more)
    np.testing.assert_array_equal(advantages, [0.5 * equal[0], 3.0 * equal[1]])
    assert engine.normaliser == 2.0, "the mean of the weights is 1 in expectation only"
    values = [run(settings, [group], **more)[1]["objective/value"] for group in groups]
    assert figures["objective/value"] == pytest.approx((0.5 * values[0] + 3 * values[1]) / 3.5)
    assert plain["objective/value"] == pytest.approx(np.mean(values))
    row = group_metrics(weighted, advantages, 1)
    assert row["groups/weight_max"] == 3.0
    assert row["reward/mean"] == row["pass_at_k/1"] == pytest.approx((0.5 * 0.25 + 3 * 0.75) / 3.5)


def test_imitation_adds_the_expert_with_ratio_one() -> None:
    """One demonstration a group, advantage 1; samples of plain imitation carry none, those of BoN-SFT do."""
    expert = np.array([4, 5, 2], np.int32)
    groups = [replace(g, demonstration_tokens=expert, demonstration_score=1.0) for g in GROUPS]
    for imitation in ("sft", "bon_sft"):
        engine = RecordingEngine(current=-0.25)
        objective = Objective(ObjectiveSettings(k=2, imitation=imitation))
        _, advantages = LearningStep(engine, objective, LossSettings(), n=4, temperature=1.0).accumulate(groups, 0)
        demonstrations = engine.sequences[8:]
        assert [s.advantage for s in demonstrations] == [1.0, 1.0] and engine.normaliser == 2.0
        assert all((s.behaviour_logprobs == -0.25).all() and not s.fresh | s.sampled for s in demonstrations)
        assert all(s.sampled for s in engine.sequences[:8])
        assert np.any(advantages) == (imitation == "bon_sft")
    other = Objective(ObjectiveSettings(k=2, imitation="bon_sft", bon_sft_form="variational"))
    _, tilted = LearningStep(engine, other, LossSettings(), n=4, temperature=1.0).accumulate(groups, 0)
    np.testing.assert_array_equal(tilted, bon_sft_advantages(np.array(REWARDS), np.ones(2), 2, 0.01, "variational"))
    assert np.abs(np.array(tilted) - advantages).max() > 0.01
    beyond = Objective(ObjectiveSettings(k=32, imitation="bon_sft"))  # Best-of-32 from groups of four
    figures, advantages = LearningStep(RecordingEngine(), beyond, LossSettings(), n=4, temperature=1.0).accumulate(
        groups, 0
    )
    assert np.any(advantages) and "objective/value" not in figures
    with pytest.raises(ValueError, match="needs a demonstration for each prompt"):
        LearningStep(RecordingEngine(), objective, LossSettings(), n=4, temperature=1.0).accumulate(GROUPS, 0)


def test_agreement_is_measured_on_probes_of_the_step_s_own_version_only():
    """With stale groups, or samples that crossed an update, a wrong update looks the same as an old policy."""
    step = LearningStep(
        RecordingEngine(current=-1.0), Objective(ObjectiveSettings()), LossSettings(), n=4, temperature=1.0
    )
    probe = graded([1, 0, 0, 0], version=3)
    off = [np.full(len(tokens), -1.25, np.float32) for tokens in probe.response_tokens]
    probe = replace(probe, behaviour_logprobs=off)
    assert step.agreement([probe], 3) == pytest.approx({"logprob_gap/mean": 0.25, "logprob_gap/max": 0.25})
    assert step.agreement([probe], 4) == {}
    with pytest.raises(ValueError, match=r"^rollout\.temperature = 1, .* with 0\.5;"):
        step.agreement([replace(probe, temperature=0.5)], 3)
    crossed = replace(probe, token_versions=[np.append(v[:-1], np.int32(4)) for v in probe.token_versions])
    assert step.agreement([crossed], 3) == step.agreement([crossed], 4) == {}


@pytest.mark.parametrize("changes", [{"top_p": 0.9}, {"top_k": 5}, {"min_p": 0.1}])
def test_groups_of_a_restricted_distribution_are_refused(changes):
    with pytest.raises(ValueError, match="log-probabilities of a restricted distribution"):
        run(ObjectiveSettings(k=2), [replace(GROUPS[0], **changes), GROUPS[1]])
