"""`edgeops new`: a commented recipe from a model, and from a data file if there is one.

look     what kind of model it is, from headers and configurations; no weights are read
data     what a data file's rows look like: shape, columns, bounds
write    the recipe's text, with every choice explained
"""
