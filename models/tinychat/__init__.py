"""A small causal language model that read Python's own documentation, its teacher, and its prompts."""
