"""Training and distillation: what the steps tokenizer, train-… and model-<m> know.

losses, hidden      what is minimised: pure functions; hidden states by forward hooks
loop, checkpoints   how: one loop for every kind of model, which goes on where it was killed
machine, processes  on what: one CPU thread, a GPU, or one process a GPU through accelerate
run_rows, run_text, run_language   one run each: one model, one seed, alone or distilled
gain                what distilling gained, judged over seeds
"""
