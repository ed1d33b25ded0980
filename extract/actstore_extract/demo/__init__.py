"""Three tiny models trained on scanned digits: they load, run and can be measured in seconds on a CPU.

`digits-fusion` reads discrete image tokens (Chameleon), `digits-mapped` a linear map of CLIP patches into a frozen
language model (CLIP + Gemma-2, with sparse autoencoders), `digits-gated` is an instrument check: a fusion model whose
text cannot see the image except through the end-of-image token. Each folder's `card.json` says what was measured.
"""
