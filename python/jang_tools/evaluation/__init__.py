"""How much of a model is lost: divergence from a reference on text, and tasks with answers.

``jang_tools.evaluate`` is the function over it, ``jang eval`` the command.
"""
