"""``predict`` is a = d(pi(f(o))) and nothing else."""

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.vec_env import DummyVecEnv
from toys import N_ACTIONS, ActionPictureEnv, picture, tiny_model


@pytest.fixture(scope="module")
def model():
    return tiny_model()


OBSERVATION = picture(1, 3, 0)  # (H, W, C)


@pytest.mark.parametrize("channels_first", [False, True])
@pytest.mark.parametrize("trained_channels_first", [False, True])
@pytest.mark.parametrize(("batch", "shape"), [(None, ()), (1, (1,)), (5, (5,))])
@pytest.mark.parametrize("deterministic", [False, True])
def test_predict_gives_an_action_for_each_observation(channels_first, trained_channels_first, batch, shape, deterministic):
    model = tiny_model(ActionPictureEnv(channels_first=trained_channels_first))
    observation = OBSERVATION.transpose(2, 0, 1) if channels_first else OBSERVATION
    observation = observation if batch is None else np.stack([observation] * batch)
    actions, state = model.predict(observation, deterministic=deterministic)
    assert actions.shape == shape
    assert state is None
    assert model.action_space.contains(np.int64(np.ravel(actions)[0]))


def test_channels_first_and_last_are_the_same_picture(model):
    actions = [model.predict(o, deterministic=True)[0] for o in (OBSERVATION, OBSERVATION.transpose(2, 0, 1))]
    assert actions[0] == actions[1]


def test_the_deterministic_action_repeats_itself(model):
    assert len({int(model.predict(OBSERVATION, deterministic=True)[0]) for _ in range(20)}) == 1


def test_the_deterministic_action_is_the_likeliest(model):
    model = tiny_model()
    model.policy.action_decoder[-1].bias.data = th.tensor([0.0, 9.0, 0.0])
    assert model.predict(OBSERVATION, deterministic=True)[0] == 1


def test_sampled_actions_follow_the_softmax():
    model = tiny_model()
    logits = th.tensor([0.0, 1.0, 2.0])
    model.policy.action_decoder[-1].weight.data.zero_()
    model.policy.action_decoder[-1].bias.data = logits
    th.manual_seed(0)
    actions, _ = model.predict(np.stack([OBSERVATION] * 4000), deterministic=False)
    assert np.bincount(actions, minlength=N_ACTIONS) / 4000 == pytest.approx(logits.softmax(0).numpy(), abs=0.03)


class Forbidden(th.nn.Module):
    def forward(self, *args):
        raise AssertionError("predict must not come here")


def test_predict_uses_encoder_latent_policy_and_decoder_only():
    model = tiny_model()
    expected = model.predict(OBSERVATION, deterministic=True)[0]
    model.policy.idm, model.policy.world_model = Forbidden(), Forbidden()
    assert model.predict(OBSERVATION, deterministic=True)[0] == expected


@pytest.mark.parametrize("network", ["encoder", "latent_policy_average", "action_decoder"])
def test_predict_uses_each_of_them(network):
    model = tiny_model()
    setattr(model.policy, network, Forbidden())
    with pytest.raises(AssertionError, match="must not come here"):
        model.predict(OBSERVATION)


def test_forward_is_the_prediction(model):
    observation = th.as_tensor(OBSERVATION.transpose(2, 0, 1).copy())[None]
    assert model.policy(observation, deterministic=True) == model.policy._predict(observation, deterministic=True)


@pytest.mark.parametrize("policy_tau", [1.0, 0.5])
def test_the_decoder_meets_what_the_latent_policy_that_acts_says(policy_tau):
    model = tiny_model(policy_tau=policy_tau).learn(20)
    policy, met = model.policy, []
    policy.latent_mean.fill_(5.0)  # pi has learned standardized latent actions: nothing is left to standardize
    policy.action_decoder.register_forward_pre_hook(lambda module, inputs: met.append(inputs[0]))
    observation = th.as_tensor(OBSERVATION.transpose(2, 0, 1).copy())[None]
    policy._predict(observation)
    assert th.equal(met[0], policy.latent_policy_average(policy.encode(observation)))


def test_predict_with_the_observations_of_a_vector(model):
    env = DummyVecEnv([ActionPictureEnv] * 4)
    assert model.predict(env.reset())[0].shape == (4,)


def test_an_observation_of_another_size_is_refused(model):
    with pytest.raises(ValueError, match="shape"):
        model.predict(np.zeros((20, 20, 3), np.uint8))
