from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pages import fetch, first_layers

from hf_selfattn import SelfAttnForSequenceClassification, SelfAttnForTokenClassification

LENGTH = 8192


@pytest.mark.slow
@pytest.mark.parametrize("model_class", [SelfAttnForSequenceClassification, SelfAttnForTokenClassification])
def test_every_token_of_8192_reaches_the_heads_of_minilm(model_class: type, tmp_path: Path) -> None:
    fetch("minilm")
    model = model_class.from_backbone(first_layers(tmp_path), num_labels=3)
    assert model.config.subsequence_length == 512
    words = torch.randint(1000, model.config.vocab_size, (1, LENGTH - 2))
    input_ids = torch.cat([torch.tensor([[101]]), words, torch.tensor([[102]])], dim=1)
    embeddings = model.get_input_embeddings()(input_ids).detach().requires_grad_()
    # Embeddings do not tell which tokens go on with a word, so a tagger is told.
    is_tagger = isinstance(model, SelfAttnForTokenClassification)
    words = {"word_starts": torch.ones_like(input_ids)} if is_tagger else {}
    logits = model(inputs_embeds=embeddings, **words).logits
    torch.testing.assert_close(logits, model(input_ids, **words).logits, atol=1e-5, rtol=0)
    logits[0].float().logsumexp(-1).sum().backward()
    reached = embeddings.grad[0].abs().amax(dim=-1) > 0
    assert bool(reached.all()), f"{int((~reached).sum())} of {LENGTH} tokens reach no logit"
