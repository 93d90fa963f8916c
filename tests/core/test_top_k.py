"""Top-k: maps that keep their k largest shares, on experts without a host."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from afa_core.fusion.fusion import FusionState, blend
from afa_core.fusion.lockstep import lockstep
from afa_core.fusion.sabw_fusion import SABWFusion
from afa_core.fusion.top_k import largest
from tests.core.test_fusion import POINTS, tiny_aggregator, tiny_state, toy_stream, toy_weights


@given(st.integers(2, 6), st.integers(1, 7), st.integers(0, 10**6))
def test_the_k_largest_share_everything_in_their_proportions(n, k, seed):
    logits = 3 * torch.randn(2, n, 4, 3, generator=torch.Generator().manual_seed(seed))
    shares, kept = logits.softmax(1), largest(logits, k).softmax(1)
    assert ((kept > 0).sum(1) == min(k, n)).all()
    winners = shares * (shares >= shares.topk(min(k, n), dim=1).values[:, -1:])
    torch.testing.assert_close(kept, winners / winners.sum(1, keepdim=True))


def test_equal_shares_stay_together():
    assert torch.equal(largest(torch.zeros(1, 3, 2, 2), 1).softmax(1), torch.full((1, 3, 2, 2), 1 / 3))


def test_one_is_the_winner_to_the_bit():
    features = [torch.randn(2, 4, 5, 3) for _ in range(3)]
    logits = torch.randn(2, 3, 5, 3)
    fused, _ = blend(features, largest(logits, 1))
    winner = logits.argmax(1)
    for k, feature in enumerate(features):
        chosen = (winner == k)[:, None].expand_as(feature)
        assert torch.equal(fused[chosen], feature[chosen])


def test_all_of_them_is_the_plain_aggregator():
    torch.manual_seed(0)
    aggregator, experts, state = tiny_aggregator(), [toy_weights() for _ in range(2)], tiny_state()

    def predicted(fusion):
        fresh = FusionState(state.embeddings)
        return lockstep([toy_stream(weights) for weights in experts], POINTS, fusion, fresh)

    expected = predicted(SABWFusion(aggregator))
    assert torch.equal(predicted(SABWFusion(aggregator, top_k=2)), expected)
    assert not torch.equal(predicted(SABWFusion(aggregator, top_k=1)), expected)
