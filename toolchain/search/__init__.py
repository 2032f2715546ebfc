"""The search for variants: `variants: auto` in a recipe.

candidates   what the recipe's formats and model allow
trials       each candidate quantized and evaluated, by the steps that a build takes
choose       which are kept, in which order, and why the others are not
front        the Pareto front that this rests on
resolve      the recipe with its variants: from the lock file, or from a search that writes it
"""
